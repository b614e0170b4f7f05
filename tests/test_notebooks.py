"""The notebooks run one after another, and are stored as they ran, without traces of a machine."""

import json
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
REAL = "real-model"
"""Tag of the one cell of each notebook that needs SmolLM2-135M."""
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def is_real(cell):
    return REAL in cell.metadata.get("tags", [])


def kinds(cell):
    """What a cell shows, by kind: streams by name, all else by its forms.

    A stream comes in one piece or in several, as the kernel has time to send it.
    """
    found = [output.get("name") or sorted(output.data) for output in cell.outputs]
    return [kind for kind, _ in groupby(found)]


def run(real):
    """Every notebook's code cells as they ran, in one kernel that forgets all names in between."""
    joined, found = new_notebook(), {}
    for path in NOTEBOOKS:
        found[path] = [cell for cell in code_cells(path) if real or not is_real(cell)]
        forget = new_code_cell(f"%reset -f\n%cd -q {FOLDER}\n%matplotlib inline")
        joined.cells += [forget, *found[path]]
    NotebookClient(joined, timeout=900, kernel_name="python3").execute()
    return found


# ---------------------------------------------------------------- what runs


def test_the_three_are_there():
    assert NAMES == ["high_level", "low_level", "your_own_task"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_they_run_and_show_what_is_stored(monkeypatch):
    """Cells assert what their text says: a wrong number fails here too, not only an exception."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for path, cells in run(real=False).items():
        stored = [cell for cell in code_cells(path) if not is_real(cell)]
        assert [kinds(cell) for cell in cells] == [kinds(cell) for cell in stored], path.stem
        shown = json.dumps([cell.outputs for cell in cells])
        assert "<table" in shown and "image/png" in shown and "text/markdown" in shown


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(1200)
def test_the_cells_of_the_real_model_run(monkeypatch, real_model):
    monkeypatch.setenv("SMOLLM2", str(real_model("smollm2-135m")))
    for path, cells in run(real=True).items():
        (stored,) = filter(is_real, code_cells(path))
        (cell,) = filter(is_real, cells)
        assert kinds(cell) == kinds(stored), path.stem


# ---------------------------------------------------------------- what is stored


@every_notebook
def test_it_is_stored_with_the_outputs_of_one_run(path):
    nbformat.validate(nbformat.read(path, 4))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        counts = [output.get("execution_count", cell.execution_count) for output in cell.outputs]
        assert set(counts) <= {cell.execution_count}
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert all(cell.outputs for cell in cells if is_real(cell))
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_it_is_stored_without_traces_of_a_machine(path):
    metadata = nbformat.read(path, 4).metadata
    assert metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(root in path.read_text() for root in ("/home/", "/Users/", "/tmp/", "/root/"))
    assert "stderr" not in [kind for cell in code_cells(path) for kind in kinds(cell)]


@every_notebook
def test_another_model_is_one_line(path):
    lines = [line for cell in nbformat.read(path, 4).cells for line in cell.source.splitlines()]
    assert [line for line in lines if line.startswith("MODEL =")] == [
        'MODEL = "zoo/small"  # or "gpt2": the hub\'s GPT-2 small, where it is cached or reachable'
    ]
    assert sum("zoo/small" in line for line in lines) == 1
    assert sum(is_real(cell) for cell in code_cells(path)) == 1


@every_notebook
def test_text_stands_before_code_and_code_checks_itself(path):
    cells = nbformat.read(path, 4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    code = [cell.source for cell in cells if cell.cell_type == "code" and not is_real(cell)]
    assert sum("assert" in source for source in code) >= len(code) / 2


@every_notebook
def test_it_teaches(path):
    """Exercises with their answers folded, and findings printed from what was measured."""
    cells = nbformat.read(path, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert text.count("**Exercise") == text.count("<details><summary>Answer</summary>") >= 2
    assert text.count("<details>") == text.count("</details>")
    (at,) = [i for i, cell in enumerate(cells) if cell.source.rstrip().endswith("## Findings")]
    (finding,) = cells[at + 1].outputs
    assert finding.data["text/markdown"].count("\n* ") >= 3


@every_notebook
def test_links_lead_somewhere(path):
    from documents import links

    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    for link in links(text):
        assert link.startswith("http") or (FOLDER / link.partition("#")[0]).exists(), link
