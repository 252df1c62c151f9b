"""Notebooks as reports: run in a fresh kernel, kept as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from entry.errors import UserError
from entry.files import atomic_path

CELL_SECONDS = 600
"""Longest time for one cell."""


def run_notebook(notebook: Path, out_html: Path, *, environment: Mapping[str, str]) -> None:
    """Run a notebook and write it as a self-contained HTML page without its code.

    The page is written also where a cell fails; it then ends with the failure.

    Args:
        notebook: the ``.ipynb`` file; it runs in its own folder.
        out_html: the page.
        environment: variables that the kernel sees beside those of this process.

    Raises:
        UserError: a cell failed; names its last line.
    """
    content = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(notebook.resolve().parent)}}
    client = NotebookClient(content, timeout=CELL_SECONDS, resources=resources)
    failure: CellExecutionError | None = None
    with _environment(environment):
        try:
            client.execute()
        except CellExecutionError as error:
            failure = error
    exporter = HTMLExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    page, _ = exporter.from_notebook_node(content)
    with atomic_path(out_html) as path:
        path.write_text(page, encoding="utf-8")
    if failure is not None:
        raise UserError(f"{notebook.name}: {failure.ename}: {failure.evalue}") from failure


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
