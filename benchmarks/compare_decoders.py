"""Decoders and their options compared on the same scored boxes, and what the proposals could give at best.

    python benchmarks/compare_decoders.py --known TABLE --rows 400 --apart 1000

``TABLE`` has target structures (``one_idx``). The rows are sampled at random from transcripts that have none of the rows which
``evaluate -P max_rows=APART -P seed=0`` samples. Prints Markdown: F1 of base pairs and share of exact structures, over rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.energies.ensemble import stem_pairs
from rna_s2.pipeline.open_models import SHIPPED_S2, ModelOptions, open_models
from rna_s2.pipeline.structure_prediction import PipelineOptions
from rna_s2.pruning.rules import prune
from rna_s2.rna.boxes import STEM, is_in
from rna_s2.rna.pairs import as_pairs
from rna_s2.s1.predict import with_proposals
from rna_s2.structures.candidates import DecodeOptions, log_odds
from rna_s2.structures.compare import compare_many
from rna_s2.structures.decode import decode_batch
from rna_s2.structures.pairing import base_pair_probabilities, least_energy, maximum_expected_accuracy

THRESHOLDS, GAMMAS = (0.1, 0.25, 0.5), (1.0, 2.0)
EVIDENCE = {0.0: (0.0, 0.1, 0.3, 1.0), 0.02: (0.05, 0.1, 0.2, 0.3, 0.5)}
"""Weights of the evidence by the probability of pairs that were not proposed."""


def rows_apart(table: BoxTable, rows: int, apart: int) -> np.ndarray:
    """``(rows,)`` rows of transcripts without a row among the ``apart`` that ``evaluate`` samples with seed 0; 0: all rows."""
    if not rows:
        return np.arange(table.rows)
    sampled = np.sort(np.random.default_rng(0).choice(table.rows, apart, replace=False)) if apart else np.zeros(0, np.int64)
    names = table.frame["transcript_id"].to_numpy()
    left = np.flatnonzero(~np.isin(names, names[sampled]))
    return np.sort(np.random.default_rng(1).choice(left, min(rows, len(left)), replace=False))


def decoded(table: BoxTable, scores: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each setting, and the pairs of every row."""
    boxes, lengths, seqs = table.proposals, table.lengths, table.frame["seq"].tolist()
    for threshold in THRESHOLDS:
        found = decode_batch(boxes, log_odds(scores), lengths, DecodeOptions(threshold=threshold))
        yield f"exact, threshold {threshold}", [d.pairs for d in found]
    pairing = [base_pair_probabilities(boxes, scores, int(n), row=row) for row, n in enumerate(lengths)]
    for gamma in GAMMAS:
        yield f"mea, gamma {gamma}", [maximum_expected_accuracy(p, s, gamma)[0] for p, s in zip(pairing, seqs, strict=True)]
    for unproposed, weights in EVIDENCE.items():
        for evidence in weights:
            name = f"energy, unproposed {unproposed}, evidence {evidence}"
            yield name, [least_energy(p, s, evidence, unproposed) for p, s in zip(pairing, seqs, strict=True)]


def main() -> None:
    """Propose, score, decode in every way, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", required=True)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--apart", type=int, default=0)
    parser.add_argument("--min_support", type=float, default=PipelineOptions().selection.min_support)
    parser.add_argument("--s2_model", default=SHIPPED_S2)
    arguments = parser.parse_args()
    models, options = open_models(ModelOptions(s2_model=arguments.s2_model))
    table = read_table(arguments.known, require_proposals=False).table
    table = table.take_rows(rows_apart(table, arguments.rows, arguments.apart))
    selection = options.selection.model_copy(update={"min_support": arguments.min_support})
    table = prune(with_proposals(table, models.s1, selection, options.inference), options.pruning).table
    known = [as_pairs(*cell, length=len(seq)) for cell, seq in zip(table.frame["one_idx"], table.frame["seq"], strict=True)]

    proposed, offsets = stem_pairs(table.proposals, table.lengths)
    rows = [set(map(tuple, proposed[offsets[r] : offsets[r + 1]].tolist())) for r in range(table.rows)]
    held = sum(tuple(pair) in row for row, pairs in zip(rows, known, strict=True) for pair in pairs.tolist())
    stems = table.targets.select(table.targets.type == STEM)
    whole = np.bincount(stems.row[~is_in(stems, table.proposals)], minlength=table.rows) == 0
    print(f"{table.rows} rows, {len(table.proposals) / table.rows:.0f} boxes per row. Proposed stems hold "
          f"{100 * held / sum(map(len, known)):.1f} % of the pairs; every stem is proposed exactly in "
          f"{100 * whole.mean():.1f} % of the rows.\n")
    print("| decoder | F1 | exact |\n| --- | ---: | ---: |")
    for name, found in decoded(table, np.concatenate(models.s2.score_table(table))):
        f1 = compare_many(found, known, table.lengths.tolist(), 0)["f1"].mean()
        exact = np.mean([np.array_equal(a, b) for a, b in zip(found, known, strict=True)])
        print(f"| {name} | {f1:.3f} | {100 * exact:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
