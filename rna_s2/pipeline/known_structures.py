"""Known structures: read from structure files or from S1 tables, and which of them to compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.write import PARQUET_SUFFIX, PICKLE_SUFFIXES
from rna_s2.options.downloads import local_copy
from rna_s2.options.errors import UserError
from rna_s2.options.files import file_digest
from rna_s2.rna import formats
from rna_s2.rna.pairs import as_pairs


def read_known(path: str) -> tuple[formats.Structures, str]:
    """Known structures from a structure file, or from an S1 table's ``one_idx``; and the file's SHA-256.

    Raises:
        UserError: the file cannot be read, or holds no structure.
    """
    with local_copy(path) as local:
        if entry_unit(path) == "row":
            found = _structures_of_table(local)
        else:
            try:
                found = formats.read_structures(local)
            except formats.FileError as error:
                raise UserError(f"{str(error).replace(str(local), path)}; check the file") from error
        digest = file_digest(local)
    if not found.records:
        first = f" ({entry_unit(path)} {found.rejected[0].line}: {found.rejected[0].reason})" if found.rejected else ""
        raise UserError(f"{path}: has no structure that can be used{first}")
    return found, digest


def entry_unit(path: str) -> str:
    """What the entries of a file of known structures are counted in: ``row`` of a table, ``line`` of a text."""
    return "row" if path.endswith((PARQUET_SUFFIX, *PICKLE_SUFFIXES)) else "line"


def _structures_of_table(path: Path) -> formats.Structures:
    read = read_table(path, require_targets=False, require_proposals=False)
    frame = read.table.frame
    if "one_idx" not in frame.columns:
        raise UserError(f"{path}: has no column one_idx, the base pairs of the known structure")
    rejected = [formats.Rejected(str(r.index), int(r.row), r.reason) for r in read.rejects.itertuples()]
    out: formats.Structures = formats.Found([], rejected)
    families = frame["family"].fillna("").astype(str) if "family" in frame.columns else [""] * len(frame)
    names = frame["id"].astype(str) if "id" in frame.columns else [f"row {n}" for n in range(len(frame))]
    for row, (name, seq, cell, family) in enumerate(zip(names, frame["seq"], frame["one_idx"], families, strict=True)):
        try:
            if cell is None:
                raise ValueError("one_idx is missing")
            i, j = cell
            out.records.append(formats.StructureRecord(name, seq, as_pairs(i, j, len(seq)), family))
        except ValueError as error:
            out.rejected.append(formats.Rejected(name, row, str(error)))
    return out


def within(known: list[formats.StructureRecord], max_len: int, path: str) -> list[formats.StructureRecord]:
    """The structures of ``max_len`` bases at most; 0: all.

    Raises:
        UserError: none is left.
    """
    kept = [s for s in known if not max_len or len(s.seq) <= max_len]
    if not kept:
        raise UserError(f"{path}: every structure is longer than max_len {max_len}; raise it")
    return kept


def sampled(known: list[formats.StructureRecord], most: int, seed: int) -> list[formats.StructureRecord]:
    """At most so many of the structures, sampled at random, in their order; 0: all."""
    if not 0 < most < len(known):
        return known
    chosen = np.random.default_rng(seed).choice(len(known), most, replace=False)
    return [known[n] for n in np.sort(chosen)]
