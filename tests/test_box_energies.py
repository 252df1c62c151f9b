"""Energies of boxes: their sum is ViennaRNA's energy of a whole structure; known values; what cannot form."""

from __future__ import annotations

import numpy as np
import pytest
import RNA

from rna_s2.energies.boxes import box_energies, end_energies, stacking_table
from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import from_dot_bracket, pair_table, target_boxes
from rna_s2.rna.sequence import BASES


def sampled(seed: int, rows: int = 12) -> list[tuple[str, str]]:
    """Random sequences with a structure sampled from each one's ensemble."""
    rng = np.random.default_rng(seed)
    RNA.init_rand(seed + 1)
    found = []
    for length in rng.integers(15, 120, rows):
        seq = "".join(rng.choice(list("ACGU"), length))
        compound = RNA.fold_compound(seq, RNA.md(uniq_ML=1))
        compound.pf()
        found.append((seq, compound.pbacktrack()))
    return found


def unboxed_energy(seq: str, structure: str) -> float:
    """Energy of the exterior loop and of the multiloops of a structure, kcal/mol."""
    compound = RNA.fold_compound(seq)
    table = RNA.ptable(structure)
    partner = pair_table(from_dot_bracket(structure), len(seq))
    total = compound.eval_loop_pt(0, table)
    for i in np.flatnonzero(partner > np.arange(len(seq))):
        inside, p = 0, i + 1
        while p < partner[i]:
            inside += partner[p] > p
            p = partner[p] + 1 if partner[p] > p else p + 1
        if inside > 1:
            total += compound.eval_loop_pt(int(i) + 1, table)
    return total / 100


@pytest.mark.parametrize("seed", range(4))
def test_loops_with_and_without_a_box_sum_to_the_energy_of_the_structure(seed):
    cases = sampled(seed)
    boxes = target_boxes([from_dot_bracket(structure) for _, structure in cases])
    energies = box_energies(boxes, [seq for seq, _ in cases])
    for row, (seq, structure) in enumerate(cases):
        own = energies[boxes.offsets[row] : boxes.offsets[row + 1]].sum()
        whole = RNA.fold_compound(seq).eval_structure(structure)
        assert own + unboxed_energy(seq, structure) == pytest.approx(whole, abs=1e-3)


def test_structures_with_multiloops_are_among_the_cases():
    assert any(unboxed_energy(q, s) != RNA.fold_compound(q).eval_loop_pt(0, RNA.ptable(s)) / 100
               for seed in range(4) for q, s in sampled(seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_hairpin_on_its_own_has_the_energy_of_its_boxes_and_its_end(seed):
    """The ends of the outermost stems are the exterior loop's energy."""
    cases = sampled(seed)
    boxes = target_boxes([from_dot_bracket(structure) for _, structure in cases])
    ends = end_energies(boxes, [seq for seq, _ in cases])
    assert (ends[boxes.type != STEM] == 0).all()
    for row, (seq, structure) in enumerate(cases):
        own = list(boxes.row_boxes(row))
        outermost = [k for k, b in enumerate(own) if b[0] == STEM and not any(o[1] < b[1] and b[2] < o[2] for o in own)]
        exterior = RNA.fold_compound(seq).eval_loop_pt(0, RNA.ptable(structure)) / 100
        assert ends[boxes.offsets[row] + np.array(outermost, int)].sum() == pytest.approx(exterior, abs=1e-3)


def test_known_values():
    """Turner 2004: GC on GC -3.3 (5'-GG-3' on 5'-CC-3'), three of them in a stem of four; a lone pair stacks on nothing."""
    seq = "GGGGAAAACCCC"
    boxes = Boxes.from_rows([[(STEM, 0, 11, 4, 4), (STEM, 0, 11, 1, 1), (HLOOP, 3, 8, 6, 6)]])
    stem, pair, hairpin = box_energies(boxes, [seq])
    assert (stem, pair) == (pytest.approx(-9.9), 0.0)
    without_ends = RNA.fold_compound(seq, RNA.md(dangles=0))  # a pair of G and C then costs nothing outside
    assert hairpin == pytest.approx(without_ends.eval_structure("...(....)..."))
    table = stacking_table()
    g, c = BASES.index("G"), BASES.index("C")
    assert table[5 * g + c, 5 * g + c] == pytest.approx(-3.3)
    assert np.isfinite(table).sum() == 36


def test_t_and_small_letters_are_read_as_u():
    boxes = Boxes.from_rows([[(STEM, 0, 8, 3, 3), (HLOOP, 2, 6, 5, 5)]] * 2)
    energies = box_energies(boxes, ["GUAAAAUAC", "gtaaaatac"])
    assert np.isfinite(energies).all() and energies[:2].tolist() == energies[2:].tolist()


def test_what_cannot_form_is_infinite():
    seq = "GGGAAACCCN"
    impossible = [
        (STEM, 0, 8, 4, 4),  # A-A inside
        (STEM, 0, 9, 1, 1),  # G-N
        (HLOOP, 2, 4, 3, 3),  # G-A
        (HLOOP, 2, 2, 1, 1),  # on one base
        (ILOOP, 0, 8, 4, 2),  # closes on A-C
        (ILOOP, 0, 8, 8, 8),  # runs into itself
        (HLOOP, 0, 9, 10, 10),
    ]
    assert np.isinf(box_energies(Boxes.from_rows([impossible]), [seq])).all()
    assert np.isinf(box_energies(Boxes.from_rows([[(HLOOP, 0, 3, 4, 4)]]), ["GAAC"])).all()  # two unpaired bases


def test_rows_without_boxes_or_loops_are_ordinary():
    boxes = Boxes.from_rows([[], [(STEM, 0, 6, 2, 2)], [], [(HLOOP, 1, 5, 5, 5)], []])
    energies = box_energies(boxes, ["A", "GGAAACC", "", "GGAAACC", "G"])
    assert energies[0] == pytest.approx(-3.3) and energies[1] > 0
    assert box_energies(Boxes.empty(2), ["A", "C"]).shape == end_energies(Boxes.empty(2), ["A", "C"]).shape == (0,)
    assert np.isinf(end_energies(Boxes.from_rows([[(STEM, 0, 3, 1, 1)]]), ["AAAA"])).all()
