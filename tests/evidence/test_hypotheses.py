"""The hypothesis tests: against scipy, loops and brute force, and uniform under simulated nulls."""

from dataclasses import fields, replace
from importlib import import_module

import pytest
import torch
from evidence_cases import in_a_file, pairs, tiny_case, written
from reference_evidence import holm as slow_holm
from reference_evidence import hsic, median_distance
from scipy import stats

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.data.batches import few_pairs
from circuitprune.engine.evaluation import Examples, evaluate_each
from circuitprune.evidence import EVIDENCE, evaluate_full_each
from circuitprune.evidence.hypotheses import equivalence, hypotheses, independence, rounding
from circuitprune.evidence.idle_edges import _judge, idle_edges, random_path
from circuitprune.evidence.statistics import (
    binomial,
    holm,
    hsic_test,
    least_hsic_p,
    rank_test,
    share_test,
    sign_test,
    verdict_of,
    worst_of,
)

GRAPHS = [Graph(3, 4, 4), Graph(3, 4, 2), Graph(2, 2, 1, parallel=True)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def is_uniform(p_values):
    return stats.kstest(p_values, "uniform").pvalue > 0.01


def spread(p, next_smaller, draw):
    """A p-value on a grid, moved at random to between itself and the next possible one below."""
    return p - (p - next_smaller) * torch.rand((), generator=draw).item()


# ---------------------------------------------------------------- exact binomials


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (10, 0.5), (257, 0.9)])
def test_binomial_is_scipys(n, p):
    expected = stats.binom.pmf(range(n + 1), n, p)
    assert binomial(n, p).tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (3, 5), (5, 10), (40, 100), (61, 100), (0, 0)])
def test_the_sign_test_is_scipys(wins, n):
    expected = stats.binomtest(wins, n, 0.5).pvalue if n else 1.0
    assert sign_test(wins, n) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("wins", "n"), [(3, 5), (55, 100), (70, 100), (25, 100)])
def test_equality_within_epsilon_is_the_most_likely_chance_allowed(wins, n):
    far = [k for k in range(n + 1) if abs(k / n - 0.5) >= abs(wins / n - 0.5) - 1e-12]
    chances = [0.4 + 0.01 * i for i in range(21)]
    expected = max(sum(stats.binom.pmf(k, n, chance) for k in far) for chance in chances)
    assert sign_test(wins, n, 0.1) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (80, 100), (90, 100), (100, 100)])
def test_the_share_test_is_scipys(successes, n):
    expected = stats.binomtest(successes, n, 0.9, alternative="less").pvalue
    assert share_test(successes, n, 0.9) == pytest.approx(expected, rel=1e-9)


def test_sign_test_p_values_are_uniform_under_equal_chances():
    n, draw, p_values = 101, generator(1), []
    possible = sorted({sign_test(k, n) for k in range(n + 1)})
    for wins in torch.randint(2, (800, n), generator=draw).sum(1).tolist():
        p = sign_test(wins, n)
        at = min(range(len(possible)), key=lambda i: abs(possible[i] - p))
        p_values.append(spread(p, possible[at - 1] if at else 0.0, draw))
    assert is_uniform(p_values)


def test_share_test_p_values_are_uniform_at_the_border():
    n, draw, p_values = 100, generator(2), []
    for successes in (torch.rand(800, n, generator=draw) < 0.9).sum(1).tolist():
        below = share_test(successes - 1, n, 0.9) if successes else 0.0
        p_values.append(spread(share_test(successes, n, 0.9), below, draw))
    assert is_uniform(p_values)


def test_rank_test_p_values_are_uniform_for_one_more_draw():
    draw, p_values = generator(3), []
    for row in torch.randn(800, 40, dtype=torch.float64, generator=draw):
        p = rank_test(row[0].item(), row[1:])
        p_values.append(spread(p, p - 1 / 40, draw))
    assert is_uniform(p_values)
    assert rank_test(5.0, torch.zeros(9, dtype=torch.float64)) == pytest.approx(0.1)


# ---------------------------------------------------------------- independence


@pytest.mark.parametrize("n", [2, 6, 25])
def test_hsic_is_the_loop(n):
    x, y = torch.randn(2, n, dtype=torch.float64, generator=generator(n))
    y = y + x
    found, _ = hsic_test(x, y, 1, generator())
    widths = median_distance(x.tolist()), median_distance(y.tolist())
    assert found == pytest.approx(hsic(x.tolist(), y.tolist(), *widths), rel=1e-8)


def test_permutations_are_those_of_the_loop():
    x, y = torch.randn(2, 12, dtype=torch.float64, generator=generator())
    widths = median_distance(x.tolist()), median_distance(y.tolist())
    observed = hsic(x.tolist(), y.tolist(), *widths)
    draw, at_least = generator(5), 0
    for _ in range(60):
        order = torch.randperm(12, generator=draw)
        at_least += hsic(x.tolist(), y[order].tolist(), *widths) >= observed
    assert hsic_test(x, y, 60, generator(5))[1] == pytest.approx((1 + at_least) / 61)


def test_hsic_p_values_are_uniform_for_independent_numbers():
    draw, p_values = generator(6), []
    for _ in range(300):
        x, y = torch.randn(2, 20, dtype=torch.float64, generator=draw)
        p = hsic_test(x, y, 99, draw)[1]
        p_values.append(spread(p, p - 0.01, draw))
    assert is_uniform(p_values)


def test_hsic_sees_a_dependence_without_correlation():
    x = torch.randn(80, dtype=torch.float64, generator=generator())
    assert hsic_test(x, x**2, 200, generator())[1] < 0.01


def test_constants_are_independent_of_everything():
    x = torch.randn(10, dtype=torch.float64, generator=generator())
    assert hsic_test(x, torch.ones_like(x), 20, generator()) == (0.0, 1.0)
    assert hsic_test(x[:1], x[1:2], 20, generator()) == (0.0, 1.0)
    mostly = torch.cat([torch.zeros(9, dtype=torch.float64), x[:1]])
    assert 0 < hsic_test(mostly, x, 20, generator())[0] < 1


@pytest.mark.parametrize(("n", "n_permutations"), [(2, 60), (3, 60), (40, 12)])
def test_no_permutation_beats_the_least_p(n, n_permutations):
    """Numbers that depend as much as numbers can; of three, one order in six is the observed."""
    x, p_values = torch.arange(float(n), dtype=torch.float64) ** 2, []
    for seed in range(20):
        p_values.append(hsic_test(x, x, n_permutations, generator(seed))[1])
    assert sum(p_values) / 20 >= 0.9 * least_hsic_p(n, n_permutations) >= 0.9 * 0.05


def test_a_test_that_cannot_reject_decides_nothing():
    assert [verdict_of(0.04, 0.01), verdict_of(0.06, 0.01)] == ["fail", "pass"]
    assert [verdict_of(0.05, 0.05), verdict_of(0.04, 0.05)] == ["undecided"] * 2
    assert verdict_of(0.05, 0.01) == "pass"  # rejected below 5 %, not at it


def test_the_worst_verdict_is_a_failure():
    assert worst_of(["pass", "undecided", "fail"]) == "fail"
    assert worst_of(["pass", "undecided", "pass"]) == "undecided"
    assert worst_of(["pass"]) == worst_of([]) == "pass"


def test_draws_that_tie_count_as_at_least_as_large():
    others = torch.tensor([1.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    assert rank_test(1.0, others) == pytest.approx(4 / 5)
    assert rank_test(2.5, others) == pytest.approx(1 / 5)


def test_an_edge_that_ties_with_all_random_ones_exceeds_none():
    """Which is what edges do that change nothing: an idle one must not pass for a telling one."""
    case = tiny_case()
    random = [0.0] * 50 + [1.0] * 50
    found = _judge(case, [0, 1, 2], [0.0, 1.0, 1.5], random, n_pairs=8)
    assert [row.statistic for row in found.edges] == [0.0, 0.5, 1.0]
    expected = [stats.binomtest(k, 100, 0.9, alternative="less").pvalue for k in (0, 50, 100)]
    assert [row.p for row in found.edges] == pytest.approx(expected)
    assert found.idle == (case.graph.edges[0], case.graph.edges[1]) and found.verdict == "fail"
    none = _judge(case, [2], [1.5], random, n_pairs=8)
    assert none.idle == () and none.n_idle == 0 and none.verdict == "pass"


# ---------------------------------------------------------------- correction


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_closed_testing(seed):
    p_values = (torch.rand(6, generator=generator(seed)) ** 3).tolist()
    assert holm(p_values) == pytest.approx(slow_holm(p_values))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# ---------------------------------------------------------------- on circuits


def numbers(metric):
    zeros = torch.zeros(len(metric), dtype=torch.float64)
    return Examples(zeros, torch.tensor(metric, dtype=torch.float64), zeros, zeros)


def test_equivalence_counts_wins_and_leaves_ties_out():
    found = equivalence(numbers([1.0, 2.0, 3.0, 0.0]), numbers([0.0, 2.0, 4.0, 1.0]))
    assert (found.n_pairs, found.n_ties, found.statistic) == (3, 1, 1 / 3)
    assert found.p_sign == pytest.approx(1.0) and found.verdict == "undecided"
    assert found.mean_difference == pytest.approx(-0.25)
    assert "too few pairs" in found.sentence
    worse = equivalence(numbers([0.0] * 100), numbers([1.0] * 100))
    assert worse.verdict == "fail" and worse.statistic == 0


def test_equivalence_is_undecided_until_some_number_of_wins_would_reject():
    for n in range(1, 12):
        found = equivalence(numbers([1.0, 0.0] * n), numbers([0.5] * 2 * n))
        reachable = equivalence(numbers([1.0] * 2 * n), numbers([0.5] * 2 * n)).verdict == "fail"
        assert found.verdict == ("pass" if reachable else "undecided")
        assert ("too few pairs" in found.sentence) == (not reachable)
    few = equivalence(numbers([1.0] * 3), numbers([1.0] * 3))  # alike, but on three pairs
    assert few.verdict == "undecided"


def test_a_difference_within_the_tolerance_is_a_tie():
    full, circuit = [10.0, -10.0, 10.0, 0.0, 0.0], [10.1, -10.3, 9.7, 1e-9, 1.0]
    found = equivalence(numbers(circuit), numbers(full), 0.01)
    assert (found.n_ties, found.n_pairs, found.statistic) == (2, 3, 1 / 3)
    at = equivalence(numbers([1.0, 3.0]), numbers([1.0, 1.0]), 0.5)  # of 4: the difference itself
    assert (at.n_ties, at.n_pairs) == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rounding_of_the_gated_model_is_no_win(family, dtype):
    case = tiny_case(family, dtype=dtype)
    opened = {"": case.full_mask}
    gated = evaluate_each(case.references, opened, case.batches, case.task_metric)[""]
    plain = evaluate_full_each(case.references, case.batches, case.task_metric)
    found = equivalence(gated, plain, rounding(dtype))
    assert (found.n_ties, found.n_pairs) == (case.n_examples, 0)
    assert found.verdict == "pass" and "alike on every pair" in found.sentence
    circuit = evaluate_each(case.references, {"": case.mask}, case.batches, case.task_metric)[""]
    assert equivalence(circuit, plain, rounding(dtype)).n_ties < case.n_examples


def test_the_said_number_of_wins_is_where_the_verdict_turns():
    n, said = 100, None
    for wins in range(50, n + 1):
        found = equivalence(numbers([2.0] * wins + [0.0] * (n - wins)), numbers([1.0] * n))
        said = said or int(found.sentence.split(" wins or more")[0].split()[-1])
        assert (found.verdict == "fail") == (wins >= said)


def test_the_whole_model_is_equal_and_has_an_idle_complement():
    case = tiny_case()
    full = evaluate_each(case.references, {"f": case.full_mask}, case.batches, case.task_metric)[
        "f"
    ]
    assert vars(equivalence(full, full)) | {"sentence": ""} == {
        "n_pairs": 0,
        "n_ties": 8,
        "tolerance": 0.0,
        "epsilon": 0.1,
        "statistic": None,
        "p": 1.0,
        "p_sign": 1.0,
        "mean_difference": 0.0,
        "verdict": "pass",
        "sentence": "",
    }
    assert independence(case, full, full).p < 0.05  # the model depends on itself


@pytest.mark.parametrize("graph", GRAPHS, ids=Graph.describe)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_random_path_makes_the_circuit_larger_and_is_all_live(graph, share):
    draw = generator(7)
    for _ in range(30):
        mask = live_edges(graph, torch.rand(graph.n_edges, generator=draw) < share)
        added = random_path(graph, mask, draw)
        assert added == sorted(set(added), key=added.index) and not mask[added].any()
        inflated = mask.clone()
        inflated[added] = True
        assert torch.equal(live_edges(graph, inflated), inflated)


def test_a_whole_model_cannot_be_inflated():
    graph = GRAPHS[0]
    assert random_path(graph, torch.ones(graph.n_edges, dtype=torch.bool), generator()) == []
    found = idle_edges(tiny_case(mask=tiny_case().full_mask))
    assert found.verdict == "undecided" and "no edge can be added" in found.sentence
    found = idle_edges(tiny_case(mask=tiny_case().empty_mask))
    assert "keeps no edge" in found.sentence


def test_minimality_is_the_definition():
    case = tiny_case(n_random=8)
    found = idle_edges(case)

    def metric(mask):
        return evaluate_each(case.references, {"m": mask}, case.batches, case.task_metric)[
            "m"
        ].metric

    draw, random = case.generator("minimality"), []
    for _ in range(8):
        added = random_path(case.graph, case.mask, draw)
        inflated = case.mask.clone()
        inflated[added] = True
        deflated = inflated.clone()
        deflated[added[int(torch.randint(len(added), (), generator=draw))]] = False
        random.append((metric(deflated) - metric(inflated)).abs().mean().item())
    assert found.random_effects == pytest.approx(random, rel=1e-9)
    kept, p_values = case.mask.nonzero().flatten().tolist(), []
    assert [row.edge for row in found.edges] == [case.graph.edges[e] for e in kept]
    for edge, row in zip(kept, found.edges, strict=True):
        without = case.mask.clone()
        without[edge] = False
        effect = (metric(without) - metric(case.mask)).abs().mean().item()
        assert row.effect == pytest.approx(effect, rel=1e-9, abs=1e-15)
        beaten = sum(effect > other for other in random)
        p_values.append(stats.binomtest(beaten, 8, 0.9, alternative="less").pvalue)
    assert [row.p for row in found.edges] == pytest.approx(p_values)
    m = len(kept)
    ranked = sorted(range(m), key=p_values.__getitem__)
    for place, i in enumerate(ranked):
        steps = [min(1, (m - j) * p_values[ranked[j]]) for j in range(place + 1)]
        assert found.edges[i].p_holm == pytest.approx(max(steps))


def test_idle_edges_are_found():
    """Edges that dangle change nothing, and the test says so; the others it leaves alone."""
    case = tiny_case(n_random=60)
    graph = case.graph
    core = graph.mask_of(["input->logits", "input->m1", "m1->logits"])
    dangling = graph.mask_of(["input->a0.h0<q>", "input->a0.h1<k>"])
    found = idle_edges(replace(case, mask=core | dangling))
    assert {"input->a0.h0<q>", "input->a0.h1<k>"} <= set(found.idle)
    assert found.verdict == "fail" and found.n_idle == len(found.idle)


def test_minimality_holds_few_circuits_and_takes_few_pairs(monkeypatch):
    """Not one mask for each edge at once; fewer pairs where there are many edges."""
    module = import_module("circuitprune.evidence.idle_edges")
    case, held = tiny_case(n_random=10), []

    def counted(references, masks, *rest):
        held.append(len(masks))
        return evaluate_each(references, masks, *rest)

    monkeypatch.setattr(module, "evaluate_each", counted)
    monkeypatch.setattr(module, "AT_ONCE", 4)
    whole = idle_edges(case)
    assert max(held) == 8 and sum(held) == 20 and len(whole.edges) > 8
    monkeypatch.setattr(module, "LEAST_PAIRS", 2)
    for most, n_pairs in ((0, 2), (3 * len(whole.edges), 3)):
        monkeypatch.setattr(module, "MOST_RUNS", most)
        found = idle_edges(case)
        few = idle_edges(replace(case, batches=few_pairs(case.batches, n_pairs)))
        assert found.n_pairs == n_pairs and found.edges == few.edges


@pytest.mark.parametrize(("n_random", "decided"), [(1, False), (2, False), (3, True)])
def test_minimality_is_undecided_with_too_few_random_edges(n_random, decided):
    """No p of six edges is below 6 * 0.1 ** n_random."""
    case = tiny_case(n_random=n_random)
    core = ["input->logits", "input->m1", "m1->logits", "input->m0", "m0->logits", "m0->m1"]
    found = idle_edges(replace(case, mask=case.graph.mask_of(core)))
    assert (found.verdict != "undecided") == decided
    assert ("too few random edges" in found.sentence) == (not decided)


def test_independence_is_undecided_with_few_permutations_or_pairs():
    case = tiny_case()
    x = numbers(torch.randn(30, dtype=torch.float64, generator=generator()).tolist())
    for n_permutations, verdict in ((19, "undecided"), (20, "fail")):
        found = independence(replace(case, n_bootstrap=n_permutations), x, x)
        assert found.verdict == verdict and found.n_permutations == n_permutations
        assert ("No outcome" in found.sentence) == (verdict == "undecided")
    few = Examples(*(getattr(x, f.name)[:3] for f in fields(x)))
    assert independence(case, few, few).verdict == "undecided"


@pytest.mark.parametrize("kind", EVIDENCE)
def test_one_pair_is_judged_without_a_crash(kind):
    case = tiny_case(batches=[pairs([9], seed=0)], n_bootstrap=20, n_random=25, n_knockouts=2)
    found = written(EVIDENCE[kind](case))
    assert found.sentence
    if kind == "hypotheses":
        assert found.equivalence.verdict == "undecided"
        assert found.independence.verdict == "undecided"
        assert (found.independence.statistic, found.independence.p) == (0.0, 1.0)


def test_the_section_is_plain_and_the_same_again():
    one, two = (hypotheses(tiny_case()) for _ in range(2))
    assert in_a_file(one) == in_a_file(two)
    found = written(one)
    assert found == one
    tests = ("equivalence", "independence", "minimality")
    assert found.n_pairs == tiny_case().n_examples
    for name in tests:
        assert 0 <= getattr(found, name).p <= 1 and getattr(found, name).sentence


@pytest.mark.parametrize(
    ("three", "verdict"),
    [
        (("pass", "pass", "pass"), "pass"),
        (("pass", "pass", "undecided"), "undecided"),
        (("fail", "pass", "undecided"), "fail"),
    ],
)
def test_one_rejection_is_a_rejection_of_the_ideal_circuit(monkeypatch, three, verdict):
    case, module = tiny_case(n_random=1), import_module("circuitprune.evidence.hypotheses")
    found = hypotheses(case)
    tests = {
        "equivalence": found.equivalence,
        "independence": found.independence,
        "idle_edges": found.minimality,
    }
    for (name, test), one in zip(tests.items(), three, strict=True):
        changed = replace(test, verdict=one)
        monkeypatch.setattr(module, name, lambda *_, changed=changed: changed)
    assert hypotheses(case).verdict == verdict


def test_few_pairs_are_the_first():
    batches = tiny_case().batches
    for n in (1, 5, 6, 8, 100):
        few = few_pairs(batches, n)
        index = torch.cat([batch.index for batch in few]).tolist()
        assert index == list(range(min(n, 8)))
