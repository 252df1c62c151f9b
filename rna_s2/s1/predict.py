"""Proposals for the sequences of a table, with a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd

from rna_s2.boxtables.columns import offsets_of, split
from rna_s2.boxtables.table import BoxTable
from rna_s2.options.errors import UserError
from rna_s2.rna.boxes import BOX_COLUMNS
from rna_s2.rna.sequence import encode
from rna_s2.s1.merging import ProposedBoxes, area
from rna_s2.s1.network import ProposalNetwork
from rna_s2.s1.proposals import propose_selections
from rna_s2.s1.segments import table_without_proposals
from rna_s2.s1.selection import InferenceOptions, SelectionOptions


def with_proposals(
    table: BoxTable, network: ProposalNetwork, selection: SelectionOptions, inference: InferenceOptions | None = None,
    seconds: dict[str, float] | None = None, progress: Callable[[Iterable], Iterable] = iter
) -> BoxTable:
    """The table with the boxes that a network proposes in place of those it had.

    ``seconds`` and ``progress`` as in :func:`rna_s2.s1.proposals.propose_selections`.

    Raises:
        UserError: a sequence has a character outside the alphabet; the message names the row.
    """
    codes = []
    for row, seq in enumerate(table.frame["seq"]):
        try:
            codes.append(encode(seq))
        except ValueError as error:
            raise UserError(f"{table.source}, row {row}: {error}; mend the sequence") from error
    return table_of_proposals(table, propose_selections(network, codes, [selection], inference, seconds, progress)[0])


def table_of_proposals(table: BoxTable, proposed: ProposedBoxes) -> BoxTable:
    """The table with these boxes in place of those it had.

    Extra columns: ``n_proposal_norm_sm`` and ``n_proposal_norm_sl``, proposals of each size output over the box's area.
    """
    boxes, prob_sm, prob_sl = proposed
    cells = area(boxes)
    norms = {"n_proposal_norm_sm": prob_sm.lengths / cells, "n_proposal_norm_sl": prob_sl.lengths / cells}
    return replace(table, proposals=boxes, prob_sm=prob_sm, prob_sl=prob_sl, extra=norms)


def propose_frame(network: ProposalNetwork, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns ``bb_stem``, ``bb_iloop``, ``bb_hloop`` for the sequences in the column ``seq``, as lists of dicts.

    Raises:
        UserError: a sequence is no text, or has a character outside the alphabet; the message names the row.
    """
    seqs = frame["seq"].tolist()
    for row, seq in enumerate(seqs):
        if not isinstance(seq, str) or not seq:
            raise UserError(f"row {row}: seq must be a sequence of one base or more, got {seq!r}")
    empty = table_without_proposals(pd.DataFrame({"seq": pd.Series(seqs, dtype="str")}), None, "the sequences")
    table = with_proposals(empty, network, SelectionOptions())
    boxes = table.proposals
    keys = ("bb_x", "bb_y", "siz_x", "siz_y", "prob_sm", "prob_sl")
    columns = [getattr(boxes, name).tolist() for name in keys[:4]]
    columns += [split(r.values.tolist(), r.offsets) for r in (table.prob_sm, table.prob_sl)]
    dicts = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    lists = split(dicts, offsets_of(boxes.counts().reshape(-1)))  # row by row, type by type
    of_type = {name: lists[code::len(BOX_COLUMNS)] for code, name in enumerate(BOX_COLUMNS)}
    return pd.DataFrame(of_type, index=frame.index)
