"""The command ``sample``: the repository's own S1 table, from the transcripts and the network in ``data/``."""

from __future__ import annotations

from rna_s2.commands import main_in_run
from rna_s2.engine.tracker import Tracker
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.sample import SampleOptions, SampleReport, check_sample_paths, run_sample

COMMAND = Command("sample", SampleOptions, "Make the sample from transcripts and the network.")


def work(options: SampleOptions, tracker: Tracker) -> SampleReport:
    """Makes the sample, each step in a child run."""
    from rna_s2.tracking.runs import child_runs  # here: its import takes seconds

    return run_sample(options, tracker, child_runs(tracker.run_id))


main = main_in_run(COMMAND, work, "out_file", check=check_sample_paths)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
