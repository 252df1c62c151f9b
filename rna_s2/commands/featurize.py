"""The command ``featurize``: encode the boxes of a pruned table as training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rna_s2.options.command_line import Command, parse
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.featurize import FeaturizeOptions, log_encoded, run_featurize
from rna_s2.s2.dataset import EncodedDataset
from rna_s2.tracking.names import run_name

COMMAND = Command("featurize", FeaturizeOptions, "Encode the boxes of a pruned table as training data.")


def main(argv: Sequence[str] | None = None) -> EncodedDataset:
    """Runs the command."""
    options = parse(COMMAND, argv)
    from rna_s2.tracking.runs import start_run  # here: its import takes seconds

    name = run_name(COMMAND.name, options.kind, Path(options.in_file))
    with start_run(COMMAND.name, name, experiment=options.experiment) as tracker:
        data = run_featurize(options, tracker)
        tracker.artifact(Path(options.out_file), "dataset")
    log_encoded(data, options.out_file)
    return data


if __name__ == "__main__":
    raise SystemExit(run_command(main))
