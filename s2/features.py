"""What stage 2 sees of each proposed box: kinds of features, computed over a whole table at once.

============================  =====================================================================================
``baseline``                  :data:`GEOMETRY`: one-hot type, corner, size
``s1_features``               :data:`GEOMETRY` and :data:`CONFIDENCES`: what S1 said about the box
``sequence_encoding``         :data:`GEOMETRY`, and the bases of the box as a one-hot sequence (:func:`box_bases`)
``shuffle_label``             ``baseline`` with the labels permuted within each row (:func:`shuffle_within_rows`)
``relational``                :data:`GEOMETRY`, :data:`CONFIDENCES`, the box's energy (:mod:`rna_s2.energies.boxes`), what the
                              other boxes say about it (:mod:`rna_s2.s2.neighbours`), how likely it is in the ensemble of what
                              the row's stems can form (:mod:`rna_s2.energies.ensemble`), and the whole sequence; the
                              configuration says which of them are used
``relational_shuffle_label``  ``relational`` with the labels permuted within each row
============================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from rna_s2.boxtables.sensitivity import box_sensitivity
from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.energies.boxes import box_energies, end_energies
from rna_s2.energies.ensemble import ENSEMBLE, box_probabilities
from rna_s2.engine.processes import default_workers
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_TYPES, ILOOP, STEM, Boxes, inside_map, is_in, ragged_positions
from rna_s2.rna.sequence import BASES, N_CODE, encode_many
from rna_s2.s2.dataset import SHUFFLED_KINDS, WHOLE_SEQUENCE_KINDS, DatasetMeta, EncodedDataset, Kind, counts_of
from rna_s2.s2.groups import row_groups
from rna_s2.s2.neighbours import CHAINS, COUNTS, chain_energies, neighbour_counts

GEOMETRY: tuple[str, ...] = (*(f"type_{name}" for name in BOX_TYPES), "bb_x", "bb_y", "siz_x", "siz_y")
"""Names of the features that say which box it is: one-hot type, top-right corner (0-based), size in bases."""

CONFIDENCES: tuple[str, ...] = ("prob_sm_median", "prob_sm_per_cell", "prob_sl_median", "prob_sl_per_cell")
"""Names of the features that say what S1 thought of it. For the softmax (``sm``) and the scalar (``sl``) size output:
the median probability of the pixels that propose the box, and how many these are over the cells that it covers."""

ENERGY: tuple[str, ...] = ("energy", "end_energy")
"""Names of the features that are a box's own free energy and what a stem's outer end adds (:mod:`rna_s2.energies.boxes`), kcal/mol, no
more than :data:`HIGHEST_ENERGY`."""

HIGHEST_ENERGY = 30.0
"""kcal/mol; stands for everything above it and for what cannot form, in energies of boxes and of chains."""

_RELATIONAL = GEOMETRY + CONFIDENCES + ENERGY + COUNTS + CHAINS + ENSEMBLE

FEATURE_NAMES: dict[Kind, tuple[str, ...]] = {
    "baseline": GEOMETRY,
    "s1_features": GEOMETRY + CONFIDENCES,
    "sequence_encoding": GEOMETRY,
    "shuffle_label": GEOMETRY,
    "relational": _RELATIONAL,
    "relational_shuffle_label": _RELATIONAL,
}
"""Names of the features of each kind, in the order of the columns."""

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
    if kind in SHUFFLED_KINDS:
        labels = shuffle_within_rows(labels, kept.proposals.row, seed)
    transcript_id = kept.frame["transcript_id"] if "transcript_id" in kept.frame else None
    return _encode(
        kept,
        kind,
        labels=labels,
        source_row=rows,
        group=row_groups(kept.frame["seq"].tolist(), transcript_id),
        n_target=sensitivity.n_target[rows],
        origin={
            "rows_read": table.rows,
            "rows_full_sensitivity": int(np.count_nonzero(sensitivity.full)),
            "rows_without_boxes": int(np.count_nonzero(~has_boxes)),
            "seed": seed,
            "keep_partial": keep_partial,
        },
        workers=default_workers(),
    )


def encode_boxes(table: BoxTable, kind: Kind, needed: Collection[str] = ENSEMBLE) -> EncodedDataset:
    """The features of every box of every row, for scoring: no row is left out, all labels are 0, each row is a group.

    Args:
        table: a pruned table.
        kind: which features.
        needed: names of the features that are used; :data:`ENSEMBLE`, the dear ones, are NaN where none of them is.

    Raises:
        UserError: a box has no features of this kind: one that covers no cell has no ``s1_features``, and for
            ``sequence_encoding`` and ``relational`` a box must lie in the map and a stem must be square.
    """
    rows = np.arange(table.rows)
    return _encode(
        table,
        kind,
        labels=np.zeros(len(table.proposals), bool),
        source_row=rows,
        group=rows,
        n_target=np.zeros(table.rows, np.int64),
        origin={
            "rows_read": table.rows, "rows_full_sensitivity": 0, "rows_without_boxes": 0,
            "labelled": False, "keep_partial": True,
        },
        needed=needed,
    )


def require_pruned(table: BoxTable) -> None:
    """Refuse boxes that run out of the map, which pruning drops.

    Raises:
        UserError: there is one; names the first.
    """
    _require(inside_map(table.proposals, table.lengths), table, np.arange(table.rows), "runs out of the map of the sequence")


def _encode(
    table: BoxTable,
    kind: Kind,
    *,
    labels: np.ndarray,
    source_row: np.ndarray,
    group: np.ndarray,
    n_target: np.ndarray,
    origin: dict[str, object],
    needed: Collection[str] = ENSEMBLE,
    workers: int = 1,
) -> EncodedDataset:
    boxes = table.proposals
    columns = [geometry(boxes)]
    whole_sequence = kind in WHOLE_SEQUENCE_KINDS
    if kind == "s1_features" or whole_sequence:
        _require(boxes.siz_x.astype(np.int64) * boxes.siz_y > 0, table, source_row, "covers no cell of the map")
        columns.append(confidences(boxes, table.prob_sm, table.prob_sl))
    sequences = {}
    if kind == "sequence_encoding" or whole_sequence:
        _require(inside_map(boxes, table.lengths), table, source_row, "runs out of the map of the sequence")
        _require((boxes.type != STEM) | (boxes.siz_x == boxes.siz_y), table, source_row, "is not square")
        codes, starts = encode_many(table.frame["seq"].tolist())
    if whole_sequence:
        seqs = table.frame["seq"].tolist()
        energies, ends = box_energies(boxes, seqs), end_energies(boxes, seqs)
        columns += [
            _bounded(np.stack([energies, ends], axis=1)),
            neighbour_counts(boxes),
            _bounded(chain_energies(boxes, energies, ends)),
            box_probabilities(boxes, seqs, workers).astype(np.float32) if set(ENSEMBLE) & set(needed)
            else np.full((len(boxes), len(ENSEMBLE)), np.nan, np.float32),
        ]
    if kind == "sequence_encoding":
        sequences = {name: box_bases(boxes, code, codes, starts[:-1]) for code, name in enumerate(BOX_TYPES)}
    box_labels = labels.astype(np.uint8)
    return EncodedDataset(
        meta=DatasetMeta(
            kind=kind,
            feature_names=FEATURE_NAMES[kind],
            sequence_channels=SEQUENCE_CHANNELS if sequences else {},
            source=table.source,
            source_digest=table.digest,
            **origin,
            **counts_of(boxes.type, box_labels, table.rows),
        ),
        offsets=boxes.offsets,
        features=np.concatenate(columns, axis=1),
        box_type=boxes.type,
        labels=box_labels,
        source_row=source_row.astype(np.int64),
        group=group.astype(np.int64),
        seq_length=table.lengths.astype(np.int32),
        n_target=n_target.astype(np.int32),
        bases=codes if whole_sequence else np.zeros(0, np.uint8),
        seq_values={name: values for name, (values, _) in sequences.items()},
        seq_offsets={name: offsets for name, (_, offsets) in sequences.items()},
    )


def _bounded(energies: np.ndarray) -> np.ndarray:
    return np.minimum(energies, HIGHEST_ENERGY).astype(np.float32)


def _require(fine: np.ndarray, table: BoxTable, source_row: np.ndarray, complaint: str) -> None:
    """Raise a UserError that names the first box which is not ``fine``."""
    if fine.all():
        return
    boxes, box = table.proposals, int(np.argmin(fine))
    row = int(boxes.row[box])
    raise UserError(
        f"{table.source}, row {source_row[row]} (index {table.frame.index[row]}): the {BOX_TYPES[boxes.type[box]]} "
        f"bb_x={boxes.bb_x[box]} bb_y={boxes.bb_y[box]} siz_x={boxes.siz_x[box]} siz_y={boxes.siz_y[box]} {complaint} "
        f"({np.count_nonzero(~fine)} such boxes); prune the table first, with discard_ns_stem"
    )


def geometry(boxes: Boxes) -> np.ndarray:
    """``(boxes, 7)`` float32: the columns :data:`GEOMETRY`."""
    columns = np.empty((len(boxes), len(GEOMETRY)), np.float32)
    columns[:, : len(BOX_TYPES)] = np.eye(len(BOX_TYPES), dtype=np.float32)[boxes.type]
    for k, values in enumerate((boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y), start=len(BOX_TYPES)):
        columns[:, k] = values
    return columns


def confidences(boxes: Boxes, prob_sm: Ragged, prob_sl: Ragged) -> np.ndarray:
    """``(boxes, 4)`` float32: the columns :data:`CONFIDENCES`; the median of an empty list is 0."""
    cells = boxes.siz_x.astype(np.float64) * boxes.siz_y
    columns = [c for prob in (prob_sm, prob_sl) for c in (ragged_median(prob), prob.lengths / cells)]
    return np.stack(columns, axis=1).astype(np.float32)


def ragged_median(values: Ragged) -> np.ndarray:
    """``(entries,)`` float64: the median of each entry (the mean of the middle two of an even number), 0 if empty.

    Entries of one length are sorted together as a matrix, so that the work in Python is one step per length.
    """
    median = np.zeros(len(values))
    filled = np.flatnonzero(values.lengths)
    order = filled[np.argsort(values.lengths[filled], kind="stable")]
    present, first = np.unique(values.lengths[order], return_index=True)
    for length, start, end in zip(present.tolist(), first, [*first[1:], len(order)], strict=False):
        entries = order[start:end]
        block = np.sort(values.values[values.offsets[entries][:, None] + np.arange(length)], axis=1)
        median[entries] = (block[:, (length - 1) // 2] + block[:, length // 2]) / 2
    return median


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

    Each box draws a number, ``np.random.default_rng(seed).random(boxes)`` in table order; the boxes of a row take its
    labels in the order of their numbers.

    Args:
        labels: ``(boxes,)``.
        row: ``(boxes,)``, rising.
        seed: of the permutation.
    """
    draw = np.random.default_rng(seed).random(len(labels))
    return labels[np.lexsort((draw, row))]
