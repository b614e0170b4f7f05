"""CPR and CMD against hand-worked numbers and a curve computed straight from MIB's definition."""

import math
from dataclasses import replace

import pytest
import torch
from evidence_cases import tiny_case, written
from reference_evidence import MIB_SIZES, area, on_a_path
from tiny import quick_config, save_model, save_pairs
from torch.testing import assert_close

from circuitprune.attribution import METHODS
from circuitprune.attribution.nodes import lift
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.engine.evaluation import (
    evaluate,
    evaluate_each,
    evaluate_full,
    evaluate_full_each,
)
from circuitprune.errors import GraphError
from circuitprune.evidence.bootstrap import Bootstrap
from circuitprune.evidence.mib import SIZES, acc_auc, cmd, cpr, edge_circuits, mib, node_circuits
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.scoring import Scoring, attribution_metric, by_method
from circuitprune.pipelines.setup import make_setup, training_batches
from circuitprune.pipelines.subject import read_run

GRAPH = Graph(3, 4, 4)
GRAPH_OF_RUNS = Graph(2, 4, 4, d_model=32)


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_areas_by_hand():
    ideal, nothing = values(*[1.0] * 10), values(*[0.0] * 10)
    assert cpr(ideal).item() == pytest.approx(0.999) and cmd(ideal).item() == 0
    assert cpr(nothing).item() == 0 and cmd(nothing).item() == pytest.approx(0.999)
    # 0 up to half of the edges, then 1: one triangle of width 0.5
    late = values(*[0.0] * 9, 1.0)
    assert cpr(late).item() == pytest.approx(0.25) and cmd(late).item() == pytest.approx(0.749)
    # 3 at size 0.2, else 1: two triangles of height 2 over (0.1, 0.2) and (0.2, 0.5)
    over = values(*[1.0] * 7, 3.0, 1.0, 1.0)
    assert cpr(over).item() == pytest.approx(0.999 + 0.1 + 0.3)
    assert cmd(over).item() == pytest.approx(0.4)
    # 2 then 0 at sizes 0.5 and 1: |1 - f| is 1 at both ends, by trapezoids of the points
    cross = values(*[1.0] * 8, 2.0, 0.0)
    assert cmd(cross).item() == pytest.approx(0.3 / 2 + 0.5)


def test_accuracy_over_the_logarithm_of_the_size_by_hand():
    assert acc_auc(values(*[1.0] * 10)).item() == pytest.approx(1.0)
    late = acc_auc(values(*[0.0] * 9, 1.0)).item()  # right with all edges alone
    assert late == pytest.approx(math.log(2) / 2 / math.log(1000))
    assert late == pytest.approx(0.0502, abs=1e-4)  # as the paper prints for a random order
    # right at 0.01 alone: the triangle from 0.005 to 0.02
    assert acc_auc(values(0, 0, 0, 1.0, *[0.0] * 6)).item() == pytest.approx(
        math.log(4) / 2 / math.log(1000)
    )


def test_the_accuracy_of_the_section_is_that_of_its_circuits():
    case = tiny_case()
    found = mib(case)
    magnitudes = case.scores.abs().tolist()
    masks = {str(s): mask_of(case.graph, magnitudes, s) for s in MIB_SIZES}
    each = evaluate_each(case.references, masks, case.batches, case.task_metric)
    right = [each[str(s)].accuracy.mean().item() for s in MIB_SIZES]
    assert found.curves["edges_absolute"].acc_auc.value == pytest.approx(
        acc_auc(values(*right)).item()
    )


def test_areas_are_the_loops():
    curve = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert list(SIZES) == MIB_SIZES
    for row, up, away in zip(curve.tolist(), cpr(curve).tolist(), cmd(curve).tolist(), strict=True):
        assert up == pytest.approx(area(row))
        assert away == pytest.approx(area([abs(1 - f) for f in row]))


def best(scores, n):
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:n])


def test_edge_circuits_take_first_and_trim_after():
    scores = torch.randn(GRAPH.n_edges, generator=torch.Generator().manual_seed(1))
    for size, mask in edge_circuits(GRAPH, scores).items():
        taken = best(scores.tolist(), int(size * GRAPH.n_edges))
        expected = on_a_path({GRAPH.edges[i] for i in taken})
        assert {GRAPH.edges[i] for i in mask.nonzero().flatten()} == expected


def test_node_circuits_keep_every_edge_among_their_nodes():
    sizes = []
    for seed in range(12):
        scores = torch.randn(GRAPH.n_writers, generator=torch.Generator().manual_seed(seed))
        for size, mask in node_circuits(GRAPH, scores).items():
            taken = best(scores.tolist(), int(size * GRAPH.n_writers))
            nodes = {GRAPH.writers[i] for i in taken} | {"logits"}
            among = {
                edge
                for edge in GRAPH.edges
                if edge.split("->")[0] in nodes and edge.split("->")[1].split("<")[0] in nodes
            }
            assert {GRAPH.edges[i] for i in mask.nonzero().flatten()} == on_a_path(among)
            sizes.append(int(mask.sum()))
    assert len(set(sizes)) > 3 and max(sizes) == GRAPH.n_edges


def test_nodes_of_equal_scores_are_taken_in_the_order_of_the_graph():
    circuits = node_circuits(GRAPH, torch.zeros(GRAPH.n_writers))
    for size, mask in circuits.items():
        first = set(range(int(size * GRAPH.n_writers)))
        assert {*GRAPH.edge_writer[mask].tolist()} <= first
    assert circuits[0.5].any() and circuits[1.0].all()


def slow_curve(case, masks):
    found = evaluate(
        case.references, {str(i): m for i, m in enumerate(masks)}, case.batches, case.task_metric
    )
    empty = evaluate(case.references, {"e": case.empty_mask}, case.batches, case.task_metric)["e"]
    full = evaluate_full(case.references, case.batches, case.task_metric)
    return [(e.metric - empty.metric) / (full.metric - empty.metric) for e in found.values()]


def mask_of(graph, scores, size):
    taken = best(scores, int(size * graph.n_edges))
    group = graph.n_heads // graph.n_kv_readers
    return graph.mask_of(on_a_path({graph.edges[i] for i in taken}, group))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_section_is_mibs_definition(family):
    case = tiny_case(family)
    found = written(mib(case))
    helps = (-case.scores).tolist()
    signed = slow_curve(case, [mask_of(case.graph, helps, s) for s in MIB_SIZES])
    magnitudes = [abs(score) for score in helps]
    absolute = slow_curve(case, [mask_of(case.graph, magnitudes, s) for s in MIB_SIZES])
    assert found.cpr.value == pytest.approx(area(signed), rel=1e-5)
    assert found.cmd.value == pytest.approx(area([abs(1 - f) for f in absolute]), rel=1e-5)
    points = found.curves["edges_signed"].points
    assert [p.faithfulness.value for p in points] == pytest.approx(signed, rel=1e-5, abs=1e-5)
    assert points[-1].n_edges == case.graph.n_edges
    assert found.cpr.low < found.cpr.value < found.cpr.high


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nodes_are_cut_by_their_own_scores(family):
    """Scores that were lifted to edges do not add up to the nodes' again."""
    graph = (case := tiny_case(family)).graph
    nodes = torch.randn(graph.n_writers, generator=torch.Generator().manual_seed(9))
    case = replace(case, scores=lift(graph, nodes), nodes=nodes)
    found = mib(case)
    assert found.nodes_left_out is None
    for curve, helps in (("nodes_signed", -nodes), ("nodes_absolute", nodes.abs())):
        points, circuits = found.curves[curve].points, node_circuits(graph, helps)
        assert [p.n_edges for p in points] == [int(m.sum()) for m in circuits.values()]
        slow = slow_curve(case, list(circuits.values()))
        found_here = [p.faithfulness.value for p in points]
        assert found_here == pytest.approx(slow, rel=1e-5, abs=1e-5)


def test_where_no_node_was_scored_there_is_no_curve_of_nodes():
    case = tiny_case()
    found = mib(case)
    assert set(found.curves) == {"edges_signed", "edges_absolute"}
    assert "scored edges alone" in found.nodes_left_out
    assert "has no sign" in mib(replace(case, scores=None)).nodes_left_out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.mark.filterwarnings("ignore")  # TensorBoard's and transformers' advice
@pytest.mark.parametrize("method", ["eap", "atp", "exact_nodes", "random"])
def test_a_run_keeps_what_nodes_scored(home, method):
    config = quick_config(home, f"attribution.method={method}", f"output_dir={home / method}")
    attribute(config, say=lambda _: None)
    setup = make_setup(config)
    found = read_run(home / method, setup.gated.graph, config)
    if method == "random":
        assert found.nodes is None
        return
    given = (setup.references, training_batches(setup), attribution_metric(setup), 2)
    wanted = METHODS["atp" if method == "eap" else method].score_nodes(*given)
    assert_close(found.nodes, wanted)
    if method != "eap":
        assert_close(found.scores, lift(setup.gated.graph, wanted))
    assert_close(Scoring.load(home / method / "scores.safetensors", setup).nodes, wanted)


@pytest.mark.filterwarnings("ignore")
def test_some_edges_alone_are_no_score_of_a_node(home):
    some = GRAPH_OF_RUNS.mask_of(["input->a0.h1<v>", "a0.h1->logits"])
    Circuit(GRAPH_OF_RUNS, some).save(home / "some.json")
    config = quick_config(home, "attribution.method=eap", f"attribution.edges={home / 'some.json'}")
    assert by_method(make_setup(config)).nodes is None


def test_node_scores_must_fit_the_graph():
    case = tiny_case()
    with pytest.raises(GraphError, match="nodes has shape"):
        replace(case, nodes=case.scores)


def test_intervals_are_those_of_the_area_of_each_resample():
    case = tiny_case(n_bootstrap=20)
    found = mib(case)
    masks = {str(s): mask_of(case.graph, (-case.scores).tolist(), s) for s in MIB_SIZES}
    each = evaluate_each(
        case.references, {**masks, "e": case.empty_mask}, case.batches, case.task_metric
    )
    full = evaluate_full_each(case.references, case.batches, case.task_metric).metric
    areas = []
    for row in Bootstrap.draw(8, 20, case.generator("mib")).weights:
        low, high = row @ each["e"].metric, row @ full
        areas.append(area([((row @ each[s].metric - low) / (high - low)).item() for s in masks]))
    ends = torch.tensor(areas, dtype=torch.float64).quantile(values(0.025, 0.975)).tolist()
    assert [found.cpr.low, found.cpr.high] == pytest.approx(ends, rel=1e-9)


def test_without_a_sign_one_ranking_serves_for_both():
    case = tiny_case()
    found = mib(replace(case, scores=None))
    assert not found.signed_scores and set(found.curves) == {"edges_signed", "edges_absolute"}
    assert found.curves["edges_signed"] == found.curves["edges_absolute"]
    assert "one ranking without a sign" in found.sentence
