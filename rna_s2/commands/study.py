"""The command ``study``: a suite of trainings and scorers as child runs of one run, and what they say together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse_with_config
from rna_s2.options.errors import run_command
from rna_s2.pipeline.study import StudyReport, run_study
from rna_s2.pipeline.study_config import StudyConfig
from rna_s2.reports.study_table import markdown

logger = logging.getLogger(__name__)

COMMAND = Command(
    "study", StudyConfig, "Run a suite of trainings and scorers, and report what they say together.",
    config="configs/study_baseline.yaml",
)


def main(argv: Sequence[str] | None = None) -> StudyReport:
    """Runs the command."""
    study, source = parse_with_config(COMMAND, argv)
    result = run_study(study, Path(source))
    logger.info("%s\nstudy.csv and study.md in run %s", markdown(result.table), result.run_id)
    return result


if __name__ == "__main__":
    raise SystemExit(run_command(main))
