"""Inputs that are given as a URL."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rna_s2.options.errors import UserError

URL_SCHEMES = ("http", "https", "ftp")
URL_TIMEOUT_SECONDS = 30


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """A local path of ``source``: the path itself, or a temporary file with what a URL holds, kept for the block.

    Raises:
        UserError: the URL cannot be fetched whole.
    """
    address = urllib.parse.urlsplit(source)
    if address.scheme not in URL_SCHEMES:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (Path(address.path).name or "download")
        try:
            with urllib.request.urlopen(source, timeout=URL_TIMEOUT_SECONDS) as response, path.open("wb") as stream:
                shutil.copyfileobj(response, stream)
                promised = response.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            raise UserError(f"{source}: the server answers {error.code} {error.reason}; check the address") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"{source}: cannot be fetched ({reason}); check the address and the connection") from error
        received = path.stat().st_size
        if promised is not None and promised.isdigit() and int(promised) != received:
            raise UserError(f"{source}: the connection broke after {received} of {promised} bytes; try again")
        yield path
