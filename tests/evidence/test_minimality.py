"""Edges removed from a circuit one by one, against whole runs; and what minimising leaves."""

import sys
from dataclasses import replace

import pytest
import reference
import torch
from conftest import TOLERANCE, build_tiny_model
from evidence_cases import tiny_case, written
from torch.testing import assert_close

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.reachability import live_edges
from circuitprune.engine.evaluation import evaluate_each
from circuitprune.errors import ConfigError
from circuitprune.evidence.idle_edges import idle_edges
from circuitprune.evidence.minimality import Removals, minimality, removals, verdict
from circuitprune.evidence.minimise import _drop, minimise, minimised


@pytest.fixture(scope="module")
def case():
    return tiny_case()


def mean_kl(case, mask, batches):
    return (
        evaluate_each(case.references, {"": mask}, batches, case.task_metric)[""].kl.mean().item()
    )


def removed(mask, edge):
    smaller = mask.clone()
    smaller[edge] = False
    return smaller


@pytest.mark.parametrize(
    ("family", "ablation"),
    [("gpt2", "patch"), ("llama", "mean"), ("gemma2", "patch"), ("gpt_neox", "zero")],
)
def test_removals_are_whole_runs_of_smaller_circuits(family, ablation):
    case = tiny_case(family, ablation)
    found = removals(case.references, case.mask, case.batches, case.task_metric)
    edges = case.mask.nonzero().flatten()
    masks = {"": case.mask} | {str(e): removed(case.mask, e) for e in edges.tolist()}
    slow = evaluate_each(case.references, masks, case.batches, case.task_metric)
    exact = dict(rtol=10 * TOLERANCE[family], atol=10 * TOLERANCE[family])
    assert torch.equal(found.edges, edges)
    assert_close(found.base_kl, slow[""].kl, **exact)
    assert_close(found.base_metric, slow[""].metric, **exact)
    for row, edge in enumerate(edges.tolist()):
        assert_close(found.kl[row], slow[str(edge)].kl - slow[""].kl, **exact)
        assert_close(found.metric[row], slow[str(edge)].metric - slow[""].metric, **exact)
    assert found.kl.abs().amax(dim=1).median() > 1e-4


def test_an_effect_is_that_of_the_transformer_written_out(case):
    model, found = build_tiny_model("gpt2"), minimality(case)
    for row in (found.edges[0], found.edges[-1]):
        effects = []
        for batch in case.batches:
            ablated = reference.writers(model, "gpt2", batch.corrupt, batch.mask)
            full = reference.plain_logits(model, batch.clean, batch.mask)
            kls = []
            for gone in (None, row.edge):
                names = zip(case.graph.edges, case.mask.tolist(), strict=True)
                gates = {name: float(kept and name != gone) for name, kept in names}
                tokens = (batch.clean, batch.mask)
                logits = reference.gated_logits(model, "gpt2", *tokens, gates, ablated)
                ends = [reference.at_last(each, batch.last) for each in (full, logits)]
                kls.append(reference.kl(*ends))
            effects += (kls[1] - kls[0]).tolist()
        assert row.kl.value == pytest.approx(sum(effects) / len(effects), abs=1e-9)


def test_the_section_counts_what_its_rows_say(case):
    case = replace(case, tolerance=0.002)
    found = minimality(case)
    rows = found.edges
    assert written(found) == found == minimality(case)
    assert {row.edge for row in rows} == set(Circuit(case.graph, case.mask).edges)
    values = [row.kl.value for row in rows]
    assert values == sorted(values, reverse=True)
    assert found.n_needed == len([r for r in rows if r.kl.low > 0.002]) > 0
    surely = [r.edge for r in rows if r.kl.high <= 0.002]
    assert found.n_surely_dispensable == len(surely) > 0
    assert set(surely) <= set(found.dispensable)
    assert set(found.dispensable) == {r.edge for r in rows if r.kl.value <= 0.002}
    assert str(len(surely)) in found.sentence and rows[0].edge in found.sentence


@pytest.mark.parametrize(
    ("needed", "surely", "expected"), [(5, 0, "pass"), (4, 0, "undecided"), (4, 1, "fail")]
)
def test_verdict(needed, surely, expected):
    assert verdict(5, needed, surely) == expected


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_minimise_stays_within_the_tolerance_and_stops_only_where_no_edge_can_go(case, tolerance):
    found = minimise(case, tolerance)
    limit = mean_kl(case, case.mask, case.train_batches) + tolerance
    assert 0 < found.mask.sum() < case.mask.sum()
    assert bool((case.mask | ~found.mask).all())
    assert torch.equal(found.mask, live_edges(case.graph, found.mask))
    assert mean_kl(case, found.mask, case.train_batches) <= limit
    for edge in found.mask.nonzero().flatten():
        assert mean_kl(case, removed(found.mask, edge), case.train_batches) > limit


def test_minimise_leaves_a_trace_that_can_be_followed(case):
    found, mask = minimise(case, 0.1), case.mask.clone()
    assert len(found.trace) > 2
    for step in found.trace:
        mask[[case.graph.edge_index(name) for name in step.removed]] = False
        assert step.n_edges == int(mask.sum())
        assert step.kl == pytest.approx(mean_kl(case, mask, case.train_batches), rel=1e-9)
    assert torch.equal(mask, found.mask)
    assert found.after.kl.mean().item() == pytest.approx(mean_kl(case, mask, case.batches))
    assert found.before.kl.mean().item() == pytest.approx(mean_kl(case, case.mask, case.batches))


def test_an_edge_that_leads_nowhere_goes_for_nothing(case):
    kept = live_edges(case.graph, case.mask)
    loose = (~kept).nonzero().flatten().tolist()
    both = [removed(~kept, e) for e in loose]
    dangling = next(
        e for e, rest in zip(loose, both, strict=True) if not live_edges(case.graph, ~rest)[e]
    )
    mask = kept.clone()
    mask[dangling] = True
    found = removals(case.references, mask, case.batches, case.task_metric)
    at = found.edges.tolist().index(dangling)
    assert found.kl[at].abs().max() < 1e-12
    assert not minimise(replace(case, mask=mask), 0.0).mask[dangling]


def test_a_circuit_of_needed_edges_stays_and_a_worthless_one_goes(case):
    rest = minimise(case, 0.02).mask
    again = minimised(replace(case, mask=rest), 0.0)
    assert again.n_edges == int(rest.sum()) and len(again.trace) == 1
    assert f"None of the {int(rest.sum())} edges" in again.sentence
    nothing = minimised(case, 10.0)
    assert nothing.edges == () and "no better than none" in nothing.sentence


def test_minimised_is_json_and_the_same_again(case):
    case = replace(case, mask=case.sizes[0.05])
    found = minimised(case, 0.1)
    assert written(found) == found
    assert minimised(case, 0.1) == found
    assert found.n_edges == len(found.edges) == found.trace[-1].n_edges
    rise = found.after.kl - found.before.kl
    assert found.kl_rise.value == pytest.approx(rise)


def test_a_negative_tolerance_is_refused(case):
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        minimise(case, -1.0)


@pytest.mark.parametrize(("most", "n_pairs"), [(7, 5), (8, 8), (0, 5)])
def test_a_large_circuit_is_judged_on_fewer_pairs(case, monkeypatch, most, n_pairs):
    """Of the batches of 5 and of 3, as many from the front as there are runs for."""
    limit = most * int(case.mask.sum())
    monkeypatch.setattr(sys.modules[minimality.__module__], "MOST_RUNS", limit)
    found = minimality(case)
    assert found.n_pairs == n_pairs and f"on {found.n_pairs} pairs" in found.sentence


def test_of_a_larger_circuit_some_edges_are_drawn_and_removed_as_among_all(case):
    every = {row.edge: row.kl.value for row in minimality(case).edges}
    drawn = replace(case, n_removed=len(every) // 2)
    found = minimality(drawn)
    rows = {row.edge: row.kl.value for row in found.edges}
    assert (found.n_removed, found.n_edges) == (len(rows), len(every))
    assert rows == pytest.approx({edge: every[edge] for edge in rows}, abs=1e-12)
    assert f"{len(rows)} of the circuit's {len(every)} edges, drawn" in found.sentence
    assert found == minimality(drawn) == written(found)
    others = minimality(replace(drawn, seed=case.seed + 1)).edges
    assert {row.edge for row in others} != set(rows)
    assert minimality(replace(drawn, tolerance=0.0)).verdict != "pass"
    assert {row.edge for row in idle_edges(drawn).edges} == set(rows)
    assert minimality(replace(case, n_removed=len(every))).n_removed is None


def test_an_edge_at_the_tolerance_itself_is_dispensable(case):
    exact = minimality(case).edges[0]
    found = minimality(replace(case, tolerance=exact.kl.value))
    assert exact.edge in found.dispensable and len(found.dispensable) == len(found.edges)


def test_a_drop_is_allowed_up_to_the_limit_itself_and_takes_what_then_lies_on_no_path(case):
    graph = case.graph
    mask = graph.mask_of(["input->logits", "input->m0", "m0->m1", "m1->logits"])
    kept = graph.mask_of(["input->logits"])
    limit, edges = mean_kl(case, kept, case.batches), mask.nonzero().flatten()
    first = edges == graph.edge_index("m0->m1")
    kl = torch.where(first, 0.0, 1.0).double().unsqueeze(1)  # the least needed, one at a time
    found = Removals(edges, kl[0], kl[0], kl, kl)
    smaller, left = _drop(case, mask, found, case.batches, limit)
    assert torch.equal(smaller, kept) and left == limit
    assert _drop(case, mask, found, case.batches, limit - 1e-9) is None
