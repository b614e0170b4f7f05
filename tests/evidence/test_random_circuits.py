"""Random circuits: as large, in the same cells, live; and the circuit's place among them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from evidence_cases import in_a_file, tiny_case, written
from scipy import stats

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.circuits.selection import select
from circuitprune.data.pairs import prepare
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import evaluate_each
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.evidence import Case
from circuitprune.evidence.draws import DRAWS, cell_of_edges, matched, relabelled, uniform
from circuitprune.evidence.random_circuits import random_circuits, verdict
from circuitprune.evidence.statistics import rank_test, worst_of
from circuitprune.metrics import logit_diff
from circuitprune.models.zoo.induction import (
    LENGTH,
    Induction,
    induction_model,
    induction_tokenizer,
    true_circuit,
)

GRAPHS = [Graph(3, 4, 4), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)]
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def circuit(graph, share, seed=0):
    scores = torch.randn(graph.n_edges, generator=generator(seed))
    return select(graph, scores, int(share * graph.n_edges))


def layer_and_kind(name):
    """`a3.h7<q>` -> (`a3`, `q`), `m2` -> (`m2`, ``); `input` and `logits` as they are."""
    node, _, port = name.partition("<")
    return node.split(".")[0], port


def cells(graph, mask):
    """How many edges there are from each kind and layer to each, read off their names."""
    names = [graph.edges[i].split("->") for i in mask.nonzero().flatten()]
    return Counter((layer_and_kind(writer), layer_and_kind(reader)) for writer, reader in names)


@every_graph
def test_cells_are_what_the_names_say(graph):
    number = cell_of_edges(graph).tolist()
    found = {}
    for name, cell in zip(graph.edges, number, strict=True):
        found.setdefault(cell, set()).add(tuple(map(layer_and_kind, name.split("->"))))
    assert all(len(kinds) == 1 for kinds in found.values())
    assert len(found) == len(cells(graph, torch.ones(graph.n_edges, dtype=torch.bool)))


@every_graph
@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("family", DRAWS)
def test_random_circuits_are_as_large_and_live(graph, share, family):
    mask, draw = circuit(graph, share), generator(1)
    for _ in range(10):
        drawn = DRAWS[family](graph, mask, draw)
        assert torch.equal(live_edges(graph, drawn), drawn)
        assert drawn.sum() <= mask.sum()
        if family == "uniform":
            assert drawn.sum() == mask.sum()


@every_graph
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_matched_circuits_have_the_same_cells(graph, share):
    mask, draw, exact = circuit(graph, share), generator(2), 0
    for _ in range(20):
        drawn = matched(graph, mask, draw)
        assert not cells(graph, drawn) - cells(graph, mask)  # never more than the circuit
        exact += cells(graph, drawn) == cells(graph, mask)
    assert exact >= 15


@every_graph
def test_relabelled_circuits_have_the_same_cells_and_shape(graph):
    for share in (0.05, 0.3):
        mask = circuit(graph, share)
        for seed in range(10):
            drawn = relabelled(graph, mask, generator(seed))
            assert cells(graph, drawn) == cells(graph, mask)
            assert torch.equal(live_edges(graph, drawn), drawn)


def test_relabelling_exchanges_heads_and_nothing_else():
    graph = Graph(1, 2, 2)
    mask = graph.mask_of(["input->a0.h0<q>", "a0.h0->m0", "input->logits"])
    swapped = graph.mask_of(["input->a0.h1<q>", "a0.h1->m0", "input->logits"])
    drawn = [relabelled(graph, mask, generator(seed)) for seed in range(20)]
    assert all(torch.equal(d, mask) or torch.equal(d, swapped) for d in drawn)
    assert 0 < sum(torch.equal(d, mask) for d in drawn) < 20


def test_relabelling_keeps_the_heads_of_a_kv_group_together():
    graph = Graph(1, 4, 2)
    mask = graph.mask_of(["input->a0.kv0<v>", "a0.h0->logits", "a0.h1->logits"])
    other = graph.mask_of(["input->a0.kv1<v>", "a0.h2->logits", "a0.h3->logits"])
    for seed in range(20):
        drawn = relabelled(graph, mask, generator(seed))
        assert torch.equal(drawn, mask) or torch.equal(drawn, other)


def test_draws_within_a_cell_are_even():
    """One edge among the four `a0.* -> logits`: each is drawn as often."""
    graph = Graph(1, 4, 4)
    mask = graph.mask_of([f"input->a0.h{i}<v>" for i in range(4)] + ["a0.h0->logits"])
    draw, counts = generator(3), Counter()
    for _ in range(400):
        heads = [e for e in cells_out(graph, matched(graph, mask, draw)) if "->logits" in e]
        counts.update(heads)
    assert len(counts) == 4 and stats.chisquare(list(counts.values())).pvalue > 0.001


def cells_out(graph, mask):
    return [graph.edges[i] for i in mask.nonzero().flatten()]


def test_uniform_draws_differ():
    graph = GRAPHS[0]
    mask = circuit(graph, 0.2)
    drawn = [uniform(graph, mask, generator(seed)) for seed in range(5)]
    assert len({d.numpy().tobytes() for d in drawn}) == 5


def test_the_place_of_the_circuit_is_counted():
    case = tiny_case(n_random=12)
    found = written(random_circuits(case))
    for family, draw in DRAWS.items():
        source = case.generator(f"random circuits {family}")
        masks = {str(i): draw(case.graph, case.mask, source) for i in range(12)}
        masks["circuit"] = case.mask
        each = evaluate_each(case.references, masks, case.batches, case.task_metric)
        kl = {name: examples.kl.mean().item() for name, examples in each.items()}
        own = kl.pop("circuit")
        place = found.families[family].kl
        assert found.families[family].kl_of_each == pytest.approx(list(kl.values()))
        ties = sum(value == own for value in kl.values())
        assert place.quantile == (sum(value > own for value in kl.values()) + ties / 2) / 12
        assert place.p == pytest.approx((1 + sum(value <= own for value in kl.values())) / 13)
        assert place.best == pytest.approx(min(kl.values()))
        assert place.worst == pytest.approx(max(kl.values()))
        metric = {name: examples.metric.mean().item() for name, examples in each.items()}
        better = sum(metric[name] >= metric["circuit"] for name in kl)
        assert found.families[family].metric.p == pytest.approx((1 + better) / 13)
        assert found.families[family].faithfulness.mean is not None


def test_p_values_are_uniform_for_a_circuit_that_is_random_itself():
    """Ranks of one draw among others from the same family, by a score of its edges."""
    graph, draw, p_values = GRAPHS[2], generator(4), []
    worth = torch.randn(graph.n_edges, generator=draw, dtype=torch.float64)
    mask = circuit(graph, 0.3)
    for _ in range(60):
        drawn = torch.stack([uniform(graph, mask, draw) for _ in range(16)]).double() @ worth
        p = rank_test(drawn[0].item(), drawn[1:])
        p_values.append(p - torch.rand((), generator=draw).item() / 16)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_too_few_random_circuits_decide_nothing():
    assert random_circuits(tiny_case(n_random=2)).verdict == "undecided"


@pytest.mark.parametrize(
    ("p", "n_same", "n_random", "says"),
    [
        (0.01, 0, 100, "pass"),
        (0.05, 0, 100, "fail"),
        (0.04, 3, 100, "pass"),
        (0.06, 4, 100, "fail"),  # 5 / 101 would have been enough
        (0.06, 5, 100, "undecided"),
        (1.0, 30, 30, "undecided"),
        (0.05, 0, 19, "undecided"),
        (0.04, 0, 20, "pass"),
    ],
)
def test_copies_of_the_circuit_are_no_reason_to_fail(p, n_same, n_random, says):
    assert verdict(p, n_same, n_random) == says


def test_the_worst_of_the_verdicts_is_that_of_all():
    assert worst_of(["pass", "pass"]) == "pass"
    assert worst_of(["pass", "undecided"]) == "undecided"
    assert worst_of(["undecided", "fail"]) == "fail"


def test_the_true_circuit_of_the_hand_built_model_does_not_fail():
    """Few circuits have its cells or its shape, so draws of those hit it: neither can tell."""
    tokenizer = induction_tokenizer()
    sizes = dict(n_train=8, n_val=0, n_test=32, seed=0, batch_size=32, max_length=LENGTH)
    data, gated = prepare(Induction(), tokenizer, **sizes), GatedModel(induction_model(0.2))
    train, truth = data.batches("train"), true_circuit()
    references = References(gated, make_ablation("patch", gated.ports, train))
    batches, ranking = data.batches("test"), truth.double()
    case = Case(references, batches, train, logit_diff, truth, ranking, {}, 0, n_random=60)
    found = random_circuits(case)
    verdicts = {family: f.verdict for family, f in found.families.items()}
    assert verdicts == {"uniform": "pass", "matched": "undecided", "relabelled": "undecided"}
    assert found.verdict == "undecided" and "too few others to tell" in found.sentence
    n_same = found.families["relabelled"].n_same
    assert n_same > 2 and found.families["relabelled"].least_p == (1 + n_same) / 61


def test_a_circuit_that_no_draw_can_differ_from_is_undecided():
    case = tiny_case(n_random=20)
    found = random_circuits(replace(case, mask=case.full_mask))
    assert {f.verdict for f in found.families.values()} == {"undecided"}
    assert found.verdict == "undecided"


def test_the_same_seed_gives_the_same_bytes():
    one, two = (in_a_file(random_circuits(tiny_case())) for _ in range(2))
    assert one == two and one != in_a_file(random_circuits(tiny_case(seed=1)))
