"""The command ``segments``: a table of sequences with structures, from transcripts or from known structures."""

from rna_s2.commands import main_in_run
from rna_s2.options.command_line import Command
from rna_s2.options.errors import run_command
from rna_s2.pipeline.steps.segments import SegmentsOptions, check_segments_paths, run_segments

COMMAND = Command(
    "segments", SegmentsOptions,
    "Cut segments from transcripts and fold them, or read known structures, into a table for stage 1."
)
main = main_in_run(COMMAND, run_segments, "transcripts", "structures", check=check_segments_paths)

if __name__ == "__main__":
    raise SystemExit(run_command(main))
