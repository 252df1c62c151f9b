"""Sends what a run kept while its tracking server was away: ``python -m rna_s2.commands.resend FILE``."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient

from rna_s2.options.errors import UserError
from rna_s2.tracking.client import STORE_ERRORS, open_client, store_error
from rna_s2.tracking.runs import RESUMED_AT, perform, write_unsent

logger = logging.getLogger(__name__)


def resend(path: Path) -> int:
    """Sends the entries of a file that :class:`rna_s2.tracking.runs.MlflowTracker` left, and removes it.

    Where the server goes away again in between, the file keeps what is still to be sent. How the run ended is not sent where it
    has been resumed since: that is for the later part to say. A file whose copy is gone is named in the log.

    Returns:
        Number of entries sent.

    Raises:
        UserError: the file cannot be read, or the store cannot be reached or refuses an entry.
    """
    try:
        head, *actions = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        run_id = head["run_id"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the file that the run named") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a file of unsent entries; give the .jsonl file that the run named") from error
    client = open_client()
    sent = 0
    for done, action in enumerate(actions):
        try:
            if action["action"] == "artifact" and not Path(action["path"]).exists():
                logger.error("%s: is gone and cannot be sent", action["path"])
                continue
            if action["action"] == "end" and _resumed_at(client, run_id) > action["timestamp"]:
                logger.info("run %s was resumed since; it keeps its status", run_id)
                continue
            perform(client, run_id, action)
            sent += 1
        except STORE_ERRORS as error:
            write_unsent(path, run_id, actions[done:])
            raise store_error(error) from error
    path.unlink()
    shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)
    return sent


def _resumed_at(client: MlflowClient, run_id: str) -> int:
    """When a run was gone on with last, in milliseconds since 1970; 0 for never."""
    return int(client.get_run(run_id).data.tags.get(RESUMED_AT, 0))
