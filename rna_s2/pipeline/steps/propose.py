"""The step ``propose``: an S1 prediction table from sequences, with a trained stage 1 network."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from pydantic import Field
from tqdm import tqdm

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES, check_table_path, write_table
from rna_s2.engine.tracker import StartRun, Tracker, timed, untracked
from rna_s2.fitting.devices import chosen_device, warn_of_slow
from rna_s2.options.base import check_outputs
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.options.places import ProjectPath
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import SHIPPED_S1, model_folder, open_network
from rna_s2.pipeline.steps.outputs import CachedStep, keep_rejects, make_or_find, rejects_path
from rna_s2.rna.boxes import Boxes
from rna_s2.rna.formats import FileError, read_fasta
from rna_s2.rna.sequence import mask_ambiguous
from rna_s2.s1.model import MODEL_FILE, WEIGHTS_FILE, load_network
from rna_s2.s1.predict import with_proposals
from rna_s2.s1.selection import InferenceOptions, SelectionOptions
from rna_s2.tracking.names import run_name

logger = logging.getLogger(__name__)

PROPOSE = CachedStep("propose", version=2, folder="proposed", suffix=PARQUET_SUFFIX, libraries=("numpy", "torch"))
TABLE_SUFFIXES = (PARQUET_SUFFIX, *PICKLE_SUFFIXES)


class ProposeOptions(TrackedOptions, SelectionOptions, InferenceOptions):
    """What to propose boxes for, and with which network."""

    in_file: str = Field(description="a table with the column seq (.parquet, .pkl, .pkl.gz), or FASTA, plain or gzip")
    out_file: str = Field(description="the table to write (.parquet, .pkl, .pkl.gz); rejects go to a CSV beside it")
    model: ProjectPath = Field(
        SHIPPED_S1, min_length=1, description="folder of a trained network, or models:/NAME of the registry"
    )


@dataclass(frozen=True)
class ProposeResult:
    """What the command makes: the input's rows with proposals, and the rows and records left out."""

    table: BoxTable
    rejects: pd.DataFrame


def read_sequences(path: str) -> tuple[BoxTable, pd.DataFrame]:
    """A table, or the records of a FASTA file as one (columns ``id`` and ``seq``, ambiguity codes as N); and what was left out.

    Raises:
        UserError: the file cannot be read, or has nothing that can be used.
    """
    if path.endswith(TABLE_SUFFIXES):
        read = read_table(path, require_targets=False, require_proposals=False)
        table, rejects = read.table, read.rejects
    else:
        try:
            records, rejected = read_fasta(Path(path))
        except FileError as error:
            raise UserError(f"{error}; check the file") from error
        columns = {"id": [r.name for r in records], "seq": [mask_ambiguous(r.seq) for r in records]}
        frame = pd.DataFrame({name: pd.Series(texts, dtype="str") for name, texts in columns.items()})
        nothing = (Boxes.empty(len(frame)), None, Ragged.empty(0), Ragged.empty(0))
        table = BoxTable(frame, *nothing, source=path, digest=file_digest(path))
        rejects = pd.DataFrame(
            [(r.line, r.name, "sequence", r.reason) for r in rejected], columns=["row", "index", "column", "reason"]
        )
    if not table.rows:
        first = f" (the first is {rejects.iloc[0]['index']}: {rejects.iloc[0]['reason']})" if len(rejects) else ""
        raise UserError(f"{path}: has no sequence that can be used{first}")
    return table, rejects


def run_propose(options: ProposeOptions, tracker: Tracker) -> ProposeResult:
    """Propose boxes for every sequence, write the table, and log what was done.

    Raises:
        UserError: the input, the network or the output path cannot be used.
    """
    check_propose_paths(options)
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}))
    warn_of_slow(options.precision, chosen_device(options.device))
    network = open_network(options.model)
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        table, rejects = read_sequences(options.in_file)
    tracker.dataset(Path(options.in_file).name, table.digest, options.in_file, PROPOSE.name, {"rows": table.rows})
    if len(rejects):
        first = rejects.iloc[0]
        logger.warning(
            "%s: %d left out, the first is %s (%s); all are listed in %s",
            options.in_file, len(rejects), first["index"], first["reason"], rejects_path(options.out_file),
        )
    keep_rejects(rejects, rejects_path(options.out_file), tracker, "rejects")
    bar = partial(tqdm, desc=PROPOSE.name, unit=" batches", disable=None)
    table = with_proposals(table, network, options, options, seconds, bar)
    with timed(seconds, "write"):
        write_table(table, options.out_file)
    tracker.tags({"digest.out_file": file_digest(options.out_file)})
    boxes_per_row = len(table.proposals) / table.rows
    tracker.metrics({"count.rows": table.rows, "count.rejects": len(rejects), "boxes_per_row": boxes_per_row})
    tracker.metrics({f"seconds.{name}": value for name, value in seconds.items()})
    logger.info(
        "%s: %d rows, %.1f boxes per row; %.1f s network, %.1f s proposals",
        options.out_file, table.rows, boxes_per_row, seconds["network"], seconds["proposals"],
    )
    return ProposeResult(table, rejects)


def check_propose_paths(options: ProposeOptions) -> None:
    """To be called before any work.

    Raises:
        UserError: an output is a folder or an input, or has a name that says no table format.
    """
    check_outputs({"out_file": options.out_file}, {"in_file": options.in_file})
    rejects = rejects_path(check_table_path(options.out_file))
    check_outputs({"the rejects of out_file": rejects}, {"in_file": options.in_file})


def proposals_file(segments: Path, model: str, selection: SelectionOptions, cache_dir: str, step: StartRun = untracked) -> Path:
    """The S1 table of a table of sequences: what the network in ``model`` proposes; made now or found in the cache.

    Raises:
        UserError: the table or the network cannot be used.
    """
    with model_folder(model) as folder:
        load_network(folder)  # says what is wrong with it, before anything is made
        path = PROPOSE.path(
            cache_dir, source=file_digest(segments),
            network=[file_digest(folder / name) for name in (WEIGHTS_FILE, MODEL_FILE)], **selection.model_dump(mode="json"),
        )
        with step("propose", run_name("propose", segments)) as tracker:
            options = ProposeOptions(in_file=str(segments), out_file=str(path), model=str(folder), **selection.model_dump())
            make_or_find(path, tracker, lambda: run_propose(options, tracker))
    return path
