"""Sets the project up, and runs its main job or its tests. Needs only Python 3.11 or newer, with venv and pip.

    python3 bootstrap.py                       set up, then run the main job on the data that comes with the repository
    python3 bootstrap.py --setup-only          set up
    python3 bootstrap.py --test [ARGUMENTS]    set up, then run the tests; arguments go to pytest

Setting up makes ``.venv``, installs requirements.txt into it, and makes ready what ``mlflow run`` looks for. The environment's
activation names the MLflow experiment of the runs, rna-s2, where ``MLFLOW_EXPERIMENT_NAME`` does not. Run again, it does only
what is missing: after an interruption, when requirements.txt has changed, when the folder has been moved.

``RNA_S2_VENV`` names another folder than ``.venv``; ``MLFLOW_ENV_ROOT`` is where MLflow keeps its environments.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - older ones must get this far, to say so
    sys.exit(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; run: python3.11 bootstrap.py")

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("RNA_S2_VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
TEST_WORKERS_MOST = 4

STAMP = "rna-s2-stamp.txt"  # says what is installed in an environment
OWN = "made-by-rna-s2-bootstrap.txt"  # says of an environment, from its first moment, that this script may replace it
MARK = "# made by bootstrap.py of rna-s2"
ACTIVATE = """{mark}
# `mlflow run` sources this file in the project's folder before the command. Each clone has an environment of its own
# there; a copy that MLflow fetched itself has none, and takes the one that was set up last.
for rna_s2_venv in "${{RNA_S2_VENV:-$PWD/.venv}}" {fallback}; do
    [ -f "$rna_s2_venv/bin/activate" ] && break
done
if [ -f "$rna_s2_venv/bin/activate" ]; then
    . "$rna_s2_venv/bin/activate"
else
    echo "error: there is no environment in $PWD yet; run: python3 bootstrap.py --setup-only" >&2
    false
fi
"""

EXPERIMENT = "rna-s2"
EXPERIMENT_SET = f"""
{MARK}: `mlflow run` puts its runs into the experiment that this names
if [ -z "${{MLFLOW_EXPERIMENT_NAME:-}}${{MLFLOW_EXPERIMENT_ID:-}}" ]; then
    RNA_S2_EXPERIMENT_SET=1
    export MLFLOW_EXPERIMENT_NAME={EXPERIMENT}
fi
"""
EXPERIMENT_UNSET = f"""    if [ -n "${{RNA_S2_EXPERIMENT_SET:-}}" ] ; then
        [ "${{MLFLOW_EXPERIMENT_NAME:-}}" != {EXPERIMENT} ] || unset MLFLOW_EXPERIMENT_NAME
        unset RNA_S2_EXPERIMENT_SET
    fi
"""
DEACTIVATE = "deactivate () {\n"

MLFLOW_HAS_CHANGED = 3  # exit status of ENVIRONMENT_FOLDER_CODE
ENVIRONMENT_FOLDER_CODE = f"""
import sys
from pathlib import Path
import mlflow
try:
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.virtualenv import _get_mlflow_virtualenv_root, _get_virtualenv_name
    root = Path.cwd()
    name = _get_virtualenv_name(_PythonEnv.from_yaml(root / "python_env.yaml"), root)
    print(Path(_get_mlflow_virtualenv_root()).expanduser().absolute() / name)
except (ImportError, AttributeError, TypeError) as error:
    print(f"MLflow {{mlflow.__version__}}: {{error}}", file=sys.stderr)
    sys.exit({MLFLOW_HAS_CHANGED})
"""


class SetUpError(Exception):
    """What stands in the way, in one line."""


def main(arguments):
    """The command; returns the exit status."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    testing = arguments[:1] == ["--test"]
    if not testing and arguments not in ([], ["--setup-only"]):
        raise SetUpError(f"unknown arguments '{shlex.join(arguments)}'; see: python3 bootstrap.py --help")
    set_up("requirements-test.txt" if testing else "requirements.txt")
    if testing:
        workers = str(min(TEST_WORKERS_MOST, os.cpu_count() or 1))
        return run_in_environment([str(PYTHON), "-m", "pytest", *(arguments[1:] or ["-n", workers])])
    status = 0
    if not arguments:
        status = run_in_environment([str(VENV / "bin" / "mlflow"), "run", ".", "-P", "preset=debug"])
    if status == 0:
        say_what_next()
    return status


def set_up(requirements):
    """Makes the environment hold a requirements file, where it does not yet."""
    stamp = VENV / STAMP
    wanted = f"{VENV}\n{python_version(BASE_PYTHON)}\n"
    stamps = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    if not stamps.startswith(wanted) or python_version(PYTHON) is None:
        make_venv()
        stamps = ""
    digest = digest_of(ROOT / requirements)
    if digest not in stamps.splitlines():
        stamp.unlink(missing_ok=True)
        install(requirements)
        done = {digest, digest_of(ROOT / "requirements.txt")}
        write_whole(stamp, wanted + "".join(f"{each}\n" for each in sorted(done)))
    name_experiment()
    make_ready_for_mlflow_run()


def write_whole(path, text):
    """Writes a file that is never half written, whoever else writes it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def python_version(python):
    """``3.11`` for an interpreter that runs, else None."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def digest_of(requirements):
    """SHA-256 of a requirements file and of those it includes."""
    text = requirements.read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("-r "):
            text += digest_of(requirements.with_name(line[3:].strip()))
    return hashlib.sha256(text.encode()).hexdigest()


def make_venv():
    """Makes the virtual environment; one that was made here before is replaced."""
    try:
        import ensurepip
        import venv
    except ImportError as error:
        raise SetUpError(
            f"this Python has no {error.name} module, which makes environments; install it "
            "(Debian and Ubuntu: apt install python3-venv) and run the same command again"
        ) from error
    del ensurepip, venv
    try:
        inside = {path.name for path in VENV.iterdir()} if VENV.is_dir() else set()
        if VENV.is_file() or (inside and not inside & {OWN, STAMP}):
            raise SetUpError(f"{shown(VENV)} is there and not made by this script; remove it, or set RNA_S2_VENV to another")
        print(f"making {shown(VENV)} with Python {python_version(BASE_PYTHON)}", flush=True)
        if VENV.is_symlink():
            VENV.unlink()
        elif VENV.exists():
            shutil.rmtree(VENV)
        VENV.mkdir(parents=True)
        (VENV / OWN).write_text(f"{MARK}\n", encoding="utf-8")
        subprocess.run([BASE_PYTHON, "-m", "venv", str(VENV)], check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetUpError(f"{shown(VENV)} cannot be made ({error}); mend that and run the same command again") from error


def name_experiment():
    """Lets the environment's activation name the experiment of the runs, where the user has not; ``deactivate`` ends it."""
    activate = VENV / "bin" / "activate"
    try:
        text = activate.read_text(encoding="utf-8")
        if MARK in text:
            return
        write_whole(activate, text.replace(DEACTIVATE, DEACTIVATE + EXPERIMENT_UNSET, 1) + EXPERIMENT_SET)
    except OSError as error:
        raise SetUpError(
            f"{shown(activate)} cannot be changed ({error.strerror}); remove {shown(VENV)} and run this again"
        ) from error


def install(requirements):
    """Installs a requirements file with pip."""
    print(f"installing {requirements}; the first time this takes some minutes", flush=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise SetUpError(
            f"{requirements} could not be installed (pip says why, above); "
            "check the network and the free disk space, and run the same command again"
        )


def environment_folder():
    """The folder that ``mlflow run`` takes for this project's environment.

    Its name is a hash that only private functions of MLflow give, and this is the one place that uses them. The public ways,
    tried with MLflow 3.17, do not run the command as it is typed: an option (``--env-manager local``) has no environment
    variable or entry in MLproject; ``conda_env`` needs conda; ``docker_env`` needs Docker; a project without an environment
    file still gets a folder of that name, and fails where pyenv is missing. tests/test_bootstrap.py runs a project to see
    that MLflow looks into this folder.
    """
    done = subprocess.run([str(PYTHON), "-c", ENVIRONMENT_FOLDER_CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode == MLFLOW_HAS_CHANGED:
        raise SetUpError(
            f"MLflow no longer says where `mlflow run` looks for environments ({last}): environment_folder() in bootstrap.py "
            "must follow it; until then, activate the environment and type: mlflow run . --env-manager local"
        )
    if done.returncode != 0:
        raise SetUpError(f"the environment in {shown(VENV)} does not work ({last}); remove it and run this again")
    return Path(done.stdout.strip().splitlines()[-1])


def make_ready_for_mlflow_run():
    """Puts the folder in place that ``mlflow run`` takes for this project's environment.

    MLflow would build it with pyenv, under a name made of python_env.yaml and requirements.txt, and takes it as it is
    where it exists. All that MLflow ever does with it is to source its ``bin/activate`` in the project's folder, so that
    file alone is enough: it activates the environment of the clone that it is sourced in.
    """
    folder = environment_folder()
    activate = folder / "bin" / "activate"
    text = ACTIVATE.format(mark=MARK, fallback=shlex.quote(str(VENV)))
    try:
        if activate.is_file():
            there = activate.read_text(encoding="utf-8", errors="replace")
            if there == text or (not there.startswith(MARK) and python_version(folder / "bin" / "python")):
                return
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists() and not (activate.is_file() and there.startswith(MARK)):
            folder.rename(folder.with_name(f"{folder.name}.broken-{os.getpid()}"))
        activate.parent.mkdir(parents=True, exist_ok=True)
        write_whole(activate, text)
    except OSError as error:
        raise SetUpError(
            f"{folder} cannot be made ({error.strerror}); set MLFLOW_ENV_ROOT to a folder that you can write to"
        ) from error


def run_in_environment(command):
    """Runs a command in the project's folder as in the activated environment; returns its exit status."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    environment["VIRTUAL_ENV"] = str(VENV)
    if not environment.get("MLFLOW_EXPERIMENT_ID"):
        environment["MLFLOW_EXPERIMENT_NAME"] = environment.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    environment["PATH"] = os.pathsep.join([str(VENV / "bin"), environment.get("PATH", os.defpath)])
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def say_what_next():
    """Says how to go on."""
    print(
        f"""
Ready. To go on, activate the environment in this shell and type, for example:

    . {shlex.quote(shown(VENV / "bin" / "activate"))}
    mlflow run . -e train -P config=configs/baseline.yaml
    mlflow ui
"""
    )


def shown(path):
    """A path as the user would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetUpError as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to go on")
