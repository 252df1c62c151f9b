"""The command ``predict`` on real files: what it writes reads back, bad records are reported, nothing is overwritten."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from chain_models import EVERY_CELL, saved_models, small_models

from rna_s2.commands.predict import COMMAND
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.command_line import parse
from rna_s2.options.errors import UserError
from rna_s2.pipeline.predict_file import (
    PredictOptions,
    check_out_dir,
    file_name,
    run_predict,
)
from rna_s2.pipeline.structure_prediction import predict
from rna_s2.reports.prediction_page import PAGE_BYTES, Page, layout, map_svg, structure_svg
from rna_s2.rna import formats
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.structures.prediction import Failure, Prediction
from rna_s2.tracking.client import open_client

ROOT = Path(__file__).resolve().parent.parent
FASTA = """\
text before the first header
>one of two words
GGGCGCAAGCCCAGGC
UUUUGCCUA
>bad
GGXXCC
>../two&<b>
gcgcuuuugcgcauagcggaaaccgc
>one
GGG
>nothing
>A/b
A
>a_B
GGNNAACC
"""
NAMES = ["one", "../two&<b>", "A/b", "a_B"]


def options(folder: Path, **more) -> PredictOptions:
    s1, s2 = saved_models(folder)
    (folder / "my.fa").write_text(FASTA)
    values = {"sequences": str(folder / "my.fa"), "out_dir": str(folder / "out"), "s1_model": s1, "s2_model": s2}
    chain = EVERY_CELL.model_dump(exclude_unset=True) | more.pop("chain", {})
    return PredictOptions.model_validate({**values, "chain": chain, **more})


def test_what_is_written_reads_back(tmp_path):
    tracker = MemoryTracker()
    report = run_predict(options(tmp_path, ct=True, bpseq=True, chain={"k": 3, "chunk": 2}), tracker)
    out = tmp_path / "out"
    expected = predict(formats.read_fasta(tmp_path / "my.fa").records, *small_models(), EVERY_CELL).records
    assert [p.name for p in expected] == NAMES and report.predicted == 4

    structures = formats.parse_dot_bracket(formats.read_lines(out / "structures.fa"))
    assert not structures.rejected
    for found, wanted in zip(structures.records, expected, strict=True):
        assert (found.name, found.seq) == (wanted.name, wanted.seq)
        np.testing.assert_array_equal(found.pairs, wanted.best.pairs)
        assert found.energy == pytest.approx(wanted.best.energy, abs=0.006)
    assert (out / "structures.fa").read_text().startswith(f">one confidence={expected[0].best.confidence:.3f}\n")

    files = ["two_b", "A_b", "a_B_2"]
    assert sorted(p.name for p in (out / "svg").iterdir()) == sorted(f"{f}.svg" for f in ["one", *files])
    for name, wanted in zip(["one", *files], expected, strict=True):
        for suffix in ("ct", "bpseq"):
            (record,), rejected = formats.read_structures(out / suffix / f"{name}.{suffix}")
            assert not rejected and record.name == wanted.name and record.seq == wanted.seq
            np.testing.assert_array_equal(record.pairs, wanted.best.pairs)
        for kind in ("svg", "map"):
            ElementTree.parse(out / kind / f"{name}.svg")

    boxes, pairs = pd.read_parquet(out / "boxes.parquet"), pd.read_parquet(out / "base_pairs.parquet")
    assert list(boxes.columns) == ["name", "type", "bb_x", "bb_y", "siz_x", "siz_y", "probability", "chosen"]
    assert len(boxes) == sum(len(p.boxes) for p in expected) > 0
    assert list(boxes["name"].unique()) == [p.name for p in expected if len(p.boxes)]
    for wanted in expected:
        own = boxes[boxes["name"] == wanted.name]
        np.testing.assert_allclose(own["probability"], wanted.probability, atol=1e-6)
        np.testing.assert_array_equal(own["chosen"], wanted.chosen)
        np.testing.assert_array_equal(own["bb_y"], wanted.boxes.bb_y)
        own = pairs[pairs["name"] == wanted.name]
        np.testing.assert_array_equal(own[["i", "j"]].to_numpy(), np.stack([wanted.pairing.i, wanted.pairing.j], axis=1))
        np.testing.assert_allclose(own["probability"], wanted.pairing.p, atol=1e-6)

    alternatives = pd.read_csv(out / "alternatives.csv")
    assert (alternatives.groupby("name").size() <= 3).all() and set(alternatives["name"]) == set(NAMES)
    assert list(alternatives[alternatives["rank"] == 1]["structure"]) == [p.dot_bracket() for p in expected]

    with (out / "failures.csv").open(newline="") as stream:
        failures = list(csv.DictReader(stream))
    assert [(f["name"], f["line"]) for f in failures] == [("", "1"), ("bad", "5"), ("one", "9"), ("nothing", "11")]
    assert tracker.metric_values["count.predicted"] == [(0, 4.0)]
    assert tracker.metric_values["count.failures"] == [(0, 4.0)]
    assert ("index.html", "") in tracker.artifacts and ("svg", "") in tracker.artifacts


def test_proposals_that_were_not_scored_are_told_and_counted(tmp_path, caplog):
    chosen, tracker = options(tmp_path, chain={"max_boxes": 2}), MemoryTracker()
    records = formats.read_fasta(tmp_path / "my.fa").records
    every = predict(records, *small_models(), EVERY_CELL).records
    left_out = {p.name: len(p.boxes) - 2 for p in every if len(p.boxes) > 2}
    report = run_predict(chosen, tracker)
    assert left_out and report.boxes_left_out == sum(left_out.values())
    assert tracker.metric_values["count.boxes_left_out"] == [(0, report.boxes_left_out)]
    about = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert about["proposals beyond max_boxes, not scored"] == str(report.boxes_left_out)
    for name, count in left_out.items():
        assert f"'{name}': {count} of its {count + 2} proposals were not scored" in caplog.text


def test_the_page_stands_alone_and_shows_every_sequence(tmp_path):
    run_predict(options(tmp_path), MemoryTracker())
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page), "the page loads nothing"
    assert page.count("<details") == 4 and page.count("<svg") == 8
    assert "../two&amp;&lt;b&gt;" in page and "two&<b>" not in page
    assert "Left out: 4" in page and "is not a base" in page


def test_only_the_first_are_drawn_and_the_page_says_so(tmp_path):
    run_predict(options(tmp_path, drawings=2), MemoryTracker())
    page = (tmp_path / "out" / "index.html").read_text()
    assert "The first 2 of 4 sequences are shown" in page and page.count("<details") == 2
    assert len(list((tmp_path / "out" / "svg").iterdir())) == 2
    run_predict(options(tmp_path, drawings=0), MemoryTracker())
    assert not (tmp_path / "out" / "svg").exists(), "the earlier prediction is replaced as a whole"


def prediction(seq: str = "GGGAAACCC", structure: str = "(((...)))") -> Prediction:
    (found,) = predict([formats.SequenceRecord("x", seq)], *small_models(), EVERY_CELL).records
    best = found.best.__class__(from_dot_bracket(structure), -1.0, 1.0, 0.5)
    return Prediction(found.name, seq, (best,), found.boxes, found.probability, found.chosen, found.pairing, 7)


def test_the_page_keeps_its_size():
    page = Page("title", 100)
    shown = prediction()
    for _ in range(30):
        page.add(shown, ["x" * (PAGE_BYTES // 10)])
    for n in range(500):
        page.fail(Failure(str(n), "a reason"))
    text = page.html([("a", "b")])
    assert len(text) < PAGE_BYTES + 1_000_000 and page.drawn == 10
    assert "Drawings of the first 10 are shown" in text and "Left out: 500" in text and text.count("a reason") == 100
    assert "7 proposals beyond max_boxes were not scored" in text


@pytest.mark.parametrize(
    ("seq", "structure"),
    [("A", "."), ("GGGG", "...."), ("GGGAAACCC", "(((...)))"), ("GGGGAAACCCGGAAACC", "((((..[)))....)]."),
     ("GGAAACCGGAAACC", "((...))((...))")],
)
def test_a_drawing_has_every_base_and_pair(seq, structure):
    root = ElementTree.fromstring(structure_svg(prediction(seq, structure)))
    space = "{http://www.w3.org/2000/svg}"
    circles, lines = root.findall(f"{space}circle"), root.findall(f"{space}line")
    pairs = from_dot_bracket(structure)
    assert len(circles) == len(seq) and len(lines) == len(pairs)
    crossing = [line for line in lines if line.get("stroke-dasharray")]
    assert len(crossing) == structure.count("[")
    for (i, j), line in zip(pairs.tolist(), lines, strict=True):
        assert (line.get("x1"), line.get("y2")) == (circles[i].get("cx"), circles[j].get("cy"))
        assert circles[i].find(f"{space}title").text.startswith(f"{i + 1} {seq[i]}, paired with {j + 1},")
    width, height = (float(v) for v in root.get("viewBox").split()[2:])
    assert all(0 <= float(c.get("cx")) <= width and 0 <= float(c.get("cy")) <= height for c in circles)
    at = layout(pairs, len(seq))
    assert at.shape == (len(seq), 2) and len({tuple(p) for p in at.round(3).tolist()}) == len(seq)


def test_a_map_has_every_box_in_its_place():
    shown = prediction("GGGCGCAAGCCCAGGCUUUUGCCUA", "." * 25)
    root = ElementTree.fromstring(map_svg(shown))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [rect for rect in root.findall(f"{space}rect") if rect.find(f"{space}title") is not None]
    assert len(boxes) == len(shown.boxes) > 0
    assert sum(rect.get("stroke") is not None for rect in boxes) == shown.chosen.sum()
    kinds = ("stem", "iloop", "hloop")
    wanted = {
        (f"{kinds[kind]} ({x + 1}, {y + 1}) {siz_x} x {siz_y}", round(480 / 25 * (y - siz_y + 1), 1), round(480 / 25 * x, 1))
        for kind, x, y, siz_x, siz_y in shown.boxes.row_boxes(0)
    }
    found = {
        (rect.find(f"{space}title").text.split(",  probability")[0].rsplit(", probability", 1)[0], float(rect.get("x")),
         float(rect.get("y"))) for rect in boxes
    }
    assert found == wanted


def test_file_names_are_safe_and_each_is_given_once():
    names: set[str] = set()
    odd = ["../../etc/x", "", "..", "CON", "con.txt", "x" * 300, "x" * 301, "é|é"]
    given = [file_name(name, names) for name in ["a", "A", "a_2", *odd, "a"]]
    assert given[:5] == ["a", "A_2", "a_2_2", "etc_x", "sequence"]
    assert len({n.lower() for n in given}) == len(given)
    assert all(re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,99}", n) for n in given)
    assert not any(re.fullmatch(r"(?i)con(\..*)?", n) for n in given)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    chosen = options(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="out: is not empty and holds no prediction"):
        run_predict(chosen, MemoryTracker())
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"


def test_what_lies_beside_an_earlier_prediction_is_not_lost(tmp_path):
    chosen = options(tmp_path)
    run_predict(chosen, MemoryTracker())
    run_predict(chosen, MemoryTracker())
    (tmp_path / "out" / "my.fa").write_text(">a\nGGGAAACCC\n")
    with pytest.raises(UserError, match=r"out: holds my\.fa beside an earlier prediction, which would be lost"):
        run_predict(chosen, MemoryTracker())
    assert (tmp_path / "out" / "my.fa").is_file()
    for path in (str(tmp_path / ("x" * 300)), "a\0b", str(tmp_path / "out" / "my.fa")):
        with pytest.raises(UserError):
            check_out_dir(path)


def test_what_cannot_be_used_is_told_in_one_line(tmp_path):
    chosen = options(tmp_path)
    (tmp_path / "none.fa").write_text(">x\nGG!!\n")
    with pytest.raises(UserError, match=r"none\.fa: has no sequence that can be used \(line 1: character '!'"):
        run_predict(chosen.model_copy(update={"sequences": str(tmp_path / "none.fa")}), MemoryTracker())
    with pytest.raises(UserError, match=r"missing\.fa: cannot be read"):
        run_predict(chosen.model_copy(update={"sequences": str(tmp_path / "missing.fa")}), MemoryTracker())
    too_long = chosen.model_copy(update={"chain": EVERY_CELL.model_copy(update={"max_len": 0})})
    too_long = too_long.model_copy(update={"chain": too_long.chain.model_validate({"max_len": 1})})
    (tmp_path / "long.fa").write_text(">x\nGGGG\n")
    with pytest.raises(UserError, match="no sequence could be predicted; the reasons are in"):
        run_predict(too_long.model_copy(update={"sequences": str(tmp_path / "long.fa")}), MemoryTracker())
    assert "more than max_len 1" in (tmp_path / "out" / "failures.csv").read_text()


def test_options_reach_every_depth():
    arguments = ["--sequences", "a.fa", "--out_dir", "b", "--min_hairpin", "0", "--k", "2", "--selection", "union"]
    found = parse(COMMAND, arguments)
    assert found.chain.decoding.min_hairpin == 0 and found.chain.selection.selection == "union" and found.chain.k == 2
    with pytest.raises(UserError, match="needs the decoder exact"):
        parse(COMMAND, [*arguments, "--decoder", "mea"])


def test_the_command_logs_a_run(tmp_path, tracking_uri):
    chosen = options(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps(chosen.model_dump(mode="json", exclude_unset=True)))
    done = subprocess.run(
        [sys.executable, "-m", "rna_s2.commands.predict", "--config", str(tmp_path / "config.yaml"), "--drawings", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 structures, 4 sequences left out" in done.stderr
    client = open_client()
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.run_name == "predict my.fa" and run.data.tags["stage"] == "predict"
    assert run.data.metrics["count.predicted"] == 4 and run.data.params["chain.max_boxes"] == "300"
    assert {"index.html", "structures.fa", "boxes.parquet"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
