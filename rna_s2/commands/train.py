"""The command ``train``: from a config file to a trained, tracked and registered S2 model."""

from __future__ import annotations

from collections.abc import Mapping

from rna_s2.commands import main_of
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.options.places import in_project
from rna_s2.pipeline.train_config import TrainConfig
from rna_s2.pipeline.train_s2 import config_of_run, run_train


def find_config(given: Mapping[str, str]) -> str:
    """The config of the run to resume, else the default one."""
    return config_of_run(given["resume"]) if given["resume"] else in_project("configs/baseline.yaml")


COMMAND = Command(
    "train", TrainConfig, "Train a stage 2 network on the rows that a config file names, and register it.",
    config="", find_config=find_config,
    instead={"in_file": ["data.transcripts"], "transcripts": ["data.in_file"]},
)
main = main_of(COMMAND, run_train)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
