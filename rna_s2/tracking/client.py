"""The connection to the tracking store: opened once, checked at once, and every failure in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from rna_s2.options.errors import UserError

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)
"""What MLflow raises when a store cannot be used (``requests`` errors are ``OSError``)."""

_OUTAGE_CODES = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ENDPOINT_NOT_FOUND",
    }
)
_PROBE_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_RUN_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one for each of hundreds of small files else
}
_LOCK_SECONDS = 120


def open_client() -> MlflowClient:
    """A client of the tracking store that ``MLFLOW_TRACKING_URI`` names (else MLflow's default, ``mlflow.db`` here).

    The store is reached once, so that one that is not there is an error now and not after hours. A fresh SQLite store is
    made first, under a file lock: several processes that meet an empty database break each other's migrations. Requests
    to a server are tried three times for at most 30 s each, where the environment does not say otherwise.

    Raises:
        UserError: the store cannot be reached or used; within some 15 seconds.
    """
    for talkative in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        uri = mlflow.get_tracking_uri()
        with _first_use(uri), _environment_defaults(_PROBE_SETTINGS):
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except STORE_ERRORS as error:
        raise store_error(error) from error
    except (ImportError, ValueError) as error:  # no driver for the database; no address
        raise UserError(
            f"the tracking store that MLFLOW_TRACKING_URI names cannot be used ({error}); mend it or install what it needs"
        ) from error
    except Timeout as error:
        raise UserError(
            f"tracking store {shown_uri(uri)}: another process has been setting it up for {_LOCK_SECONDS} s; "
            f"end that process or remove {error.lock_file}"
        ) from error
    for name, value in _RUN_SETTINGS.items():
        os.environ.setdefault(name, value)
    return client


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Holds a lock beside the file of a SQLite store while it is opened for the first time."""
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    if not database or database == ":memory:":
        yield
        return
    if Path(database).exists() and not Path(f"{database}.lock").exists():
        yield
        return
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock", timeout=_LOCK_SECONDS)
    with lock:
        yield
        Path(f"{database}.lock").unlink(missing_ok=True)


@contextmanager
def _environment_defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the length of a block, where they are not set already."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def newest_runs(client: MlflowClient, experiment_id: str, wanted: str, page_size: int = 1000) -> Iterator[Run]:
    """All runs of an experiment that a filter lets through, the newest first, however many there are.

    Raises:
        MlflowException, SQLAlchemyError, OSError: the store cannot be reached, or refuses the filter.
    """
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], wanted, max_results=page_size, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the store cannot be reached now, rather than that the request is wrong."""
    if isinstance(error, MlflowException):
        return error.error_code in _OUTAGE_CODES
    return isinstance(error, STORE_ERRORS)


def store_error(error: BaseException) -> UserError:
    """What a failure of the store means to the user, in one line."""
    uri = mlflow.get_tracking_uri()
    text = " ".join(str(getattr(error, "message", "") or error).replace(uri, shown_uri(uri)).split())
    reason = text if len(text) <= 200 else f"{text[:200]}..."
    where = f"tracking store {shown_uri(uri)}"
    if is_outage(error):
        return UserError(f"{where}: cannot be reached ({reason}); start it, or set MLFLOW_TRACKING_URI to another")
    return UserError(f"{where}: refuses the request ({reason})")


def shown_uri(uri: str) -> str:
    """A store's address without its password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
