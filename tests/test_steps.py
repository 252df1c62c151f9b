"""Cached steps: what names their outputs, and that nobody changes an output without raising the step's version.

``python -m tests.test_steps`` records the outputs anew, after a version was raised.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rna_s2.boxtables.read import read_table
from rna_s2.boxtables.table import BoxTable
from rna_s2.engine.tracker import MemoryTracker
from rna_s2.options.errors import UserError
from rna_s2.pipeline.open_models import SHIPPED_S1
from rna_s2.pipeline.steps import outputs
from rna_s2.pipeline.steps.featurize import FEATURIZE, encoded_dataset
from rna_s2.pipeline.steps.outputs import ANY_NUMBER, CachedStep, make_or_find
from rna_s2.pipeline.steps.propose import PROPOSE, proposals_file
from rna_s2.pipeline.steps.prune import PRUNE, PruneOptions, pruned_table
from rna_s2.pipeline.steps.segments import SEGMENTS, SYNTHETIC, segments_file, synthetic_file
from rna_s2.pipeline.train_config import SAMPLE
from rna_s2.pruning.rules import REFERENCE_RULES
from rna_s2.s1.config import SegmentRule, SyntheticTranscripts
from rna_s2.s1.selection import SelectionOptions
from rna_s2.s2.config import FeatureConfig
from rna_s2.s2.feature_groups import KINDS

RECORDED = Path(__file__).parent / "data" / "step_outputs.json"
STEPS = {step.name: step for step in (SYNTHETIC, SEGMENTS, PROPOSE, PRUNE, FEATURIZE)}
TRANSCRIPTS = SyntheticTranscripts(n_transcripts=2, length=240, seed=3)
RULE = SegmentRule(max_len=60, max_step=40, seed=1)
SURE = SelectionOptions(selection="on_threshold", on_threshold=0.5)
"""A selection far from what rounding decides."""


def numbers_of(table: BoxTable) -> dict[str, object]:
    """Proposals and targets of a table in numbers."""
    out: dict[str, object] = {"rows": table.rows, "bases": int(table.lengths.sum())}
    for name, boxes in (("proposals", table.proposals), ("targets", table.targets)):
        if boxes is not None:
            place = np.arange(1, len(boxes) + 1)  # the order of the boxes counts
            columns = (boxes.type, boxes.bb_x, boxes.bb_y, boxes.siz_x, boxes.siz_y)
            out[name] = [len(boxes), *(int((place * c).sum()) for c in columns)]
    out["probabilities"] = [float(table.prob_sm.values.sum()), float(table.prob_sl.values.sum())]
    return out


def synthetic(folder: str) -> object:
    return synthetic_file(TRANSCRIPTS, folder).read_text(encoding="ascii")[:200]


def segments(folder: str) -> object:
    frame = pd.read_parquet(segments_file(str(synthetic_file(TRANSCRIPTS, folder)), RULE, folder))
    numbers = {name: float(frame[name].sum()) for name in ("fe", "mfe_freq", "ens_div")}
    pairs = int(frame["one_idx"].map(lambda pairs: len(pairs[0])).sum())
    return {"rows": len(frame), "first": frame["seq"].iloc[0], "pairs": pairs, **numbers}


def propose(folder: str) -> object:
    table = segments_file(str(synthetic_file(TRANSCRIPTS, folder)), RULE, folder)
    return numbers_of(read_table(proposals_file(table, SHIPPED_S1, SURE, folder)).table)


def few_rows(folder: str) -> str:
    path = str(Path(folder) / "few.parquet")
    pd.read_parquet(SAMPLE).iloc[:12].to_parquet(path)
    return path


def prune(folder: str) -> object:
    return numbers_of(read_table(pruned_table(few_rows(folder), REFERENCE_RULES, folder).path).table)


def featurize(folder: str) -> object:
    in_file = few_rows(folder)
    pruned = pruned_table(in_file, REFERENCE_RULES, folder).path
    out = {}
    for kind in KINDS:
        data = encoded_dataset(pruned, FeatureConfig(kind=kind, keep_partial=True), 0, folder, in_file)
        place = np.arange(1, len(data.labels) + 1)
        out[kind] = {
            "columns": dict(zip(data.meta.feature_names, data.features.mean(axis=0, dtype=np.float64).tolist(), strict=True)),
            "labels": int((place * data.labels).sum()),
            "bases": {name: int(values.sum()) for name, values in data.seq_values.items()},
        }
    return out


OUTPUT: dict[str, Callable[[str], object]] = {
    "synthetic": synthetic, "segments": segments, "propose": propose, "prune": prune, "featurize": featurize,
}


def recorded(folder: str) -> dict[str, dict[str, object]]:
    return {name: {"version": STEPS[name].version, "output": output(folder)} for name, output in OUTPUT.items()}


def differences(found: object, known: object, where: str = "") -> list[str]:
    """Where two outputs differ; numbers may by a thousandth."""
    if isinstance(known, dict) and isinstance(found, dict) and found.keys() == known.keys():
        return [line for key in known for line in differences(found[key], known[key], f"{where}.{key}")]
    if isinstance(known, list) and isinstance(found, list) and len(found) == len(known):
        return [line for k, each in enumerate(known) for line in differences(found[k], each, f"{where}.{k}")]
    if isinstance(known, float) and isinstance(found, float):
        return [] if found == pytest.approx(known, rel=1e-3, abs=1e-6) else [f"{where}: {found}, was {known}"]
    return [] if found == known else [f"{where}: {found}, was {known}"]


@pytest.mark.parametrize("name", STEPS)
def test_an_output_changes_only_with_the_version_of_its_step(tmp_path, name):
    known = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    assert known["version"] == STEPS[name].version, "record the outputs of the new version: python -m tests.test_steps"
    changed = differences(json.loads(json.dumps(OUTPUT[name](str(tmp_path)))), known["output"])
    assert not changed, f"the output of {name} changed: raise its version in CachedStep, then record it; {changed[:5]}"


def test_the_comparison_of_outputs_itself():
    assert differences({"a": [1, 2.0]}, {"a": [1, 2.0001]}) == []
    assert differences({"a": [1, 2.1]}, {"a": [1, 2.0]}) == [".a.1: 2.1, was 2.0"]
    assert differences({"a": 1}, {"b": 1}) and differences([1], [1, 2]) and differences("x", "y")


def test_the_name_of_an_output_holds_all_that_decides_it(tmp_path, monkeypatch):
    step = CachedStep("prune", version=1, folder="pruned", suffix=".parquet", libraries=("numpy",))
    path = step.path(tmp_path, source="a", rules={"x": 1})
    assert path == step.path(tmp_path, rules={"x": 1}, source="a") and path.parent == tmp_path / "pruned"
    others = [
        step.path(tmp_path, source="b", rules={"x": 1}),
        step.path(tmp_path, source="a", rules={"x": 2}),
        step.path(tmp_path, libraries=("ViennaRNA",), source="a", rules={"x": 1}),
        CachedStep("prune", 2, "pruned", ".parquet", ("numpy",)).path(tmp_path, source="a", rules={"x": 1}),
        CachedStep("other", 1, "pruned", ".parquet", ("numpy",)).path(tmp_path, source="a", rules={"x": 1}),
    ]
    monkeypatch.setattr(outputs, "version", lambda name: "0.0")
    others.append(step.path(tmp_path, source="a", rules={"x": 1}))
    assert len({path, *others}) == 7


def test_features_with_energies_depend_on_the_version_of_viennarna(tmp_path, monkeypatch):
    in_file = few_rows(str(tmp_path))
    pruned = pruned_table(in_file, REFERENCE_RULES, str(tmp_path)).path
    for kind in ("baseline", "relational"):
        encoded_dataset(pruned, FeatureConfig(kind=kind), 0, str(tmp_path), in_file)
    real = outputs.version
    monkeypatch.setattr(outputs, "version", lambda name: "0.0" if name == "ViennaRNA" else real(name))
    for kind in ("baseline", "relational"):
        encoded_dataset(pruned, FeatureConfig(kind=kind), 0, str(tmp_path), in_file)
    assert len(list((tmp_path / "encoded").glob("[!.]*"))) == 3


def test_what_is_found_is_reported_as_reused(tmp_path):
    made: list[int] = []

    def make() -> None:
        made.append(1)
        (tmp_path / "x" / "out").write_text("y")

    trackers = MemoryTracker(), MemoryTracker()
    assert [make_or_find(tmp_path / "x" / "out", tracker, make) for tracker in trackers] == [False, True]
    assert [t.tag_values["reused"] for t in trackers] == ["false", "true"] and made == [1]
    assert "digest.out_file" in trackers[1].tag_values


def test_a_step_that_fails_leaves_nothing(tmp_path):
    def make() -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        make_or_find(tmp_path / "new" / "deep" / "out", MemoryTracker(), make)
    assert not list(tmp_path.iterdir())


def test_rejects_are_counted_again_where_the_table_is_found(tmp_path):
    frame = pd.read_parquet(SAMPLE).iloc[:6].copy()
    frame.loc[frame.index[1], "seq"] = "GG!"
    in_file = str(tmp_path / "spoilt.parquet")
    frame.to_parquet(in_file)
    rules = REFERENCE_RULES.model_copy(update={"max_len": int(frame["seq"].str.len().max()) - 1})
    with pytest.raises(UserError, match=r"1 of 6 rows cannot be used; the first is row 1 \(index 1\), column seq"):
        pruned_table(in_file, rules, str(tmp_path))
    made = pruned_table(in_file, rules, str(tmp_path), max_rejects=1)
    listed = pd.read_csv(PruneOptions(in_file=in_file, out_file=str(made.path)).rejects_path)
    assert len(listed) >= 2, "what max_len skips is listed, and not counted"
    assert pruned_table(in_file, rules, str(tmp_path), max_rejects=1) == made
    assert pruned_table(in_file, rules, str(tmp_path), max_rejects=ANY_NUMBER) == made
    with pytest.raises(UserError, match="1 of 6 rows cannot be used"):
        pruned_table(in_file, rules, str(tmp_path))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        RECORDED.write_text(json.dumps(recorded(scratch), indent=1) + "\n", encoding="utf-8")
