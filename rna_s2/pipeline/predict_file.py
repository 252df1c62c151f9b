"""From a FASTA file to secondary structures, drawings, and a page that shows them."""

from __future__ import annotations

import csv
import json
import logging
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from tqdm import tqdm

from rna_s2.engine.tracker import Tracker, timed
from rna_s2.fitting.devices import chosen_device
from rna_s2.options.command_line import shown
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path, check_folder, file_digest
from rna_s2.options.tracked import TrackedOptions
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.parallel_prediction import predict_on, workers_for
from rna_s2.pipeline.structure_prediction import PipelineOptions
from rna_s2.reports.prediction_page import Page, map_svg, structure_svg
from rna_s2.rna import formats
from rna_s2.rna.boxes import BOX_TYPES
from rna_s2.structures.prediction import Failure, Prediction

logger = logging.getLogger(__name__)

STRUCTURES, ALTERNATIVES, FAILURES, PAGE = "structures.fa", "alternatives.csv", "failures.csv", "index.html"
BOXES, BASE_PAIRS, ABOUT = "boxes.parquet", "base_pairs.parquet", "prediction.json"
DRAWINGS, MAPS, CT, BPSEQ = "svg", "map", "ct", "bpseq"
WRITTEN = {STRUCTURES, ALTERNATIVES, FAILURES, PAGE, BOXES, BASE_PAIRS, ABOUT, DRAWINGS, MAPS, CT, BPSEQ}
"""All names that a prediction's folder may hold."""

FORMAT = "rna-s2 prediction, version 1"

BOX_SCHEMA = pa.schema([
    ("name", pa.string()), ("type", pa.string()), *((c, pa.int32()) for c in ("bb_x", "bb_y", "siz_x", "siz_y")),
    ("probability", pa.float64()), ("chosen", pa.bool_()),
])
PAIR_SCHEMA = pa.schema([("name", pa.string()), ("i", pa.int32()), ("j", pa.int32()), ("probability", pa.float64())])
ROWS_AT_A_TIME = 100_000
"""Rows of a Parquet file that are held back, to be written together."""

FILE_NAME_LENGTH = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


class PredictOptions(TrackedOptions, ModelOptions):
    """What to predict, with which models, and what to write."""

    chain: PipelineOptions = Field(PipelineOptions(), description="how sequences become structures", json_schema_extra=shown())
    sequences: str = Field(description="FASTA file, plain or gzip")
    out_dir: str = Field(description="folder to write; an earlier prediction there is replaced")
    drawings: int = Field(
        200, ge=0, description="sequences that are drawn and shown on the page, at most: the first ones; 0 draws none"
    )
    ct: bool = Field(False, description="write each structure as a CT file as well")
    bpseq: bool = Field(False, description="write each structure as a BPSEQ file as well")
    workers: int = Field(
        0, ge=0, description="processes to predict on, of one thread each; 1: this one with all threads; 0: one per core where"
        " there is work for them; the result does not depend on it"
    )


@dataclass(frozen=True)
class PredictReport:
    """What the command made in a folder: for how many sequences, and why not for the others.

    Attributes:
        seconds: wall seconds of reading, of the whole prediction with writing and drawing, of these two; and the seconds of
            each part of the prediction, summed over processes.
        boxes_left_out: proposals beyond ``max_boxes``, which stage 2 did not see.
    """

    folder: Path
    predicted: int
    failures: list[Failure]
    seconds: dict[str, float]
    boxes_left_out: int = 0


def file_name(name: str, given: set[str]) -> str:
    """A file name made of a sequence's name: safe on every system, and not in ``given``, whatever its case; it is added there.

    It is of letters, digits and ``._+-``, at most :data:`FILE_NAME_LENGTH` long.
    """
    safe = _UNSAFE.sub("_", name).strip("._")[:FILE_NAME_LENGTH] or "sequence"
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    unique, number = safe, 1
    while unique.lower() in given:
        number += 1
        unique = f"{safe[: FILE_NAME_LENGTH - len(str(number)) - 1]}_{number}"
    given.add(unique.lower())
    return unique


class _ParquetRows:
    """A Parquet file that is written a part at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")
        self.schema = schema
        self.waiting: list[pa.Table] = []
        self.rows = 0

    def add(self, name: str, *columns: np.ndarray) -> None:
        """The rows of one sequence: its name, and an array for each other column of the schema."""
        self.waiting.append(pa.table([pa.repeat(name, len(columns[0])), *columns], schema=self.schema))
        self.rows += len(columns[0])
        if self.rows >= ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.concat_tables(self.waiting))
        self.waiting, self.rows = [], 0

    def close(self) -> None:
        self.flush()
        self.writer.close()


class Writer:
    """Writes predictions to an empty folder as they come, and what the options want beside what always is."""

    def __init__(self, folder: Path, options: PredictOptions, stack: ExitStack) -> None:
        self.folder = folder
        self.options = options
        self.names: set[str] = set()
        self.page = Page(f"Structures of {Path(options.sequences).name}", options.drawings)
        self.predicted = 0
        self.failures: list[Failure] = []
        self.boxes_left_out = 0
        self.structures = stack.enter_context((folder / STRUCTURES).open("w", encoding="utf-8"))
        self.rejects = csv.writer(stack.enter_context((folder / FAILURES).open("w", encoding="utf-8", newline="")))
        self.rejects.writerow(["name", "line", "reason"])
        self.alternatives = None
        if options.chain.k > 1:
            stream = stack.enter_context((folder / ALTERNATIVES).open("w", encoding="utf-8", newline=""))
            self.alternatives = csv.writer(stream)
            self.alternatives.writerow(["name", "rank", "structure", "free_energy", "score", "confidence"])
        self.boxes = stack.enter_context(closing(_ParquetRows(folder / BOXES, BOX_SCHEMA)))
        self.pairs = stack.enter_context(closing(_ParquetRows(folder / BASE_PAIRS, PAIR_SCHEMA)))

    def add(self, prediction: Prediction) -> None:
        """Write all about one sequence."""
        best, boxes, pairing = prediction.best, prediction.boxes, prediction.pairing
        self.predicted += 1
        self.boxes_left_out += prediction.boxes_left_out
        if prediction.boxes_left_out:
            logger.warning(
                "'%s': %d of its %d proposals were not scored, those of the lowest probability (max_boxes %d)", prediction.name,
                prediction.boxes_left_out, prediction.boxes_left_out + len(boxes), self.options.chain.max_boxes,
            )
        record = formats.StructureRecord(prediction.name, prediction.seq, best.pairs, "", best.energy)
        header, rest = formats.format_dot_bracket([record]).split("\n", 1)
        self.structures.write(f"{header} confidence={best.confidence:.3f}\n{rest}")
        self.boxes.add(
            prediction.name, np.array(BOX_TYPES, object)[boxes.type], boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y,
            prediction.probability, prediction.chosen,
        )
        self.pairs.add(prediction.name, pairing.i, pairing.j, pairing.p)
        if self.alternatives:
            self.alternatives.writerows(
                [prediction.name, rank, prediction.dot_bracket(rank - 1), round(s.energy, 2), round(s.score, 4),
                 round(s.confidence, 4)]
                for rank, s in enumerate(prediction.structures, start=1)
            )
        stem = file_name(prediction.name, self.names)
        for name, wanted in ((CT, self.options.ct), (BPSEQ, self.options.bpseq)):
            if wanted:
                self._write(name, f"{stem}.{name}", formats.STRUCTURE_FORMATS[name].write([record]))
        drawings: list[str] = []
        if self.page.wants():
            drawings = [structure_svg(prediction), map_svg(prediction)]
            for place, drawing in zip((DRAWINGS, MAPS), drawings, strict=True):
                self._write(place, f"{stem}.svg", drawing)
        self.page.add(prediction, drawings)

    def fail(self, failure: Failure, line: int | str = "") -> None:
        """Note a sequence that has no prediction, and the line of the file where it begins, as far as known."""
        self.failures.append(failure)
        self.rejects.writerow([failure.name, line, failure.reason])
        self.page.fail(failure)

    def finish(self, digest: str, seconds: float) -> None:
        """Write the page and what the prediction is of; ``digest`` is that of the sequences' file."""
        options = self.options
        models = {"model": options.model} if options.model else {"stage 1": options.s1_model, "stage 2": options.s2_model}
        facts = {
            "sequences": options.sequences,
            "SHA-256": digest,
            **models,
            "decoder": options.chain.chosen_decoder,
            "predicted": str(self.predicted),
            "left out": str(len(self.failures)),
            "proposals beyond max_boxes, not scored": str(self.boxes_left_out),
            "seconds": f"{seconds:.2f}",
        }
        (self.folder / PAGE).write_text(self.page.html(list(facts.items())), encoding="utf-8")
        about = {"format": FORMAT, **facts}
        (self.folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def _write(self, place: str, name: str, text: str) -> None:
        folder = self.folder / place
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def check_out_dir(path: str) -> Path:
    """:func:`rna_s2.options.files.check_folder` of a prediction."""
    return check_folder(path, "prediction", lambda folder: (folder / ABOUT).is_file(), WRITTEN)


def read_records(path: str) -> formats.Sequences:
    """The records of a FASTA file.

    Raises:
        UserError: it cannot be read, or holds no record.
    """
    try:
        found = formats.read_fasta(path)
    except formats.FileError as error:
        raise UserError(f"{error}; give a FASTA file") from error
    if not found.records:
        first = f" (line {found.rejected[0].line}: {found.rejected[0].reason})" if found.rejected else ""
        raise UserError(f"{path}: has no sequence that can be used{first}; give a FASTA file")
    return found


def run_predict(options: PredictOptions, tracker: Tracker) -> PredictReport:
    """Predict the structures of a file's sequences, write the folder, and log what was done.

    Raises:
        UserError: the file, a model or the folder cannot be used, or no sequence could be predicted.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        found = read_records(options.sequences)
        digest = file_digest(options.sequences)
    models, chain = open_models(options)
    options = options.model_copy(update={"chain": chain})
    tracker.params(options.model_dump(mode="json", exclude={"experiment"}))
    profile = {"records": len(found.records), "rejected": len(found.rejected)}
    tracker.dataset(Path(options.sequences).name, digest, options.sequences, "predict", profile)
    with atomic_path(check_out_dir(options.out_dir)) as folder:
        folder.mkdir()
        with ExitStack() as stack:
            writer = Writer(folder, options, stack)
            for reject in found.rejected:
                writer.fail(Failure(reject.name, reject.reason), reject.line)
            workers = workers_for(found.records, options.workers, chosen_device(chain.inference.device))
            results = predict_on(workers, found.records, models, chain, seconds)
            with timed(seconds, "predict"):
                for result in tqdm(results, desc="predict", unit=" sequences", total=len(found.records), disable=None):
                    with timed(seconds, "write"):
                        (writer.add if isinstance(result, Prediction) else writer.fail)(result)
        with timed(seconds, "write"):
            writer.finish(digest, seconds["predict"])
    report = PredictReport(Path(options.out_dir), writer.predicted, writer.failures, seconds, writer.boxes_left_out)
    _log(options, report, tracker)
    if not report.predicted:
        raise UserError(f"{options.sequences}: no sequence could be predicted; the reasons are in {report.folder / FAILURES}")
    return report


def _log(options: PredictOptions, report: PredictReport, tracker: Tracker) -> None:
    for name in sorted(path.name for path in report.folder.iterdir()):
        tracker.artifact(report.folder / name)
    rate = report.predicted / max(report.seconds["predict"], 1e-9)
    tracker.metrics({
        "count.predicted": report.predicted,
        "count.failures": len(report.failures),
        "count.boxes_left_out": report.boxes_left_out,
        "sequences_per_second": rate,
        **{f"seconds.{name}": value for name, value in report.seconds.items()},
    })
    for failure in report.failures[:10]:
        logger.warning("%s: '%s' left out: %s", options.sequences, failure.name, failure.reason)
    logger.info(
        "%s: %d structures, %d sequences left out; %.1f sequences per second, drawing and writing included",
        report.folder, report.predicted, len(report.failures), rate,
    )
