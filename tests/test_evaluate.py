"""Comparison with known structures: worked out by hand, from every format, beside tools that are there, absent or broken."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chain_models import EVERY_CELL, saved_models

from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.errors import UserError
from rna_s2.pipeline.evaluate import EvaluateOptions, evaluate, read_known, run_evaluate, sampled, within
from rna_s2.pipeline.tools import OURS, TOOL_NAMES, Tool, last_structure, rnafold, tool
from rna_s2.reports.evaluation import ALL, MEAN_OF_FAMILIES, by_length, family_plot, interval, markdown
from rna_s2.rna import formats
from rna_s2.rna.pairs import from_dot_bracket

SEQ = "GGGGAAAACCCC"
KNOWN = [
    formats.StructureRecord("right", SEQ, from_dot_bracket("((((....))))"), "A"),
    formats.StructureRecord("half", SEQ, from_dot_bracket("((((....))))"), "A"),
    formats.StructureRecord("shifted", SEQ, from_dot_bracket("((((....))))"), "B"),
    formats.StructureRecord("none", SEQ, from_dot_bracket("............"), "B"),
]
ANSWERS = ["((((....))))", "((........))", ".((((...))))", "............"]


def answering(name: str, answers: list[str | Exception]) -> Tool:
    """Gives these answers one after the other; the first one twice, because tools are warmed up with it."""
    waiting = iter([answers[0], *answers])

    def fold(seq: str) -> str:
        answer = next(waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Tool(name, "", fold)


def test_metrics_by_hand():
    """half: 2 of 4 pairs, F1 2 * 1 * 0.5 / 1.5. shifted: every pair is moved by one on the 5' side."""
    found = evaluate(KNOWN, [answering("x", ANSWERS)])
    rows = found.sequences.set_index("name")
    assert rows["f1"].tolist() == pytest.approx([1.0, 2 / 3, 0.0, 1.0])
    assert rows["sensitivity"].tolist() == pytest.approx([1.0, 0.5, 0.0, 1.0])
    assert rows["ppv"].tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0])
    assert rows["f1_slack"].tolist() == pytest.approx([1.0, 2 / 3, 1.0, 1.0])
    assert rows["exact"].tolist() == [True, False, False, True]
    assert rows["structure"].tolist() == ANSWERS and rows["known_pairs"].tolist() == [4, 4, 4, 0]
    assert (rows["seconds"] > 0).all()
    summary = found.summary.set_index("family")
    assert summary.loc["A", "f1"] == pytest.approx(5 / 6) and summary.loc["B", "f1"] == pytest.approx(0.5)
    assert summary.loc[ALL, "f1"] == pytest.approx(8 / 3 / 4) and summary.loc[ALL, "exact"] == 0.5
    assert summary.loc[MEAN_OF_FAMILIES, "f1"] == pytest.approx((5 / 6 + 0.5) / 2)
    assert summary.loc[ALL, "sequences"] == 4 and np.isnan(summary.loc[MEAN_OF_FAMILIES, "f1_low"])
    text = markdown(found)
    assert "| x | 4 | 0.625 | 0.750 | 0.667 |" in text and "| A | 2 | 0.833 (" in text


def test_differences_to_rnafold_are_paired_by_hand():
    """RNAfold misses the first two whole; x is better there by 1 and 2/3, worse at the third by 1, level at the last."""
    rnafold_says = ["............", "............", "((((....))))", "............"]
    found = evaluate(KNOWN, [answering("x", ANSWERS), answering("RNAfold", rnafold_says)])
    summary = found.summary.set_index(["tool", "family"])
    of_x = summary.loc["x"]["f1_difference"]
    assert of_x.loc["A"] == pytest.approx(5 / 6) and of_x.loc["B"] == pytest.approx(-0.5)
    assert of_x.loc[ALL] == pytest.approx((1 + 2 / 3 - 1) / 4) and of_x.loc[MEAN_OF_FAMILIES] == pytest.approx(1 / 6)
    low, high = summary.loc[("x", ALL), ["f1_difference_low", "f1_difference_high"]]
    assert low < of_x.loc[ALL] < high
    assert summary.loc["RNAfold"]["f1_difference"].isna().all()
    assert "| all | +0.167 (" in markdown(found) and "F1 less RNAfold's | x |" in markdown(found)
    assert "less RNAfold" not in markdown(evaluate(KNOWN, [answering("x", ANSWERS)]))


def test_records_that_cannot_be_used_are_said_and_a_family_may_have_any_name(tmp_path, caplog):
    s1, s2 = saved_models(tmp_path)
    named = [replace(KNOWN[0], family="$x_{$"), replace(KNOWN[1], family="../..")]
    text = formats.format_csv(named) + "bad,A,GGGAAACCC,(((...)),9\n"
    (tmp_path / "known.csv").write_text(text)
    options = EvaluateOptions.model_validate({
        "known": str(tmp_path / "known.csv"), "s1_model": s1, "s2_model": s2, "tools": [],
        "chain": EVERY_CELL.model_dump(exclude_unset=True),
    })
    found = run_evaluate(options, MemoryTracker())
    (reject,) = found.failures.to_dict("records")
    assert reject["tool"] == "" and reject["name"] == "bad" and reject["reason"].startswith("line 4: ")
    assert "1 records cannot be used, the first at line 4" in caplog.text
    assert "record cannot be used: 1 (failures.csv)" in markdown(found) and "a tool failed" not in markdown(found)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is no folder"):
        run_evaluate(options.model_copy(update={"out_dir": str(tmp_path / "file")}), MemoryTracker())


def test_names_and_families_need_not_be_told_apart():
    """Tables may name two rows alike, and a family as the summary names all of them."""
    known = [replace(s, name="same", family="all") for s in KNOWN]
    found = evaluate(known, [answering("x", ANSWERS), answering("RNAfold", ["............"] * 4)])
    of_x = found.summary.set_index(["tool", "family"]).loc["x"]
    assert list(of_x.index) == ["all (family)", ALL]
    assert of_x.loc[ALL, "f1_difference"] == pytest.approx((1 + 2 / 3) / 4)
    assert family_plot(found.summary) and "| all (family) | 4 |" in markdown(found)


def test_metrics_by_length():
    rows = pd.DataFrame({
        "tool": "x", "length": [50, 51, 75, 76, 1000, 1001, 2000], "f1": [0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.9],
        "exact": [True] + [False] * 6, "seconds": 1.0,
    })
    both = pd.concat([rows.assign(tool="y", f1=0.0), rows], ignore_index=True).sample(frac=1.0, random_state=0)
    found = by_length(both)
    of_x = found[found["tool"] == "x"]
    assert of_x["length"].tolist() == ["1-50", "51-75", "76-100", "501-1000", "1001-"]
    assert of_x["sequences"].tolist() == [1, 2, 1, 1, 2]
    assert of_x["f1"].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.6, 0.8])
    assert of_x["exact"].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0] and len(found) == 10


def test_tools_are_compared_on_what_all_could_fold():
    broken = answering("broken", [ANSWERS[0], UserError("no\nway"), ANSWERS[2], "(("])
    never = answering("never", [UserError("never works")] * 9)
    absent = Tool("absent", "not installed (no program)", lambda seq: seq)
    found = evaluate(KNOWN, [answering("x", ANSWERS), broken, never, absent])
    assert list(found.sequences["name"]) == ["right", "shifted"] * 2
    assert found.absent == {"absent": "not installed (no program)", "never": "failed on every sequence (never works)"}
    assert len(found.failures) == 6
    by_broken = found.failures[found.failures["tool"] == "broken"].to_dict("records")
    assert by_broken[0] == {"tool": "broken", "name": "half", "reason": "no way"}
    assert "structure of 2 characters for 12 bases" in by_broken[1]["reason"]
    assert "Not compared: absent, not installed" in markdown(found) and "4 sequences (failures.csv)" in markdown(found)
    with pytest.raises(UserError, match="no sequence was folded by every tool"):
        evaluate(KNOWN[:1], [answering("never", [UserError("no")] * 9)])


def test_a_fault_of_the_program_ends_the_comparison():
    with pytest.raises(ValueError, match="a fault"):
        evaluate(KNOWN, [answering("x", [ANSWERS[0], ValueError("a fault"), *ANSWERS[2:]])])


def test_a_failure_of_a_library_is_an_error_of_that_tool(monkeypatch):
    import RNA

    def fold_compound(seq: str):
        raise RuntimeError("it is broken")

    monkeypatch.setattr(RNA, "fold_compound", fold_compound)
    with pytest.raises(UserError, match="RNAfold: fails with RuntimeError: it is broken"):
        rnafold().pairs("GGGAAACCC")
    with pytest.raises(UserError, match="x: gives no structure: "):
        answering("x", ["(((("]).pairs("GGGG")


def test_rnafold_is_vienna():
    assert not rnafold().absent
    np.testing.assert_array_equal(rnafold().pairs("ggggaaaacccc"), KNOWN[0].pairs)
    with pytest.raises(ValueError, match="not a base"):
        rnafold().pairs("GG!")


def test_interval_holds_the_mean_and_shrinks():
    rng = np.random.default_rng(1)
    few, many = rng.random(10), rng.random(1000)
    for values in (few, many):
        low, high = interval(values, 0)
        assert low < values.mean() < high
        standard_error = values.std(ddof=1) / len(values) ** 0.5
        assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    assert interval(many, 0) == interval(many, 0)
    assert np.isnan(interval(np.array([0.5]), 0)).all()


@pytest.mark.parametrize("suffix", [".dbn", ".csv", ".ct", ".bpseq"])
def test_known_structures_from_every_format(tmp_path, suffix):
    records = KNOWN[:1] if suffix == ".bpseq" else KNOWN
    text = {
        ".dbn": formats.format_dot_bracket(records), ".csv": formats.format_csv(records), ".ct": formats.format_ct(records),
        ".bpseq": formats.format_bpseq(records[:1]),
    }[suffix]
    (tmp_path / f"known{suffix}").write_text(text)
    found, digest = read_known(str(tmp_path / f"known{suffix}"))
    assert [s.name for s in found.records] == [s.name for s in records] and len(digest) == 64
    for read, wanted in zip(found.records, records, strict=True):
        np.testing.assert_array_equal(read.pairs, wanted.pairs)
    assert [s.family for s in found.records] == [s.family if suffix == ".csv" else "" for s in records]


def test_known_structures_from_an_s1_table(tmp_path):
    frame = pd.DataFrame({
        "seq": [SEQ, SEQ, SEQ], "one_idx": [([0, 1], [11, 10]), None, ([], [])], "family": ["A", "B", None],
    })
    frame.to_pickle(tmp_path / "table.pkl.gz")
    found, _ = read_known(str(tmp_path / "table.pkl.gz"))
    assert [(s.name, s.family, s.pairs.tolist()) for s in found.records] == [
        ("row 0", "A", [[0, 11], [1, 10]]), ("row 2", "", [])
    ]
    assert [r.reason for r in found.rejected] == ["one_idx is missing"]
    frame.drop(columns="one_idx").to_pickle(tmp_path / "bare.pkl.gz")
    with pytest.raises(UserError, match="has no column one_idx"):
        read_known(str(tmp_path / "bare.pkl.gz"))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match=r"x\.txt: the name of a structure file must end in one of"):
        read_known(str(tmp_path / "x.txt"))


def test_rows_are_sampled_by_seed():
    assert sampled(KNOWN, 0, 0) == KNOWN == sampled(KNOWN, 9, 0)
    assert [s.name for s in sampled(KNOWN, 2, 1)] == [s.name for s in sampled(KNOWN, 2, 1)] and len(sampled(KNOWN, 2, 1)) == 2


def test_long_structures_are_left_out():
    assert within(KNOWN, 0, "f") == within(KNOWN, 12, "f") == KNOWN
    with pytest.raises(UserError, match=r"f: every structure is longer than max_len 11"):
        within(KNOWN, 11, "f")


def test_last_structure_of_an_output():
    mxfold2 = f">x\n{SEQ}\n((((....)))) (24.8)\n"
    contrafold = f"Use constraints: 0\n>sequence\n{SEQ}\n>structure\n((((....))))\n"
    assert last_structure(mxfold2, 12) == last_structure(contrafold, 12) == "((((....))))"
    assert last_structure("(((...)))", 12) == ""


@pytest.mark.parametrize(("name", "program"), [("MXfold2", "mxfold2"), ("CONTRAfold", "contrafold"), ("sincFold", "sincFold")])
def test_programs_are_called_and_named_when_absent(tmp_path, monkeypatch, name, program):
    """A stand-in for the program, which pairs the first base with the last of whatever it is given."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool(name).absent == f"not installed (no program {program} on PATH)"
    script = tmp_path / program
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n_, command, last = sys.argv\n"
        "seq = open(last).read().split()[1] if os.path.exists(last) else last\n"
        "print('>x'); print(seq)\n"
        "print('(' + '.' * (len(seq) - 2) + ')', '(1.0)') if 'N' not in seq else sys.exit('no N please')\n"
    )
    script.chmod(0o755)
    present = tool(name)
    assert present.absent == "" and present.pairs("gggtaac").tolist() == [[0, 6]]
    with pytest.raises(UserError, match=f"{name}: {program} ends with status 1: no N please"):
        present.pairs("GGNNCC")


def test_eternafold_is_found_through_its_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ETERNAFOLD_HOME", raising=False)
    assert "ETERNAFOLD_HOME" in tool("EternaFold").absent
    monkeypatch.setenv("ETERNAFOLD_HOME", str(tmp_path))
    assert "not installed" in tool("EternaFold").absent
    (tmp_path / "src").mkdir()
    parameters = str(tmp_path / "parameters" / "EternaFoldParams.v1")
    (tmp_path / "src" / "contrafold").write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[3:] == ['--params', {parameters!r}]\n"
        "print('>structure\\n((...))')\n"
    )
    (tmp_path / "src" / "contrafold").chmod(0o755)
    assert tool("EternaFold").pairs("GGAAACC").tolist() == [[0, 6], [1, 5]]


@pytest.mark.parametrize("name", ["SQUARNA", "pylinearfold"])
def test_packages_where_they_are_installed(name):
    found = tool(name)
    if found.absent:
        assert found.absent == f"not installed (pip install {name})"
        pytest.skip(f"{name} is {found.absent}")
    np.testing.assert_array_equal(found.pairs(SEQ), KNOWN[0].pairs)


def test_the_command_compares_logs_and_writes(tmp_path):
    s1, s2 = saved_models(tmp_path)
    long = formats.StructureRecord("long", "A" * 60, from_dot_bracket("." * 60), "B")
    (tmp_path / "known.csv").write_text(formats.format_csv([*KNOWN, long]))
    options = EvaluateOptions.model_validate({
        "known": str(tmp_path / "known.csv"), "s1_model": s1, "s2_model": s2, "out_dir": str(tmp_path / "out"),
        "tools": ["MXfold2"], "chain": EVERY_CELL.model_dump(exclude_unset=True) | {"max_len": 50},
    })
    tracker = MemoryTracker()
    found = run_evaluate(options, tracker)
    assert list(found.summary["tool"].unique()) == [OURS, "RNAfold"] and "MXfold2" in found.absent
    rnafold_rows = found.summary[found.summary["tool"] == "RNAfold"].set_index("family")
    assert rnafold_rows.loc["A", "f1"] == 1.0 and rnafold_rows.loc["B", "f1"] == 0.5 and rnafold_rows.loc[ALL, "f1"] == 0.75
    assert tracker.metric_values["RNAfold/f1"] == [(0, 0.75)] and tracker.metric_values["RNAfold/A/exact"] == [(0, 1.0)]
    assert tracker.metric_values["count.over_max_len"] == [(0, 1.0)]
    assert set(tracker.plots) == {"f1_by_family.png", "seconds_by_length.png"}
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"summary.md", "summary.csv", "by_length.csv", "sequences.csv", "failures.csv", *tracker.plots}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "summary.csv"), found.summary, check_dtype=False)
    assert json.dumps(tracker.param_values["tools"]) == '["MXfold2"]' and set(TOOL_NAMES) > {"MXfold2"}
    assert Path(tracker.datasets[0]["source"]).name == "known.csv"
