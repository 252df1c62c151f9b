"""Notebooks as reports: run in a fresh kernel, kept as one HTML page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from rna_s2.engine.tracker import Tracker
from rna_s2.options.errors import UserError
from rna_s2.options.files import atomic_path
from rna_s2.options.places import PROJECT_ROOT

CELL_SECONDS = 600
"""Longest time for one cell."""
ERRORS_FOR_PEOPLE = ("CheckFailed", "UserError")
"""Errors whose text is a sentence that needs no name before it."""

_SELF_CONTAINED = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
# nbconvert's page without the scripts that it would load from the network: a report has no formulas and no widgets.


def log_notebook(notebook: Path, name: str, environment: Mapping[str, str], tracker: Tracker) -> None:
    """:func:`run_notebook`, its page kept with a run under a name, also where a cell fails."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / name
        try:
            run_notebook(notebook, page, environment=environment)
        finally:
            if page.is_file():
                tracker.artifact(page)


def run_notebook(notebook: Path, out_html: Path, *, environment: Mapping[str, str]) -> None:
    """Run a notebook and write it as a self-contained HTML page without its code.

    The kernel is this Python, runs in the current folder (so that MLflow's default store, ``mlflow.db`` here, is the
    caller's) and can import the project from anywhere. The page is written also where a cell fails, takes longer than
    :data:`CELL_SECONDS` or ends the kernel; it then ends there. The kernel is gone when this returns.

    Args:
        notebook: the ``.ipynb`` file.
        out_html: the page.
        environment: variables that the kernel sees beside those of this process.

    Raises:
        UserError: a cell failed; for a check, its own sentence. Or the kernel was slow or ended.
    """
    content = nbformat.read(notebook, as_version=4)
    own_python = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        content, km=own_python, timeout=CELL_SECONDS, resources={"metadata": {"path": str(Path.cwd())}},
        extra_arguments=["--log-level=ERROR"],
    )
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
    failure: Exception | None = None
    said = ""
    try:
        client.execute(cleanup_kc=True, env={**os.environ, "PYTHONPATH": path, **environment})
    except CellExecutionError as error:
        failure, said = error, error.evalue if error.ename in ERRORS_FOR_PEOPLE else f"{error.ename}: {error.evalue}"
    except CellTimeoutError as error:
        failure, said = error, f"a cell took more than {CELL_SECONDS} s"
    except DeadKernelError as error:
        failure, said = error, "its Python process ended, perhaps for want of memory"
    exporter = HTMLExporter(
        raw_template=_SELF_CONTAINED, exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    page, _ = exporter.from_notebook_node(content)
    with atomic_path(out_html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if failure is not None:
        raise UserError(f"{notebook.name}: {said}") from failure
