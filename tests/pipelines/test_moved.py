"""What 0.1 could import can still be imported, with a warning that says where it is now."""

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import circuitprune
from circuitprune.pipelines.moved import MOVED, keep_old_paths

NAMES = {
    module: names.split()
    for module, names in json.loads(
        Path(__file__).with_name("names_of_0_1.json").read_text()
    ).items()
}
"""The public names of every module of 0.1 that has another place now."""
pytestmark = pytest.mark.filterwarnings("ignore:circuitprune:DeprecationWarning")

RETIRED = {
    "partial_run.Kept",
    "answers.Answers",
    "compare.LARGEST",
    "compare.Pair",
    "evidence.case.Progress",
    "evidence.case.silent",
    "evidence.examples.full_examples",
    "gradients.pass_over",
    "folder.complete",
    "mixing.mixed",
    "references.Prompts",
    "evidence.examples.per_example",
    "explained.AT_CLEAN_RUN",
    "figures.sources.chosen_of",
    "figures.sources.read_points",
    "objectives.Objective",
    "report.data.COMMAND",
    "results.versions",
    "scoring.SHARDED",
    "shards.bar",
    "verification.with_faithfulness",
    "verify_page.TABLES",
}
"""Names whose thing is gone, not moved."""


STAYED = {
    module: names.split()
    for module, names in json.loads(
        Path(__file__).with_name("names_that_stayed.json").read_text()
    ).items()
}
"""The public names of modules of 0.1 that have the same place now."""


def old(module):
    """An old module, imported afresh."""
    name = f"circuitprune.{module}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is now circuitprune"):
        return import_module(name)


def test_the_table_has_every_old_module():
    assert set(NAMES) == set(MOVED)


@pytest.mark.parametrize("module", MOVED)
@pytest.mark.filterwarnings("ignore:circuitprune:DeprecationWarning")  # of the folder above
def test_every_old_name_is_handed_on(module):
    face = old(module)
    lost = {name for name in NAMES[module] if not hasattr(face, name)}
    assert {f"{module}.{name}" for name in lost} <= RETIRED


@pytest.mark.parametrize("module", STAYED)
@pytest.mark.filterwarnings("ignore:circuitprune:DeprecationWarning")
def test_every_name_is_still_where_it_was(module):
    here = import_module(f"circuitprune.{module}")
    lost = {f"{module}.{name}" for name in STAYED[module] if not hasattr(here, name)}
    assert lost <= RETIRED


def test_a_renamed_thing_warns_and_is_the_new_object():
    from circuitprune.evidence.idle_edges import idle_edges

    place = import_module("circuitprune.evidence.hypotheses")
    with pytest.warns(DeprecationWarning, match=r"is now circuitprune\.evidence\.idle_edges"):
        assert place.minimality is idle_edges
    with pytest.raises(AttributeError, match="no attribute 'minimalty'"):
        place.minimalty  # noqa: B018


def test_what_is_retired_is_gone():
    for name in RETIRED:
        module, _, attribute = name.rpartition(".")
        places = [
            import_module(f"circuitprune.{place}") for place in MOVED.get(module, module).split()
        ]
        assert not any(hasattr(place, attribute) for place in places), name


def test_no_old_name_hides_a_file():
    for module in MOVED:
        path = Path(circuitprune.__file__).parent / module.replace(".", "/")
        assert not path.exists(), module
        assert not path.with_suffix(".py").exists(), module


def test_an_old_name_is_the_new_object():
    from circuitprune.circuits.graph import Graph

    assert old("graph").Graph is Graph
    with pytest.raises(AttributeError, match=r"circuitprune\.graph.*no attribute 'Grpah'"):
        old("graph").Grpah  # noqa: B018
    assert old("tasks.ioi").Ioi is import_module("circuitprune.data.tasks.ioi").Ioi


def test_an_unknown_module_stays_unknown():
    assert find_spec("circuitprune.grpah") is None
    with pytest.raises(ModuleNotFoundError, match=r"circuitprune\.grpah"):
        import_module("circuitprune.grpah")


def test_the_finder_stands_there_once_and_last():
    before = list(sys.meta_path)
    keep_old_paths()
    assert sys.meta_path == before


def test_an_import_warns_on_its_own_line_and_loads_nothing_yet(tmp_path):
    script = tmp_path / "mine.py"
    new = "circuitprune.views.figures.transfer"
    lines = ("import sys", "import circuitprune.figures.transfer", f"print({new!r} in sys.modules)")
    script.write_text("\n".join(lines))
    run = [sys.executable, "-W", "default::DeprecationWarning:__main__", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert f"{script}:2: DeprecationWarning" in done.stderr
    assert f"circuitprune.figures.transfer is now {new}" in done.stderr
