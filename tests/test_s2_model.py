"""Registered S2 models: found by their alias, loaded where the repository has never been, served over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from s2_data import random_dataset

from rna_s2.boxtables.read import table_from_frame
from rna_s2.options.errors import UserError
from rna_s2.s2.architectures import build_network
from rna_s2.s2.config import NetworkConfig
from rna_s2.s2.features import encode_boxes
from rna_s2.s2.network import BoxNetwork
from rna_s2.s2.scorer import Scorer
from rna_s2.tracking.client import open_client
from rna_s2.tracking.models import S2_ENERGY_MODEL, S2_MODEL
from rna_s2.tracking.registry import CHAMPION, ModelType, champion_uri, log_model
from rna_s2.tracking.runs import start_run

SIZES = NetworkConfig(n_dim=10, n_attn_layer=1, n_heads=2, n_ff=8, n_hid=4)
FRAME = pd.DataFrame(
    {
        "seq": ["GGGAAAUCCC", "GCGCUUUUGCGCA", "AAAA"],
        "bb_stem": [
            [{"bb_x": 0, "bb_y": 9, "siz_x": 3, "siz_y": 3, "prob_sm": [0.5], "prob_sl": []}],
            [{"bb_x": 0, "bb_y": 11, "siz_x": 4, "siz_y": 4}, {"bb_x": 1, "bb_y": 10, "siz_x": 2, "siz_y": 2}],
            None,
        ],
        "bb_iloop": [[], [{"bb_x": 0, "bb_y": 11, "siz_x": 2, "siz_y": 3}], None],
        "bb_hloop": [[{"bb_x": 2, "bb_y": 7, "siz_x": 6, "siz_y": 6}], [], None],
    }
)
"""Rows with 2, 3 and no boxes."""

STARTS_WITHIN = 120
"""Seconds that a model server may take to start."""


def scorer() -> Scorer:
    data = random_dataset([(3, 2, 1)])
    return Scorer.of(BoxNetwork(SIZES, len(data.meta.feature_names), {}), SIZES, data)


def relational_scorer() -> Scorer:
    data = encode_boxes(table_from_frame(FRAME, require_targets=False).table, "relational")
    sizes = SIZES.model_copy(update={"architecture": "relational"})
    return Scorer.of(build_network(sizes, data.meta.feature_names, {}), sizes, data)


def logged(
    folder: Path, auroc: float, registered_name: str | None = "s2-test", of: Scorer | None = None,
    kind: ModelType = S2_MODEL,
):
    (of or scorer()).save(folder / "model")
    with start_run("train", "train test") as tracker:
        return log_model(
            tracker, folder / "model", kind, name="test", registered_name=registered_name, input_example=FRAME.head(2),
            metrics={"val/auroc": auroc},
        )


def champion() -> str:
    return str(open_client().get_model_version_by_alias("s2-test", CHAMPION).version)


def test_the_champion_is_the_version_with_the_best_validation_auroc(tracking_uri, tmp_path):
    first = logged(tmp_path / "a", 0.8)
    worse = logged(tmp_path / "b", 0.7)
    better = logged(tmp_path / "c", 0.9)
    assert [m.is_champion for m in (first, worse, better)] == [True, False, True]
    assert champion() == better.version
    equal, undefined = logged(tmp_path / "e", 0.9), logged(tmp_path / "f", float("nan"))
    unregistered = logged(tmp_path / "d", 0.95, registered_name=None)
    assert not equal.is_champion and not undefined.is_champion and unregistered.version is None
    assert champion() == better.version
    with pytest.raises(UserError, match="no champion of a model 's2-nothing'"):
        champion_uri("s2-nothing")


def test_of_two_registered_at_the_same_time_the_better_is_the_champion(tracking_uri, tmp_path, monkeypatch):
    """The other process registers its version, and makes it the champion, just before this one sets the alias."""
    real, others = MlflowClient.set_registered_model_alias, []

    def set_late(client, name, alias, version):
        if not others:
            others.append(None)
            others.append(logged(tmp_path / "better", 0.9))
        real(client, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_late)
    mine = logged(tmp_path / "mine", 0.7)
    assert others[1].is_champion and not mine.is_champion
    assert champion() == others[1].version


def test_a_model_is_used_over_http_and_where_the_repository_has_never_been(tracking_uri, tmp_path):
    model = logged(tmp_path, 0.8)
    expected = scorer_of(tmp_path).score_frame(FRAME)
    assert [len(row) for row in expected] == [2, 3, 0]

    environment = environment_of(tracking_uri)
    elsewhere = tmp_path / "elsewhere"
    for found, wanted in zip(scores_elsewhere(elsewhere, environment, model.version), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)

    local = mlflow.artifacts.download_artifacts(f"models:/s2-test/{model.version}", dst_path=str(tmp_path / "download"))
    assert not [p for p in Path(local).rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth")]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/s2-test/{model.version}",
               "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=elsewhere, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(port, server, tmp_path / "serve.log")
        records = json.loads(FRAME.to_json(orient="records"))
        status, answer = post(port, {"dataframe_records": records})
        assert status == 200
        for found, wanted in zip(answer["predictions"], expected, strict=True):
            np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-5)
        records[0]["bb_stem"][0]["siz_x"] = -3
        status, answer = post(port, {"dataframe_records": records})
        assert status == 400 and answer["message"].splitlines()[-1].startswith("Error: input: row 0, bb_stem")
        status, answer = post(port, {"dataframe_records": [{"seq": "GGXCC"}]})
        assert status == 400 and "X" in answer["message"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def environment_of(tracking_uri: str) -> dict[str, str]:
    """The environment of a process that knows the tracking store and not the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


def scores_elsewhere(folder: Path, environment: dict[str, str], version: str | None) -> list[list[float]]:
    """Scores of the frame by a registered version, in a process of its own that starts in an empty folder."""
    folder.mkdir()
    FRAME.to_json(folder / "frame.json", orient="records")
    code = (
        "import mlflow, pandas as pd\n"
        f"model = mlflow.pyfunc.load_model('models:/s2-test/{version}')\n"
        "scores = model.predict(pd.read_json('frame.json', orient='records'))\n"
        "scores['probabilities'].to_json('scores.json', orient='values')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True)
    return json.loads((folder / "scores.json").read_text())


def test_a_relational_model_computes_its_features_where_the_repository_has_never_been(tracking_uri, tmp_path):
    model = logged(tmp_path, 0.8, of=relational_scorer(), kind=S2_ENERGY_MODEL)
    expected = scorer_of(tmp_path).score_frame(FRAME)
    assert [len(row) for row in expected] == [2, 3, 0]
    found = scores_elsewhere(tmp_path / "elsewhere", environment_of(tracking_uri), model.version)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    requirements = Path(mlflow.artifacts.download_artifacts(f"models:/s2-test/{model.version}/requirements.txt"))
    assert "ViennaRNA==" in requirements.read_text()


def scorer_of(folder: Path) -> Scorer:
    return Scorer.load(folder / "model")


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the model server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def post(port: int, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
