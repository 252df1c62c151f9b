"""The command ``featurize``: encode the boxes of a pruned table as training data."""

from __future__ import annotations

from rna_s2.commands import main_in_run
from rna_s2.engine.tracker import Tracker
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.featurize import FeaturizeOptions, log_encoded, run_featurize
from rna_s2.s2.dataset import EncodedDataset

COMMAND = Command("featurize", FeaturizeOptions, "Encode the boxes of a pruned table as training data.")


def work(options: FeaturizeOptions, tracker: Tracker) -> EncodedDataset:
    """Encodes, and says what came of it."""
    data = run_featurize(options, tracker)
    log_encoded(data, options.out_file)
    return data


main = main_in_run(COMMAND, work, "kind", "in_file", kept="dataset")

if __name__ == "__main__":
    raise SystemExit(run_command(main))
