"""The list of mistakes keeps up with the source, and drawn ones are what Python can run."""

import ast
from dataclasses import fields

import pytest

from circuitprune.config import RunConfig
from circuitprune.pipelines.verify_config import EvidenceConfig
from circuitprune.runs.settings import flatten
from tests import mutants

NOTES = mutants.notes()  # which refuses a planted one that is not in its file once


def test_planted_mistakes_are_python_or_scripts():
    assert len(NOTES.planted) >= 15
    for mutant in NOTES.planted:
        if mutant.path.endswith(".py"):
            ast.parse(mutant.text)
        assert mutant.text != (mutants.PACKAGE / mutant.path).read_text()


def test_what_is_known_to_change_nothing_can_still_be_drawn():
    files = {path for path, *_ in NOTES.equivalent}
    known = {one.key for path in files for one in mutants.mutants_of(mutants.PACKAGE / path)}
    assert known >= NOTES.equivalent


def test_drawn_mistakes_change_the_tree_and_nothing_else_breaks():
    folders = ("lens", "metrics.py", "runs")
    drawn = mutants.drawn(60, 3, folders)
    assert len(drawn) == 60 and {one.path.split("/")[0] for one in drawn} == {*folders}
    for mutant in drawn:
        source = (mutants.PACKAGE / mutant.path).read_text()
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(ast.parse(source)), mutant
    assert drawn == mutants.drawn(60, 3, folders) != mutants.drawn(60, 4, folders)


def test_every_setting_can_be_ignored():
    found = list(mutants.ignored())
    assert len(found) == len(flatten(RunConfig())) + len(fields(EvidenceConfig))
    for mutant in found:
        ast.parse(mutant.text)


@pytest.mark.parametrize("name", ["engine/stream.py", "metrics.py", "views/report/data.py"])
def test_the_tests_of_a_file_come_with_its_own_in_front(name):
    tests = mutants.those_for(name, mutants.ROOT)
    assert all((mutants.ROOT / test).exists() for test in tests) and len(set(tests)) == len(tests)
    folder = name.split("/")[0]
    first = {"engine/stream.py": "tests/engine/", "metrics.py": "tests/test_metrics.py"}
    assert tests[0].startswith(first.get(name, f"tests/{folder}/"))
