"""Run notebooks and keep what they show:  python scripts/run_notebooks.py [NOTEBOOK ...]

Cells tagged `real-model` need SmolLM2-135M, as they say. With `--without-real` they are left out,
and what they showed before stays. No times, no paths: nothing of the machine is stored.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path, real: bool) -> None:
    """Run one notebook from a clean kernel and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    run = NotebookNode({**notebook, "cells": [c for c in notebook.cells if real or not is_real(c)]})
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(run, timeout=1800, resources=where, record_timing=False).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        for one in [cell, *(o for o in cell.outputs if "execution_count" in o)]:
            one.execution_count = number
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def is_real(cell: NotebookNode) -> bool:
    """Whether a cell is about the real model."""
    return "real-model" in cell.metadata.get("tags", [])


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--without-real"]
    for path in map(Path, names) if names else sorted(FOLDER.glob("*.ipynb")):
        run(path, real="--without-real" not in sys.argv)
