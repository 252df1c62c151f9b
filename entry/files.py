"""Outputs that are never half written, and digests of what was read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entry.errors import UserError

KEY_LENGTH = 24
"""Characters of a name made by :func:`content_key`."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file or folder to; renamed to ``path`` when the block ends well.

    When the block raises, what was written is removed and ``path`` is as it was.

    Raises:
        UserError: the folder of ``path`` cannot be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made ({error.strerror}); choose another output path") from error
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old.tmp")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another output path") from error
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def content_key(**parts: object) -> str:
    """A file name that stands for the content it was made from: a digest of plain values and digests."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names, in hexadecimal.

    Raises:
        UserError: the path cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            whole = hashlib.sha256()
            for inner in sorted(p for p in path.rglob("*") if p.is_file()):
                whole.update(f"{inner.relative_to(path).as_posix()}\0{file_digest(inner)}\n".encode())
            return whole.hexdigest()
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
