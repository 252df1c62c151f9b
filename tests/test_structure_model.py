"""The registered end-to-end model: the best version is the champion, and it serves where the repository has never been."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from chain_models import EVERY_CELL, saved_models, small_models
from test_s2_model import post, wait_for

from rna_s2.options.errors import UserError
from rna_s2.pipeline.frames import predict_frame
from rna_s2.pipeline.open_models import ModelOptions, open_models
from rna_s2.pipeline.register_model import EXAMPLE, RegisterOptions, run_register
from rna_s2.pipeline.structure_prediction import predict
from rna_s2.rna import formats
from rna_s2.rna.pairs import from_dot_bracket
from rna_s2.tracking.client import open_client
from rna_s2.tracking.models import STRUCTURE_MODEL, registered_folder

SEQUENCES = ["GGGCGCAAGCCCAGGCUUUUGCCUA", "gcgcuuuugcgcauagcggaaaccgc", "A"]
OPENAPI = Path(__file__).resolve().parent.parent / "docs" / "openapi.yaml"


def expected():
    records = [formats.SequenceRecord(str(n), seq) for n, seq in enumerate(SEQUENCES)]
    return predict(records, *small_models(), EVERY_CELL).records


def test_frames():
    frame = pd.DataFrame({"sequence": SEQUENCES, "name": ["x", None, float("nan")]}, index=[5, 7, 9])
    found = predict_frame(frame, small_models(), EVERY_CELL)
    assert list(found.index) == [5, 7, 9] and list(found["name"]) == ["x", "1", "2"]
    for row, wanted in zip(found.to_dict("records"), expected(), strict=True):
        assert row["structure"] == wanted.dot_bracket() and row["confidence"] == pytest.approx(wanted.best.confidence)
        assert row["free_energy"] == pytest.approx(wanted.best.energy)
        assert [box["probability"] for box in row["boxes"]] == pytest.approx(wanted.probability.tolist(), abs=1e-6)
        assert sum(box["chosen"] for box in row["boxes"]) == wanted.chosen.sum()
        assert json.loads(json.dumps(row["boxes"])) == row["boxes"], "plain values"
    for wrong, said in [
        (pd.DataFrame({"seq": ["A"]}), "no column 'sequence'"),
        (pd.DataFrame({"sequence": ["A", "AX"]}), "row 1: character 'X'"),
        (pd.DataFrame({"sequence": ["A", None]}), "row 1: sequence must be a text"),
        (pd.DataFrame({"sequence": [""]}), "row 0: the sequence is empty"),
    ]:
        with pytest.raises(UserError, match=said):
            predict_frame(wrong, small_models(), EVERY_CELL)


def test_it_is_registered_and_serves_elsewhere(tracking_uri, tmp_path):
    s1, s2 = saved_models(tmp_path)
    structure = expected()[0].dot_bracket()
    right = formats.StructureRecord("right", SEQUENCES[0], from_dot_bracket(structure))
    (tmp_path / "right.dbn").write_text(formats.format_dot_bracket([right]))
    values = {"s1_model": s1, "s2_model": s2, "known": str(tmp_path / "right.dbn"), "registered_name": "rna-structure"}
    options = RegisterOptions.model_validate(values | {"chain": EVERY_CELL.model_dump(exclude_unset=True)})
    first = run_register(options)
    assert (first.version, first.is_champion) == ("1", True)
    champion = open_client().get_model_version_by_alias("rna-structure", "champion")
    assert champion.tags[STRUCTURE_MODEL.version_tag] == "1.0"

    models, chain = open_models(ModelOptions(model="models:/rna-structure"))
    assert chain == EVERY_CELL
    again = predict([formats.SequenceRecord("0", SEQUENCES[0])], *models, chain).records[0]
    np.testing.assert_allclose(again.probability, expected()[0].probability, atol=1e-6)
    with registered_folder("models:/rna-structure/1") as folder:
        assert sorted(p.name for p in folder.iterdir()) == ["chain.json", "s1", "s2"]
        kept = folder.parent.parent
        assert not [p for p in kept.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth")]
        assert "ViennaRNA" in (kept / "requirements.txt").read_text()
    with pytest.raises(UserError, match="no champion of a model 'none' is registered; registered models: rna-structure"):
        open_models(ModelOptions(model="models:/none"))

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/rna-structure@champion",
               "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(port, server, tmp_path / "serve.log")
        named = [{"sequence": s, "name": f"n{n}"} if n else {"sequence": s} for n, s in enumerate(SEQUENCES)]
        status, answer = post(port, {"dataframe_records": named})
        assert status == 200
        described = openapi_properties()
        for n, (row, wanted) in enumerate(zip(answer["predictions"], expected(), strict=True)):
            assert row["name"] == (f"n{n}" if n else "0") and row["structure"] == wanted.dot_bracket()
            assert row["free_energy"] == pytest.approx(wanted.best.energy, abs=1e-4)
            assert set(row) == described["Prediction"]
            assert all(set(box) == described["Box"] for box in row["boxes"])
        status, answer = post(port, {"dataframe_records": [{"sequence": "GGAUCC"}]})
        assert status == 200 and answer["predictions"][0]["name"] == "0"
        for wrong, said in [("GGXCC", "row 1: character 'X' at position 3"), ("", "row 1: the sequence is empty")]:
            status, answer = post(port, {"dataframe_records": [{"sequence": SEQUENCES[0]}, {"sequence": wrong}]})
            assert status == 400 and said in answer["message"].splitlines()[-1]
        status, answer = post(port, {"dataframe_records": [{"seq": "GG"}]})
        assert status == 400 and "sequence" in answer["message"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=60)


def openapi_properties() -> dict[str, set[str]]:
    """Names of the properties of each schema of the API's description."""
    schemas = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))["components"]["schemas"]
    return {name: set(schema.get("properties", {})) for name, schema in schemas.items()}


def test_the_description_of_the_api_names_what_the_model_takes_and_gives():
    described = openapi_properties()
    inputs = {column.name for column in STRUCTURE_MODEL.signature.inputs.inputs}
    outputs = {column.name for column in STRUCTURE_MODEL.signature.outputs.inputs}
    assert described["Sequence"] == inputs == set(EXAMPLE.columns) and described["Prediction"] == outputs
