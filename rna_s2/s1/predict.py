"""Proposals for the sequences of a table, with a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from rna_s2.boxtables.table import BoxTable, Ragged
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_COLUMNS, Boxes
from rna_s2.rna.sequence import encode
from rna_s2.s1.merging import ProposedBoxes, area
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.proposals import propose_boxes
from rna_s2.s1.selection import InferenceOptions, SelectionOptions


def with_proposals(
    table: BoxTable,
    network: ProposalNetwork,
    selection: SelectionOptions,
    inference: InferenceOptions | None = None,
    seconds: dict[str, float] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> BoxTable:
    """The table with the boxes that a network proposes in place of those it had.

    Extra columns: ``n_proposal_norm_sm`` and ``n_proposal_norm_sl``, proposals of each size output over the box's area.
    ``seconds`` and ``progress`` as in :func:`rna_s2.s1.proposals.propose_boxes`.

    Raises:
        UserError: a sequence has a character outside the alphabet; the message names the row.
    """
    codes = []
    for row, seq in enumerate(table.frame["seq"]):
        try:
            codes.append(encode(seq))
        except ValueError as error:
            raise UserError(f"{table.source}, row {row}: {error}; mend the sequence") from error
    return table_of_proposals(table, propose_boxes(network, codes, selection, inference, seconds, progress))


def table_of_proposals(table: BoxTable, proposed: ProposedBoxes) -> BoxTable:
    """The table with these boxes in place of those it had, and with the columns of :func:`proposal_norms`."""
    return replace(
        table, proposals=proposed.boxes, prob_sm=proposed.prob_sm, prob_sl=proposed.prob_sl,
        extra=proposal_norms(proposed),
    )


def proposal_norms(proposed: ProposedBoxes) -> dict[str, np.ndarray]:
    """``(boxes,)`` proposals over area, of the softmax and of the scalar size output."""
    cells = area(proposed.boxes)
    return {
        "n_proposal_norm_sm": proposed.prob_sm.lengths / cells,
        "n_proposal_norm_sl": proposed.prob_sl.lengths / cells,
    }


def propose_frame(
    network: ProposalNetwork, frame: pd.DataFrame, selection: SelectionOptions | None = None
) -> pd.DataFrame:
    """The columns ``bb_stem``, ``bb_iloop``, ``bb_hloop`` for the sequences in the column ``seq``, as lists of dicts.

    Raises:
        UserError: a sequence is no text, or has a character outside the alphabet; the message names the row.
    """
    seqs = frame["seq"].tolist()
    for row, seq in enumerate(seqs):
        if not isinstance(seq, str) or not seq:
            raise UserError(f"row {row}: seq must be a sequence of one base or more, got {seq!r}")
    empty = BoxTable(
        pd.DataFrame({"seq": pd.Series(seqs, dtype="str")}), Boxes.empty(len(seqs)), None, Ragged.empty(0),
        Ragged.empty(0), source="the sequences",
    )
    table = with_proposals(empty, network, selection or SelectionOptions())
    boxes = table.proposals
    keys = ("bb_x", "bb_y", "siz_x", "siz_y", "prob_sm", "prob_sl")
    columns = [getattr(boxes, name).tolist() for name in keys[:4]]
    columns += [[p.tolist() for p in np.split(r.values, r.offsets[1:-1])] if len(r) else []
                for r in (table.prob_sm, table.prob_sl)]
    dicts = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    ends = np.concatenate([[0], np.cumsum(boxes.counts().reshape(-1))]).tolist()
    lists = [dicts[a:b] for a, b in pairwise(ends)]  # row by row, type by type
    of_type = {name: lists[code::len(BOX_COLUMNS)] for code, name in enumerate(BOX_COLUMNS)}
    return pd.DataFrame(of_type, index=frame.index)
