"""The connection to the tracking store: opened once, checked at once, and every failure in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from rna_s2.engine.processes import environment
from rna_s2.options.errors import UserError

STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)
"""What MLflow raises when a store cannot be used (``requests`` errors are ``OSError``)."""

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Codes of the errors of MLflow that say that there is nothing of a name or an id."""

_OUTAGE_CODES = (
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "ENDPOINT_NOT_FOUND",
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
        tight = {name: value for name, value in _PROBE_SETTINGS.items() if name not in os.environ}
        with store_errors(), _first_use(uri), environment(tight):
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except (ImportError, ValueError) as error:  # no driver for the database; no address
        raise UserError(
            f"the tracking store that MLFLOW_TRACKING_URI names cannot be used ({error}); mend it or install what it needs"
        ) from error
    for name, value in _RUN_SETTINGS.items():
        os.environ.setdefault(name, value)
    return client


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Holds a lock beside the file of a SQLite store while it is opened for the first time."""
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    lock = Path(f"{database}.lock")
    if not database or database == ":memory:" or (Path(database).exists() and not lock.exists()):
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
            lock.unlink(missing_ok=True)
    except Timeout as error:
        raise UserError(
            f"tracking store {shown_uri(uri)}: another process has been setting it up for {_LOCK_SECONDS} s; "
            f"end that process or remove {error.lock_file}"
        ) from error


@contextmanager
def store_errors() -> Iterator[None]:
    """What the store raises in the block becomes a :class:`UserError`: it cannot be reached, or refuses the request."""
    try:
        yield
    except STORE_ERRORS as error:
        raise store_error(error) from error


@contextmanager
def tracking_store() -> Iterator[MlflowClient]:
    """A client by :func:`open_client`, in whose block :func:`store_errors` holds."""
    client = open_client()
    with store_errors():
        yield client


def all_pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """What a search of a client finds, however many pages that has.

    Raises:
        MlflowException, SQLAlchemyError, OSError: the store cannot be reached, or refuses the search.
    """
    token: str | None = ""
    while token is not None:
        page = search(*arguments, **options, page_token=token or None)
        yield from page
        token = page.token or None


def newest_runs(client: MlflowClient, experiment_id: str, wanted: str, page_size: int = 1000) -> Iterator[Run]:
    """All runs of an experiment that a filter lets through, the newest first. Raises as :func:`all_pages` does."""
    order = ["attributes.start_time DESC"]
    return all_pages(client.search_runs, [experiment_id], wanted, max_results=page_size, order_by=order)


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the store cannot be reached now, rather than that the request is wrong."""
    return error.error_code in _OUTAGE_CODES if isinstance(error, MlflowException) else isinstance(error, STORE_ERRORS)


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
