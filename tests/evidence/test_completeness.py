"""Knock-outs of circuit and model, against hooks on the untouched model and written-out gates."""

import sys
from dataclasses import replace

import pytest
import reference
import torch
from conftest import build_tiny_model
from evidence_cases import tiny_case, written
from torch.testing import assert_close

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.engine.evaluation import evaluate_each
from circuitprune.evidence.bootstrap import UNDEFINED, Bootstrap, Interval
from circuitprune.evidence.completeness import TOLERANCE, Scale, completeness, verdict
from circuitprune.evidence.knockouts import (
    Both,
    KnockOut,
    both,
    classes,
    greedy_sets,
    kept_writers,
    random_sets,
    without,
)

GRAPH = Graph(2, 2, 2)
NAMES = ["input->a0.h0<q>", "a0.h0->m0", "m0->a1.h1<k>", "a1.h1->logits", "a0.h0->logits"]


@pytest.fixture(scope="module")
def case():
    return tiny_case()


def slow_metric(case, batch, logits):
    answers, wrong = batch.answers.tolist(), batch.wrong.tolist()
    return reference.logit_diff(reference.at_last(logits, batch.last), answers, wrong)


def slow_logits(case, batch, mask, knocked_out):
    """The transformer written out, every edge that leaves a knocked-out node ablated."""
    model = build_tiny_model("gpt2")
    ablated = reference.writers(model, "gpt2", batch.corrupt, batch.mask)
    gates = {
        name: float(mask[i]) * (name.split("->")[0] not in knocked_out)
        for i, name in enumerate(case.graph.edges)
    }
    return reference.gated_logits(model, "gpt2", batch.clean, batch.mask, gates, ablated)


@pytest.mark.parametrize("names", [["a0.h1"], ["m0", "a1.h2"], ["m0", "m1", "m2", "a2.h3"]])
def test_both_sides_are_the_transformer_written_out(case, names):
    writers = tuple(case.graph.writer_index(name) for name in names)
    (found,) = both(case, [KnockOut("class", "", writers)], case.batches)
    circuit, model, kl = [], [], []
    for batch in case.batches:
        logits = [
            slow_logits(case, batch, mask, names)
            for mask in (case.mask.tolist(), case.full_mask.tolist())
        ]
        circuit.append(slow_metric(case, batch, logits[0]))
        model.append(slow_metric(case, batch, logits[1]))
        ends = [reference.at_last(each, batch.last) for each in logits]
        kl.append(reference.kl(ends[1], ends[0]))
    assert_close(found.circuit, torch.cat(circuit), rtol=1e-9, atol=1e-9)
    assert_close(found.model, torch.cat(model), rtol=1e-9, atol=1e-9)
    assert_close(found.kl, torch.cat(kl), rtol=1e-9, atol=1e-9)
    assert found.gap.abs().min() > 1e-4


@pytest.mark.parametrize("name", ["a1.h2", "m1"])
def test_knocking_out_a_node_of_the_model_is_patching_it(case, name):
    (found,) = both(case, [KnockOut("class", "", (case.graph.writer_index(name),))], case.batches)
    model, expected = build_tiny_model("gpt2"), []
    for batch in case.batches:
        corrupt = reference.writers(model, "gpt2", batch.corrupt, batch.mask)[name]
        tokens = (batch.clean, batch.mask)
        logits = reference.patched_logits(model, "gpt2", *tokens, name, corrupt)
        expected.append(slow_metric(case, batch, logits))
    assert_close(found.model, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_without_cuts_every_edge_out_of_the_nodes():
    mask = GRAPH.mask_of(NAMES)
    left = Circuit(GRAPH, without(GRAPH, mask, [GRAPH.writer_index("a0.h0")])).edges
    assert set(left) == {"input->a0.h0<q>", "m0->a1.h1<k>", "a1.h1->logits"}
    assert torch.equal(without(GRAPH, mask, []), mask)


def test_classes_by_hand():
    found = {
        k.name: [GRAPH.writers[w] for w in k.writers] for k in classes(GRAPH, GRAPH.mask_of(NAMES))
    }
    assert found == {
        "MLPs = writers into k": ["m0"],
        "attention heads = writers into logits": ["a0.h0", "a1.h1"],
        "heads of layer 0 = writers into mlp": ["a0.h0"],
        "heads of layer 1": ["a1.h1"],
    }
    nodes = [GRAPH.writers[w] for w in kept_writers(GRAPH, GRAPH.mask_of(NAMES))]
    assert nodes == ["a0.h0", "m0", "a1.h1"]


def test_random_sets_are_of_the_circuit_and_of_the_seed(case):
    many = replace(case, n_knockouts=20)
    nodes = kept_writers(case.graph, case.mask)
    sets = random_sets(many, nodes)
    sizes = {max(1, round(share * len(nodes))) for share in (0.1, 0.25, 0.5, 0.75)}
    assert {len(k.writers) for k in sets} == sizes and len(sets) > 10
    assert all(set(k.writers) <= set(nodes) and len(set(k.writers)) == len(k.writers) for k in sets)
    assert random_sets(many, nodes) == sets
    assert random_sets(replace(many, seed=1), nodes) != sets


def test_greedy_takes_the_worst_node_of_all_at_each_step(case):
    case = replace(case, n_knockouts=100)
    nodes = kept_writers(case.graph, case.mask)
    chosen, before = [], -1.0
    for found in greedy_sets(case, nodes):
        gaps = {}
        for node in set(nodes) - set(chosen):
            knock_out = KnockOut("greedy", "", tuple(sorted([*chosen, node])))
            gaps[node] = abs(both(case, [knock_out], case.batches)[0].gap.mean().item())
        worst = max(gaps, key=gaps.get)
        assert set(found.writers) == {*chosen, worst} and gaps[worst] > before
        chosen, before = [*chosen, worst], gaps[worst]
    assert len(chosen) > 1


def test_mean_gap_is_the_mean_over_knock_outs_resample_by_resample():
    generator = torch.Generator().manual_seed(0)
    n, n_resamples = 7, 40
    draws = torch.randint(n, (n_resamples, n), generator=generator)
    full, empty = torch.randn(2, n, generator=generator, dtype=torch.float64)
    full = full + 5
    runs = [Both(*torch.randn(3, n, generator=generator, dtype=torch.float64)) for _ in range(4)]
    found = Scale(Bootstrap.of_indices(draws), full, empty).mean_gap(runs)

    def by_hand(rows):
        span = sum(full[i] - empty[i] for i in rows) / n
        gaps = [abs(sum(r.circuit[i] - r.model[i] for i in rows) / n) for r in runs]
        return (sum(gaps) / len(gaps) / abs(span)).item()

    each = torch.tensor([by_hand(rows) for rows in draws.tolist()], dtype=torch.float64)
    assert found.value == pytest.approx(by_hand(range(n)))
    assert found.low == pytest.approx(each.quantile(0.025).item())
    assert found.high == pytest.approx(each.quantile(0.975).item())


def test_the_whole_model_is_complete_and_leaves_nothing(case):
    found = completeness(replace(case, mask=case.full_mask))
    assert all(abs(point.gap.value) < 1e-12 for point in found.points)
    assert found.verdict == "pass" and found.mean_relative_gap.value < 1e-12
    assert found.complement.faithfulness.value == pytest.approx(0, abs=1e-12)


def test_every_point_and_summary(case):
    found = completeness(case)
    assert written(found) == found
    assert completeness(case) == found
    points = {family: [] for family in ("none", "class", "random", "greedy")}
    for point in found.points:
        points[point.family].append(point)
        assert point.gap.value == pytest.approx(point.circuit - point.model)
        assert point.relative_gap == pytest.approx(point.gap.value / found.span)
        assert point.gap.low <= point.gap.value <= point.gap.high
    assert len(points["none"]) == 1 and not points["none"][0].nodes
    for family, summary in found.summary.items():
        gaps = [abs(point.gap.value) for point in points[family]]
        assert summary.n == len(gaps) and abs(summary.worst_gap) == max(gaps)
        assert summary.mean_gap == pytest.approx(sum(gaps) / len(gaps))
    counted = [p for f in ("class", "random") for p in points[f] if p.telling]
    mean = sum(abs(p.relative_gap) for p in counted) / len(counted)
    assert found.mean_relative_gap.value == pytest.approx(mean)


def test_what_tells_nothing_counts_in_no_mean(case, monkeypatch):
    """At a tolerance that takes half of the knock-outs for silent."""
    module = sys.modules[completeness.__module__]
    before = completeness(case)
    empty = evaluate_each(case.references, {"": case.empty_mask}, case.batches, case.task_metric)[
        ""
    ]
    base = empty.metric.mean().item()
    left = sorted(max(abs(p.circuit - base), abs(p.model - base)) for p in before.points)
    monkeypatch.setattr(module, "TOLERANCE", left[len(left) // 2] / abs(before.span))
    found = completeness(case)
    planned = [p for p in found.points if p.family in ("class", "random")]
    told = [p for p in planned if p.telling]
    assert 0 < len(told) < len(planned)
    mean = sum(abs(p.relative_gap) for p in told) / len(told)
    assert found.mean_relative_gap.value == pytest.approx(mean)
    assert found.mean_relative_gap.value != pytest.approx(
        sum(abs(p.relative_gap) for p in planned) / len(planned)
    )


def test_a_knock_out_that_leaves_nothing_tells_nothing(case):
    empty = torch.zeros(6, dtype=torch.float64)
    scale = Scale(Bootstrap.of_indices(torch.arange(6).expand(2, 6)), empty + 10, empty)

    def run(circuit, model):
        return Both(empty + circuit, empty + model, empty)

    assert not scale.is_telling(run(0.9, -0.9))
    assert scale.is_telling(run(1.1, 0.0)) and scale.is_telling(run(0.0, -1.1))


def test_a_circuit_without_nodes_says_so(case):
    found = completeness(replace(case, mask=case.graph.mask_of(["input->logits"])))
    assert found.summary == {} and found.verdict == "undecided"
    assert "nothing can be knocked out" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, TOLERANCE, "pass"), (0.05, 0.2, "undecided"), (0.11, 0.2, "fail")],
)
def test_verdict(low, high, expected):
    assert verdict(Interval(0.1, low, high)) == expected
    assert verdict(UNDEFINED) == "undecided"
