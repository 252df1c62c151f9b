"""One module for each entry point of MLproject, named as it is (``compare`` is ``main``).

A command parses its options, opens its run and calls one function of a library room. No other room imports from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rna_s2.options.command_line import Command, Model, parse
from rna_s2.tracking.names import run_name

if TYPE_CHECKING:  # MLflow takes seconds to import
    from rna_s2.tracking.runs import MlflowTracker

Result = TypeVar("Result")


def main_of(command: Command[Model], work: Callable[[Model], Result]) -> Callable[..., Result]:
    """The ``main`` of a command, from its arguments (those of the process, where none are given) to what ``work`` returns."""

    def main(argv: Sequence[str] | None = None) -> Result:
        return work(parse(command, argv))

    return main


def main_in_run(
    command: Command[Model], work: Callable[[Model, MlflowTracker], Result], *subject: str,
    check: Callable[[Model], object] = lambda options: None, kept: str = "",
) -> Callable[..., Result]:
    """The ``main`` of a command that has a run of its own.

    Args:
        command: what it takes, ``experiment`` among it.
        work: does it, in the run.
        subject: the options whose words and paths name the run.
        check: refuses options before there is a run.
        kept: folder of the run's artifacts that gets ``out_file``; empty for none.
    """

    def in_run(options: Model) -> Result:
        check(options)
        from rna_s2.tracking.runs import start_run  # here: its import takes seconds

        given = vars(options)
        name = run_name(command.name, *(Path(given[option]) for option in subject))
        with start_run(command.name, name, experiment=given["experiment"]) as tracker:
            result = work(options, tracker)
            if kept:
                tracker.artifact(Path(given["out_file"]), kept)
        return result

    return main_of(command, in_run)
