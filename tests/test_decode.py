"""Decoding: against every subset of stems, on small random inputs; known answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.rna.boxes import HLOOP, ILOOP, STEM, Boxes
from rna_s2.rna.pairs import as_pairs, loop_boxes, to_dot_bracket
from rna_s2.structures.candidates import DecodeOptions, log_odds
from rna_s2.structures.decode import decode_batch, k_best_batch
from tests.structure_reference import all_structures, decode, k_best, score_of

SCORES = st.integers(-600, 600).map(lambda v: v / 100)


@st.composite
def nested_stems(draw: st.DrawFn, first: int, last: int, depth: int = 0) -> list[tuple[int, int, int, int, int]]:
    """Stems of a nested structure on bases ``first .. last``, side by side and inside each other."""
    found = []
    while last - first >= 4 and (not found or draw(st.integers(0, 3))):
        x = first + draw(st.integers(0, 1))
        y = draw(st.integers(x + 3, last))
        n = draw(st.integers(1, 2 if y - x > 5 else 1))
        found.append((STEM, x, y, n, n))
        if depth < 3 and draw(st.integers(0, 3)):
            found += draw(nested_stems(x + n, y - n, depth + 1))
        first = y + 1
    return found


@st.composite
def proposals(draw: st.DrawFn, most_stems: int = 9) -> tuple[list[tuple[tuple, float]], int]:
    """Scored boxes of one sequence: stems of structures that compete with each other, loops of which many lie between
    them, and boxes that fit nowhere."""
    length = draw(st.integers(5, 30))
    found = draw(nested_stems(0, length - 1)) + draw(nested_stems(draw(st.integers(0, 5)), length - 1))
    near = st.tuples(st.integers(-4, 4), st.integers(-2, 2))
    for _, x, y, _, _ in found[:2]:  # the same with one end elsewhere
        dx, dy = draw(near)
        found.insert(0, (STEM, x + dx, y + dy, 1, 1))
    found = found[:most_stems]
    loops = []
    for _, x, y, n, _ in found:
        i, j = x + n - 1, y - n + 1
        if draw(st.integers(0, 2)):
            loops.append((HLOOP, i, j, j - i + 1, j - i + 1))
        for _, p, q, _, _ in found:
            if i < p and q < j and draw(st.booleans()):
                loops.append((ILOOP, i, j, p - i + 1, j - q + 1))
    odd = st.tuples(st.integers(0, 2), *[st.integers(-1, length)] * 2, *[st.integers(1, 5)] * 2)
    boxes = found + loops + draw(st.lists(odd, max_size=2))
    stem_score = st.integers(-300, 600).map(lambda v: v / 100)
    return [(box, draw(stem_score if box[0] == STEM else SCORES)) for box in boxes], length


options = st.builds(
    DecodeOptions,
    min_hairpin=st.sampled_from([3, 2, 0, 1]), min_stem=st.sampled_from([1, 1, 2]),
    missing_loop=st.sampled_from([-2.0, 0.0, -5.5, 0.7]), branch=st.sampled_from([0.0, -0.6, 0.3]),
    min_confidence=st.sampled_from([0.0, 0.0, 0.3]), threshold=st.sampled_from([0.5, 0.15, 0.7]),
)


def columns(rows: list[list[tuple[tuple, float]]]) -> tuple[Boxes, np.ndarray]:
    """Boxes of each row and their scores, in the order in which ``Boxes`` has them."""
    in_order = [sorted(row, key=lambda scored: scored[0][0]) for row in rows]
    return Boxes.from_rows([[b for b, _ in row] for row in in_order]), np.array(
        [score for row in in_order for _, score in row], float
    )


def slow(row: list[tuple[tuple, float]], length: int, chosen: DecodeOptions) -> list:
    """All structures, best first."""
    least = math.log(chosen.min_confidence / (1 - chosen.min_confidence)) if chosen.min_confidence else -math.inf
    found = all_structures(
        row, length, min_hairpin=chosen.min_hairpin, missing_loop=chosen.missing_loop, branch=chosen.branch,
        min_stem=chosen.min_stem, min_score=least, less=math.log(chosen.threshold / (1 - chosen.threshold)),
    )
    return sorted(found, key=lambda entry: -entry[0])


@settings(max_examples=100, deadline=None)
@given(proposals(), options)
def test_the_best_structures_are_the_best_of_all_subsets(row, chosen):
    scored, length = row
    boxes, scores = columns([scored])
    every = slow(scored, length, chosen)
    found = k_best(boxes, scores, length, len(every) + 3, chosen)
    assert [f.score for f in found] == pytest.approx([score for score, *_ in every], abs=1e-9)
    assert decode(boxes, scores, length, chosen).score == found[0].score
    of_pairs = {pairs: (score, kept, missing) for score, pairs, kept, missing in every}
    assert {tuple(map(tuple, f.pairs.tolist())) for f in found} == set(of_pairs)
    all_boxes = list(boxes.row_boxes(0))
    best_of_box = {box: max(s for b, s in scored if b == box) for box, _ in scored}
    for f in found:
        score, kept, missing = of_pairs[tuple(map(tuple, f.pairs.tolist()))]
        assert score == pytest.approx(f.score, abs=1e-9)
        assert missing == f.missing_loops
        assert sorted(all_boxes[k] for k in f.boxes) == sorted(kept)
        assert scores[f.boxes].tolist() == [best_of_box[all_boxes[k]] for k in f.boxes]


def random_rows(rows: int, length: int, count: int, seed: int) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """Many random stems, and the loops between some of them, for sequences too large for brute force."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(rows):
        x, y = rng.integers(0, length, (2, count))
        row = [(STEM, int(a), int(b), int(n), int(n)) for a, b, n in zip(x, y, rng.integers(1, 7, count), strict=True)]
        for _, a, b, n, _ in row[: count // 2]:
            i, j = a + n - 1, b - n + 1
            if i < j:
                row.append((HLOOP, i, j, j - i + 1, j - i + 1))
            inside = [(p, q) for _, p, q, _, _ in row[: count // 2] if i < p and q < j]
            row += [(ILOOP, i, j, p - i + 1, j - q + 1) for p, q in inside[:5]]
        lists.append(row)
    boxes = Boxes.from_rows(lists)
    return boxes, rng.normal(0.5, 2.5, len(boxes)), np.full(rows, length)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 90), options)
def test_structures_are_valid_and_worth_what_they_say(seed, length, chosen):
    boxes, scores, lengths = random_rows(2, length, 40, seed)
    less = math.log(chosen.threshold / (1 - chosen.threshold))
    for row, structures in enumerate(k_best_batch(boxes, scores, lengths, 4, chosen)):
        pair_sets = {tuple(map(tuple, f.pairs.tolist())) for f in structures}
        assert len(pair_sets) == len(structures)
        assert sorted((f.score for f in structures), reverse=True) == [f.score for f in structures]
        own = {}
        for k, box in enumerate(boxes.row_boxes(row), start=int(boxes.offsets[row])):
            own[box] = max(scores[k] - less, own.get(box, -math.inf))
        for f in structures:
            pairs = as_pairs(*f.pairs.T, length=length)  # refuses a base that is in two pairs
            assert pairs.tolist() == f.pairs.tolist()
            assert set(to_dot_bracket(pairs, length)) <= set("(.)")
            decomposed = loop_boxes(pairs)  # refuses pairs that cross
            assert all(n - 2 >= chosen.min_hairpin for box_type, *_, n in decomposed if box_type == HLOOP)
            assert all(box in own and box[3] >= chosen.min_stem for box in decomposed if box[0] == STEM)
            again = score_of(
                [tuple(p) for p in pairs.tolist()], own, {b for b in decomposed if b[0] == STEM}, chosen.missing_loop,
                chosen.branch, chosen.min_hairpin,
            )
            assert again is not None
            assert f.score == pytest.approx(again[0])


def test_the_batch_gives_what_each_sequence_gives_alone():
    boxes, scores, lengths = random_rows(5, 60, 30, 7)
    boxes = boxes.take_rows(np.array([0, 1, 2, 3]))
    boxes, scores = Boxes(np.insert(boxes.offsets, 2, boxes.offsets[2]), *(
        getattr(boxes, name) for name in ("type", "bb_x", "bb_y", "siz_x", "siz_y"))), scores[: len(boxes)]
    batch = decode_batch(boxes, scores, lengths)
    assert len(batch) == 5
    assert len(batch[2].pairs) == 0  # the sequence without boxes
    for row, found in enumerate(batch):
        part = slice(boxes.offsets[row], boxes.offsets[row + 1])
        alone = decode(boxes.take_rows(np.array([row])), scores[part], 60)
        assert found.pairs.tolist() == alone.pairs.tolist()
        assert (found.boxes - boxes.offsets[row]).tolist() == alone.boxes.tolist()
        assert (found.score, found.missing_loops) == (alone.score, alone.missing_loops)


def test_order_of_the_boxes_means_nothing():
    boxes, scores, _ = random_rows(1, 80, 60, 3)
    order = np.lexsort((np.random.default_rng(0).random(len(boxes)), boxes.type))
    shuffled = Boxes(boxes.offsets, *(getattr(boxes, n)[order] for n in ("type", "bb_x", "bb_y", "siz_x", "siz_y")))
    one, other = decode(boxes, scores, 80), decode(shuffled, scores[order], 80)
    assert one.pairs.tolist() == other.pairs.tolist()
    assert sorted(order[other.boxes]) == one.boxes.tolist()


PLAIN = DecodeOptions(threshold=0.5, missing_loop=-2.0)
# A hairpin (stem of 3, loop of 4), and what competes with it:  0123456789
HAIRPIN = [(STEM, 0, 9, 3, 3), (HLOOP, 2, 7, 6, 6)]  #           (((....)))


def decoded(row: list[tuple[tuple, float]], length: int, **changes) -> tuple[str, float]:
    found = decode(*columns([row]), length, PLAIN.model_copy(update=changes))
    return to_dot_bracket(found.pairs, length), found.score


def test_a_stem_and_its_loop_by_hand():
    row = [(HAIRPIN[0], -1.0), (HAIRPIN[1], 1.5)]
    assert decoded(row, 10) == ("(((....)))", 0.5)
    assert decoded(row, 10, threshold=0.6)[0] == "." * 10  # 0.5 - 2 * ln(0.6 / 0.4) is below 0
    assert decoded(row[:1], 10)[0] == "." * 10
    assert decoded([(HAIRPIN[0], 2.5)], 10) == ("(((....)))", 0.5)  # the loop was not proposed
    assert decoded([(HAIRPIN[0], 2.5), (HAIRPIN[1], -2.75)], 10)[0] == "." * 10  # it was, and is held unlikely
    assert decoded(row, 10, min_confidence=0.27)[0] == "." * 10  # the stem's probability is 0.269
    assert decoded(row, 10, min_hairpin=5)[0] == "." * 10


def test_a_hairpin_of_two_bases_only_where_asked():
    row = [((STEM, 0, 7, 3, 3), 2.0), ((HLOOP, 2, 5, 4, 4), 2.0)]
    assert decoded(row, 8)[0] == "." * 8
    assert decoded(row, 8, min_hairpin=2) == ("(((..)))", 4.0)


def test_two_stems_on_top_of_each_other_are_one_stem_and_not_two():
    row = [((STEM, 0, 9, 1, 1), 3.0), ((STEM, 1, 8, 2, 2), 3.0), (HAIRPIN[1], 1.0)]
    assert decoded(row, 10) == (".((....)).", 4.0)
    assert decoded([*row, (HAIRPIN[0], 3.5)], 10) == ("(((....)))", 4.5)


def test_an_internal_loop_and_a_multiloop_by_hand():
    # 0         1         2
    # 0123456789012345678901234
    # (.(...)...(...).........)   a multiloop: three stems that end in it, with the closing one
    # (.(...)...............).)   an internal loop would need the stem inside to close it
    outer, left, right = (STEM, 0, 24, 1, 1), (STEM, 2, 6, 1, 1), (STEM, 10, 14, 1, 1)
    hairpins = [((HLOOP, 2, 6, 5, 5), 1.0), ((HLOOP, 10, 14, 5, 5), 1.0)]
    row = [(outer, 4.0), (left, 1.0), (right, 1.0), *hairpins]
    assert decoded(row, 25) == ("(.(...)...(...).........)", 6.0)
    assert decoded(row, 25, branch=-0.25) == ("(.(...)...(...).........)", 5.25)
    assert decoded(row, 25, missing_loop=-5.0) == ("..(...)...(...)..........", 4.0)
    loop = ((ILOOP, 0, 24, 3, 19), 2.5)
    assert decoded([*row, loop], 25) == ("(.(...).................)", 8.5)


def test_distances_between_stems_are_those_of_the_loop():
    loop = ((ILOOP, 0, 15, 3, 3), 4.0)  # from pair (0, 15) to pair (2, 13)
    row = [((STEM, 0, 15, 1, 1), 1.0), loop, ((STEM, 3, 12, 2, 2), 1.0), ((STEM, 2, 13, 1, 1), -1.0)]
    found = decode(*columns([row]), 16, PLAIN.model_copy(update={"missing_loop": 0.0}))
    assert to_dot_bracket(found.pairs, 16) == "(.(..........).)"
    assert found.boxes.tolist() == [0, 2, 3]
    assert found.missing_loops == 1


def test_nothing_to_choose_from():
    for boxes in (Boxes.empty(1), Boxes.from_rows([[(HLOOP, 0, 9, 10, 10), (STEM, 0, 30, 2, 2), (STEM, 5, 4, 1, 1)]])):
        found = k_best(boxes, np.ones(len(boxes)), 10, 3)
        assert [(f.pairs.shape, f.boxes.tolist(), f.score, f.missing_loops) for f in found] == [((0, 2), [], 0.0, 0)]
    assert decode_batch(Boxes.empty(0), np.zeros(0), np.zeros(0)) == []


def test_log_odds_are_finite():
    assert log_odds(np.array([0.0, 0.5, 1.0])) == pytest.approx([-13.8155, 0.0, 13.8155], abs=1e-4)
    assert log_odds(np.array([0.25])) == pytest.approx(-math.log(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Boxes.from_rows([HAIRPIN]), np.zeros(3), 10), r"\(3,\) log-odds for 2 boxes"),
        ((Boxes.from_rows([HAIRPIN]), np.array([0, np.inf]), 10), "the log-odds of box 1 is not finite"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode(*arguments)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="k must be 1 or more"):
        k_best(Boxes.empty(1), np.zeros(0), 10, 0)
    with pytest.raises(ValueError, match="1 lengths for 2 sequences"):
        decode_batch(Boxes.empty(2), np.zeros(0), np.array([5]))


def test_default_decoding():
    assert DecodeOptions().model_dump() == {
        "min_confidence": 0.0, "min_hairpin": 3, "min_stem": 1, "threshold": 0.25, "missing_loop": -1.0, "branch": 0.0,
        "crossing": False, "crossing_stem": -2.0, "crossing_max_stems": 100,
    }
