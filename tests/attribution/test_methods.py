"""The record of each method: complete, alone in knowing its facts, and read without torch."""

import ast
import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import FunctionType

import pytest
import torch
from conftest import build_tiny_model

from attribution.test_attribution import by_logit_diff, minus_kl, pairs, patched
from circuitprune.attribution import METHODS, Method
from circuitprune.attribution.methods import has_signs, names_with
from circuitprune.circuits.graph import Graph
from circuitprune.errors import ConfigError
from circuitprune.metrics import prob_diff

PACKAGE = Path(__file__).parents[2] / "circuitprune"


def answer_of(code: str) -> object:
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return json.loads(done.stdout)


def test_the_records_are_read_without_torch():
    loaded = answer_of(
        "import json, sys\n"
        "import circuitprune.errors\n"
        "before = set(sys.modules)\n"
        "from circuitprune.attribution import METHODS\n"
        "print(json.dumps([sorted(METHODS), sorted(set(sys.modules) - before)]))"
    )
    names, modules = loaded
    assert names == sorted(METHODS)
    assert not {"torch", "jaxtyping", "circuitprune.engine"} & set(modules)


@pytest.mark.parametrize("first", ["circuitprune.attribution.eap", "circuitprune.attribution"])
def test_a_methods_name_is_its_function_whichever_was_imported_first(first):
    kinds = answer_of(
        f"import json, {first}\n"
        "from circuitprune.attribution import eap, random\n"
        "from circuitprune.attribution.eap import eap as inner\n"
        "print(json.dumps([type(eap).__name__, type(random).__name__, eap is inner]))"
    )
    assert kinds == ["function", "function", True]


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from circuitprune.attribution import nothing  # noqa: F401


@pytest.mark.parametrize("name", names_with("function"))
def test_every_record_finds_its_function(name):
    method = METHODS[name]
    assert isinstance(method.score, FunctionType) and method.score.__name__ == name
    assert (method.score_nodes is None) == (method.nodes is None)


@pytest.fixture(scope="module")
def references():
    return patched(build_tiny_model("gpt2"))


@pytest.mark.parametrize("name", names_with("function"))
def test_what_a_record_says_of_its_function_is_so(references, name):
    """Seen from its scores under other metrics and other numbers of steps."""
    method, batches = METHODS[name], [pairs((2,))]
    assert signature(method.score).parameters["steps"].default == (method.steps or 1)

    def scores(metric, steps=2):
        return method.score(references, batches, metric, steps)

    usual = scores(by_logit_diff)
    assert bool((usual < 0).any()) == method.signed
    assert torch.equal(usual, scores(prob_diff)) == (method.metric == "none")
    assert torch.equal(usual, scores(by_logit_diff, 3)) != method.steps
    if method.metric != "none":
        flat = scores(minus_kl(references)).abs().max() < 1e-6 * usual.abs().max()
        assert bool(flat) == method.at_clean_run


def test_a_function_of_ones_own_is_taken_as_it_is():
    mine = Method(function=has_signs, cost=None, by_kv_head="sum")
    assert mine.score is has_signs


def test_a_search_says_that_it_has_no_scores():
    with pytest.raises(ConfigError, match="sweep"):
        _ = METHODS["acdc"].score


def test_a_record_without_its_meaning_is_refused():
    with pytest.raises(TypeError, match="by_kv_head"):
        Method(function="eap:eap", cost=None)


def test_costs_are_those_of_the_graph_and_the_steps():
    graph = Graph(2, 2, 2)
    cost = {name: m.cost(graph, 5) for name, m in METHODS.items() if m.cost is not None}
    assert cost["eap"] == 3 and cost["eap_ig_inputs"] == 16 and cost["gate_ig"] == 15
    assert cost["exact"] == graph.n_edges / 4 and cost["per_writer_ig"] == 15 * graph.n_writers


def test_signs_are_denied_by_a_record_alone():
    assert not has_signs("ugs") and has_signs("eap") and has_signs(None) and has_signs(["mine"])


def literals_of_names(path: Path) -> list[str]:
    """Places where two or more names of methods stand in one literal."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
        names = {part.value for part in parts if isinstance(part, ast.Constant)}
        if len(names & set(METHODS)) > 1:
            found.append(f"{path}:{node.lineno}")
    return found


def test_no_other_file_lists_methods():
    records = PACKAGE / "attribution" / "methods.py"
    public = PACKAGE / "attribution" / "__init__.py"  # names to import, no fact of them
    assert literals_of_names(records)
    others = sorted(set(PACKAGE.rglob("*.py")) - {records, public})
    assert [place for path in others for place in literals_of_names(path)] == []
