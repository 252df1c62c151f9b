"""Setting up: what is replaced, and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["thesis.txt", "pyvenv.cfg"])
def test_a_folder_of_the_users_own_is_left_alone(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    for folder in ("mine", "link", f"mine/{name}"):
        done = subprocess.run(
            [sys.executable, ROOT / "bootstrap.py", "--setup-only"], env={**os.environ, "RNA_S2_VENV": str(tmp_path / folder)},
            capture_output=True, text=True, check=False,
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "not made by this script" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mark", [bootstrap.OWN, bootstrap.STAMP])
def test_what_an_interrupted_set_up_left_is_replaced(tmp_path, monkeypatch, mark):
    def made(command, check):
        (Path(command[-1]) / "made").write_text("")

    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    monkeypatch.setattr(bootstrap, "python_version", lambda python: "3.11")
    monkeypatch.setattr(bootstrap.subprocess, "run", made)
    (tmp_path / "venv").mkdir()
    for name in (mark, "half of something"):
        (tmp_path / "venv" / name).write_text("")
    bootstrap.make_venv()
    assert {path.name for path in (tmp_path / "venv").iterdir()} == {bootstrap.OWN, "made"}


SHOW = 'echo "[$MLFLOW_EXPERIMENT_NAME]"'


@pytest.fixture
def activation(tmp_path, monkeypatch) -> Path:
    """The activation of an environment, as bootstrap leaves it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    bootstrap.name_experiment()
    bootstrap.name_experiment()
    return tmp_path / "venv" / "bin" / "activate"


@pytest.mark.parametrize(
    ("before", "within", "after"),
    [("", "rna-s2", ""), ("export MLFLOW_EXPERIMENT_NAME=mine", "mine", "mine"), ("export MLFLOW_EXPERIMENT_ID=7", "", "")],
)
def test_the_activation_names_the_experiment_unless_the_user_has(activation, before, within, after):
    assert shown_names(f"{before}\n. '{activation}'\n{SHOW}\ndeactivate\n{SHOW}\n") == [f"[{within}]", f"[{after}]"]


def test_deactivate_keeps_a_name_that_the_user_has_set_since(activation):
    activate = f". '{activation}'"
    shell = [activate, "export MLFLOW_EXPERIMENT_NAME=mine", "deactivate", SHOW, activate, SHOW, "deactivate", SHOW]
    assert shown_names("\n".join(shell)) == ["[mine]"] * 3


def shown_names(shell: str) -> list[str]:
    """What a shell shows that begins without the variables of experiments."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_EXPERIMENT")}
    done = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_mlflow_run_takes_the_environment_that_is_made_ready(tmp_path, monkeypatch):
    """The literal command, in a project with the same files; fails when MLflow looks for its environments elsewhere."""
    project, environments = tmp_path / "project", tmp_path / "environments"
    project.mkdir()
    for name in ("python_env.yaml", "requirements.txt"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    (project / "MLproject").write_text(
        "name: toy\npython_env: python_env.yaml\nentry_points:\n  main:\n    command: echo $TOY_ENVIRONMENT > activated.txt\n"
    )
    python = Path(sys.prefix) / "bin"
    made = project / ".venv" / "bin"
    made.mkdir(parents=True)
    (made / "activate").write_text(f"export TOY_ENVIRONMENT=made-ready PATH='{python}':$PATH\n")
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(environments))
    monkeypatch.setattr(bootstrap, "ROOT", project)
    monkeypatch.setattr(bootstrap, "VENV", project / ".venv")
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    bootstrap.make_ready_for_mlflow_run()
    for other in ("conda", "pyenv"):  # MLflow must ask neither: the command works with them and without
        (made / other).write_text("#!/bin/sh\nexit 1\n")
        (made / other).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RNA_S2_VENV"))}
    environment |= {
        "MLFLOW_ENV_ROOT": str(environments), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": bootstrap.EXPERIMENT, "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": os.pathsep.join([str(made), str(python), os.environ["PATH"]]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", "."], cwd=project, env=environment, capture_output=True, text=True, check=False,
        timeout=120,
    )
    assert done.returncode == 0 and (project / "activated.txt").read_text() == "made-ready\n", (
        "mlflow run does not take the environment that bootstrap.py makes ready: MLflow has changed where it looks for the "
        f"environments of projects, see environment_folder() in bootstrap.py\n{done.stderr[-2000:]}"
    )
    from mlflow.tracking import MlflowClient

    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([client.get_experiment_by_name(bootstrap.EXPERIMENT).experiment_id])
    assert run.info.status == "FINISHED", "the experiment that the activation names is where mlflow run puts its run"


@pytest.mark.parametrize(
    ("mlflow", "said"),
    [
        ("__version__ = '9.9'", "MLflow no longer says where .* environment_folder.* --env-manager local"),
        ("import not_there_at_all", "does not work .* remove it"),
    ],
)
def test_a_changed_mlflow_and_a_broken_environment_are_said_apart(tmp_path, monkeypatch, mlflow, said):
    (tmp_path / "mlflow" / "utils").mkdir(parents=True)
    (tmp_path / "mlflow" / "__init__.py").write_text(mlflow)
    for name in ("__init__", "environment", "virtualenv"):
        (tmp_path / "mlflow" / "utils" / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    with pytest.raises(bootstrap.SetUpError, match=said):
        bootstrap.environment_folder()
