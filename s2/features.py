"""From a pruned table to what stage 2 is trained on or scores: features (:mod:`rna_s2.s2.feature_groups`), bases and labels,
computed over a whole table at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from rna_s2.boxtables.sensitivity import box_sensitivity
from rna_s2.boxtables.table import BoxTable
from rna_s2.engine.processes import default_workers
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_TYPES, ILOOP, STEM, Boxes, is_in, ragged_positions
from rna_s2.rna.sequence import BASES, N_CODE, encode_many
from rna_s2.s2.dataset import DatasetMeta, EncodedDataset, counts_of
from rna_s2.s2.feature_groups import KINDS, NEEDS, BoxContext, Kind, compute_columns
from rna_s2.s2.groups import row_groups

SEQUENCE_CHANNELS: dict[str, int] = {"stem": 8, "iloop": 5, "hloop": 4}
"""Channels of the bases of a box, by type (:func:`box_bases`)."""

_ONE_HOT = np.eye(len(BASES), N_CODE, dtype=np.uint8)  # N, the last code, is all zeros
_PAIR_ONE_HOT = np.concatenate(  # row 5 * a + b: base a, then base b
    [np.repeat(_ONE_HOT, len(BASES), axis=0), np.tile(_ONE_HOT, (len(BASES), 1))], axis=1
)
_LOOP_ONE_HOT = np.concatenate(  # row a, or 5 + a for a closing base
    [np.tile(_ONE_HOT, (2, 1)), np.repeat(np.eye(2, dtype=np.uint8)[:, 1:], len(BASES), axis=0)], axis=1
)


def featurize(table: BoxTable, kind: Kind, *, keep_partial: bool = False, seed: int = 0) -> EncodedDataset:
    """The training data of one kind from a pruned table.

    A label is 1 where the box stands identically (type, corner, size) in the target structure. Rows without a box have
    nothing to label: they are left out and counted.

    Args:
        table: a pruned table with targets.
        kind: which features.
        keep_partial: keep rows with target boxes that are not among the proposals.
        seed: of the permutation of the kinds with shuffled labels.

    Raises:
        UserError: the table has no targets; a box has no features of this kind (:func:`encode_boxes`).
    """
    sensitivity = box_sensitivity(table)
    if sensitivity is None:
        raise UserError(
            f"{table.source}: has neither bounding_boxes nor df_target, so that no box can be labelled; "
            "give a table with target structures"
        )
    has_boxes = np.diff(table.proposals.offsets) > 0
    rows = np.flatnonzero(has_boxes & (sensitivity.full | keep_partial))
    kept = table.take_rows(rows)
    assert kept.targets is not None
    labels = is_in(kept.proposals, kept.targets)
    if KINDS[kind].shuffled:
        labels = shuffle_within_rows(labels, kept.proposals.row, seed)
    transcript_id = kept.frame["transcript_id"] if "transcript_id" in kept.frame else None
    origin = {
        "rows_read": table.rows, "rows_full_sensitivity": int(np.count_nonzero(sensitivity.full)),
        "rows_without_boxes": int(np.count_nonzero(~has_boxes)), "seed": seed, "keep_partial": keep_partial,
    }
    group = row_groups(kept.frame["seq"].tolist(), transcript_id)
    return _encode(kept, kind, labels, rows, group, sensitivity.n_target[rows], origin, workers=default_workers())


def encode_boxes(table: BoxTable, kind: Kind, used: Collection[str] | None = None) -> EncodedDataset:
    """The features of every box of every row, for scoring: no row is left out, all labels are 0, each row is a group.

    Args:
        table: a pruned table.
        kind: which features.
        used: names of the columns that are used; None: all. Expensive groups without one of them are NaN.

    Raises:
        UserError: a box has no features of this kind: one that covers no cell has no ``s1_features``, and for
            ``sequence_encoding`` and ``relational`` a box must lie in the map and a stem must be square.
    """
    rows, nothing = np.arange(table.rows), np.zeros(table.rows, np.int64)
    origin = {"rows_read": table.rows, "rows_full_sensitivity": 0, "labelled": False, "keep_partial": True}
    return _encode(table, kind, np.zeros(len(table.proposals), bool), rows, rows, nothing, origin, used)


def require_pruned(table: BoxTable) -> None:
    """Refuse boxes that run out of the map, which pruning drops.

    Raises:
        UserError: there is one; names the first.
    """
    _require("map", table, np.arange(table.rows))


def _encode(
    table: BoxTable, kind: Kind, labels: np.ndarray, source_row: np.ndarray, group: np.ndarray, n_target: np.ndarray,
    origin: dict[str, Any], used: Collection[str] | None = None, workers: int = 1,
) -> EncodedDataset:
    boxes, what = table.proposals, KINDS[kind]
    for need in what.needs:
        _require(need, table, source_row)
    features = compute_columns(BoxContext(table, workers), kind, what.columns if used is None else used)
    bases, sequences = np.zeros(0, np.uint8), {}
    if what.bases != "none":
        codes, starts = encode_many(table.frame["seq"].tolist())
        if what.bases == "sequences":
            bases = codes
        else:
            sequences = {name: box_bases(boxes, code, codes, starts[:-1]) for code, name in enumerate(BOX_TYPES)}
    box_labels = labels.astype(np.uint8)
    return EncodedDataset(
        meta=DatasetMeta(
            kind=kind, feature_names=what.columns, sequence_channels=SEQUENCE_CHANNELS if sequences else {},
            source=table.source, source_digest=table.digest, **origin, **counts_of(boxes.type, box_labels, table.rows),
        ),
        offsets=boxes.offsets, features=features, box_type=boxes.type, labels=box_labels,
        source_row=source_row.astype(np.int64), group=group.astype(np.int64),
        seq_length=table.lengths.astype(np.int32), n_target=n_target.astype(np.int32), bases=bases,
        seq_values={name: values for name, (values, _) in sequences.items()},
        seq_offsets={name: offsets for name, (_, offsets) in sequences.items()},
    )


def _require(need: str, table: BoxTable, source_row: np.ndarray) -> None:
    """Raise a UserError that names the first box which is not what it must be."""
    check, complaint = NEEDS[need]
    fine = check(table.proposals, table.lengths)
    if fine.all():
        return
    boxes, box = table.proposals, int(np.argmin(fine))
    row = int(boxes.row[box])
    raise UserError(
        f"{table.source}, row {source_row[row]} (index {table.frame.index[row]}): the {BOX_TYPES[boxes.type[box]]} "
        f"bb_x={boxes.bb_x[box]} bb_y={boxes.bb_y[box]} siz_x={boxes.siz_x[box]} siz_y={boxes.siz_y[box]} {complaint} "
        f"({np.count_nonzero(~fine)} such boxes); prune the table first, with discard_ns_stem"
    )


def box_bases(boxes: Boxes, code: int, bases: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bases of all boxes of one type as one-hot sequences (A C G T; N is all zeros), one after the other.

    ===========  ================  ==================================================================================
    type         length            channels
    ===========  ================  ==================================================================================
    stem         ``siz_x``         8: the base of the 5' strand, then its partner
    iloop        ``siz_x+siz_y``   5: the 5' strand from ``bb_x`` to ``bb_x+siz_x-1``, then the 3' strand from ``bb_y``
                                   down to ``bb_y-siz_y+1``, both from outside in; the fifth is 1 at the four closing
                                   bases, the first and the last of each strand
    hloop        ``siz_x``         4: from ``bb_x`` to its pairing partner
    ===========  ================  ==================================================================================

    Args:
        boxes: the boxes of all rows, in the map; stems square.
        code: the type.
        bases: base codes of all sequences, one after the other.
        starts: ``(rows,)`` where each sequence starts in ``bases``.

    Returns:
        ``(positions, channels)`` uint8, and ``(boxes of the type + 1,)`` int64 offsets; boxes in table order.
    """
    of_type = np.flatnonzero(boxes.type == code)
    siz_x, siz_y = boxes.siz_x[of_type], boxes.siz_y[of_type]
    lengths = siz_x + siz_y if code == ILOOP else siz_x
    start = starts[boxes.row[of_type]]
    five_prime, three_prime = start + boxes.bb_x[of_type], start + boxes.bb_y[of_type]
    box, k = ragged_positions(lengths)
    if code == STEM:
        index = len(BASES) * bases[five_prime[box] + k] + bases[three_prime[box] - k]
        values = _PAIR_ONE_HOT[index]
    elif code == ILOOP:
        on_five_prime = k < siz_x[box]
        depth = np.where(on_five_prime, k, k - siz_x[box])  # bases from the outer pair
        base = bases[np.where(on_five_prime, five_prime[box] + depth, three_prime[box] - depth)]
        closing = (depth == 0) | (depth == np.where(on_five_prime, siz_x[box], siz_y[box]) - 1)
        values = _LOOP_ONE_HOT[base + len(BASES) * closing]
    else:
        values = _ONE_HOT[bases[five_prime[box] + k]]
    return values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def shuffle_within_rows(labels: np.ndarray, row: np.ndarray, seed: int) -> np.ndarray:
    """Labels permuted within each row, every permutation of a row equally likely.

    Each box gets a number, ``np.random.default_rng(seed).random(boxes)`` in table order; the boxes of a row take its
    labels in the order of their numbers.

    Args:
        labels: ``(boxes,)``.
        row: ``(boxes,)``, rising.
        seed: of the permutation.
    """
    number = np.random.default_rng(seed).random(len(labels))
    return labels[np.lexsort((number, row))]
