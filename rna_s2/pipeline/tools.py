"""Tools that predict secondary structures: this project, and other programs where they are installed.

RNAfold is ViennaRNA, which the project has anyway; the other programs are never needed. They are called as their
documentation says, with their default settings, one sequence at a time. None of their code is part of this project; mind
their licences.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rna_s2.options.errors import UserError
from rna_s2.pipeline.structure_prediction import Models, PipelineOptions, failure_reason, predict_each
from rna_s2.reports.evaluation import RNAFOLD
from rna_s2.rna.formats import SequenceRecord, StructureRecord
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.rna.sequence import decode, encode
from rna_s2.structures.prediction import Failure

ToolName = Literal["SQUARNA", "pylinearfold", "MXfold2", "EternaFold", "CONTRAfold", "sincFold"]
TOOL_NAMES: tuple[ToolName, ...] = get_args(ToolName)

OURS = "rna-s2"
"""What this project's predictions are called in tables and plots."""

ETERNAFOLD_HOME = "ETERNAFOLD_HOME"
"""Environment variable that names the folder where EternaFold was compiled: its program is CONTRAfold's, with other
parameters."""

PROGRAM_SECONDS = 3600
"""A program that takes longer for one sequence is stopped."""

_STRUCTURE = re.compile(r"[().\[\]{}<>]+")


@dataclass(frozen=True)
class Tool:
    """A program that predicts structures.

    Attributes:
        name: as it is called in tables and plots.
        absent: why it cannot be used here; empty where it can.
        fold: dot-bracket of an RNA sequence (capital letters A, C, G, U, N).
    """

    name: str
    absent: str
    fold: Callable[[str], str]

    def pairs(self, seq: str) -> np.ndarray:
        """``(k, 2)`` int32 base pairs of a sequence.

        Raises:
            UserError: the program fails, or its output is no structure of the sequence's length.
            ValueError: a character outside the alphabet.
        """
        structure = self.fold(decode(encode(seq), rna=True))
        if len(structure) != len(seq):
            raise UserError(f"{self.name}: gives a structure of {len(structure)} characters for {len(seq)} bases")
        try:
            return from_dot_bracket(structure)
        except ValueError as error:
            raise UserError(f"{self.name}: gives no structure: {error}") from error


def _library(name: str, module: str, package: str, fold: Callable[[Any, str], str]) -> Tool:
    """A tool that is a Python module of others: whatever it raises is a failure of that tool."""

    def guarded(seq: str) -> str:
        try:
            return fold(import_module(module), seq)
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"{name}: fails with {type(error).__name__}: {error}") from error

    return Tool(name, "" if importlib.util.find_spec(module) else f"not installed (pip install {package})", guarded)


def rnafold() -> Tool:
    """ViennaRNA's minimum free energy structure at its default parameters."""
    return _library(RNAFOLD, "RNA", "ViennaRNA", lambda library, seq: library.fold_compound(seq).mfe()[0])


def tool(name: ToolName) -> Tool:
    """One of :data:`TOOL_NAMES`."""
    return _TOOLS[name]()


def last_structure(text: str, length: int) -> str:
    """The last word of a program's output that is a dot-bracket of ``length`` characters; empty where there is none."""
    words = [word for word in text.split() if len(word) == length and _STRUCTURE.fullmatch(word)]
    return words[-1] if words else ""


def _squarna(library: Any, seq: str) -> str:
    out = io.StringIO()
    library.Predict(inputseq=seq, threads=1, toplim=1, outplim=1, write_to=out)
    return last_structure(out.getvalue(), len(seq))


def _program(name: str, program: str, arguments: Callable[[str, Path], list[str]], absent: str = "") -> Tool:
    """A tool that is a program: ``arguments`` are those for a sequence and a FASTA file that holds it."""

    def fold(seq: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sequence.fa"
            path.write_text(f">sequence\n{seq}\n", encoding="ascii")
            command = [program, *arguments(seq, path)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", timeout=PROGRAM_SECONDS, cwd=folder,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise UserError(f"{name}: {program} cannot be run ({error})") from error
        structure = last_structure(done.stdout, len(seq))
        if done.returncode or not structure:
            said = (done.stderr.strip().splitlines() or ["no structure in its output"])[-1]
            raise UserError(f"{name}: {program} ends with status {done.returncode}: {said}")
        return structure

    if not absent and shutil.which(program) is None:
        absent = f"not installed (no program {program} on PATH)"
    return Tool(name, absent, fold)


def _eternafold() -> Tool:
    home = os.environ.get(ETERNAFOLD_HOME, "")
    parameters = Path(home) / "parameters" / "EternaFoldParams.v1"
    absent = "" if home else f"not installed (the environment variable {ETERNAFOLD_HOME} names no folder)"
    return _program(
        "EternaFold", str(Path(home) / "src" / "contrafold"),
        lambda seq, path: ["predict", str(path), "--params", str(parameters)], absent,
    )


_TOOLS: dict[ToolName, Callable[[], Tool]] = {
    "SQUARNA": lambda: _library("SQUARNA", "SQUARNA", "SQUARNA", _squarna),
    "pylinearfold": lambda: _library(
        "pylinearfold", "pylinearfold", "pylinearfold", lambda library, seq: library.fold(seq)["structure"]
    ),
    "MXfold2": lambda: _program("MXfold2", "mxfold2", lambda seq, path: ["predict", str(path)]),
    "EternaFold": _eternafold,
    "CONTRAfold": lambda: _program("CONTRAfold", "contrafold", lambda seq, path: ["predict", str(path)]),
    "sincFold": lambda: _program("sincFold", "sincFold", lambda seq, path: ["pred", seq]),
}


def own_tool(models: Models, options: PipelineOptions) -> Tool:
    """This project as one tool among others: a sequence at a time, so that the seconds can be compared."""

    def fold(seq: str) -> str:
        result = next(predict_each([SequenceRecord("sequence", seq)], models, options))
        if isinstance(result, Failure):
            raise UserError(result.reason)
        return result.dot_bracket()

    return Tool(OURS, "", fold)


def fold_all(
    known: Sequence[StructureRecord], tools: Sequence[Tool], progress: Callable[[Iterator], Iterator]
) -> tuple[dict[str, dict[int, tuple[np.ndarray, float]]], list[tuple[str, str, str]]]:
    """Every structure's sequence folded by every tool. ``progress`` wraps the stream of tools and structures.

    Returns:
        By tool, base pairs and seconds by number of the structure, without a tool that folded none; and the failures:
        tool, name of the structure, reason.
    """
    folded: dict[str, dict[int, tuple[np.ndarray, float]]] = {}
    failures = []
    warm: set[str] = set()
    for each, n in progress(product(tools, range(len(known)))):
        try:
            if each.name not in warm:  # what is loaded with the first sequence is not part of a sequence's time
                warm.add(each.name)
                each.pairs(known[n].seq)
            start = time.perf_counter()
            pairs = each.pairs(known[n].seq)
            folded.setdefault(each.name, {})[n] = (pairs, time.perf_counter() - start)
        except Exception as error:
            reason = failure_reason(error)
            if not reason:
                raise
            failures.append((each.name, known[n].name, reason))
    return folded, failures
