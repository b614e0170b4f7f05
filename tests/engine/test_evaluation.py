"""The verifier against plain hooks on the untouched model and the slow reference, edge by edge.

`evaluate` runs the engine with hard gates; everything it reports is recomputed here from
`tests/reference.py`, which shares no code with it, and from hooks on Hugging Face's own forward.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import reference
import torch
from conftest import VOCAB, build_tiny_model, random_batch
from golden_numbers import golden_batches, golden_model, numbers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.reachability import live_edges
from circuitprune.data.batches import Batch
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import Evidence, evaluate, evaluate_full
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import MetricError
from circuitprune.metrics import logit_diff, prob_diff

TOLERANCE = {"gpt2": 1e-10, "llama": 1e-5}
"""Of every number of the evidence; Hugging Face's RMSNorm works in float32."""
VISIBLE = 1e-4
"""A cut edge moves the KL by more than this, or a test of it would prove nothing."""
CASES = [("gpt2", "kv_head"), ("llama", "kv_head"), ("llama", "query_head")]
LENGTHS = [9, 9, 7, 6, 8]


class Case(NamedTuple):
    """A model, its pairs as one batch, and the references that `evaluate` uses."""

    family: str
    model: PreTrainedModel
    references: References
    batch: Batch

    @property
    def graph(self):
        return self.references.gated.graph

    @property
    def tolerance(self) -> dict[str, float]:
        return dict(rel=TOLERANCE[self.family], abs=TOLERANCE[self.family])


def pairs(n_answers: int = 1, seed: int = 0) -> Batch:
    """Random prompts of uneven length; answers and wrong tokens never meet."""
    drawn = random_batch(LENGTHS, seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.stack(
        [torch.randperm(VOCAB, generator=generator)[: 2 * n_answers] for _ in LENGTHS]
    )
    answers, wrong = tokens.split(n_answers, dim=1)
    if n_answers > 1:  # sets of uneven size
        answers, wrong = answers.clone(), wrong.clone()
        answers[0, -1] = wrong[1, -1] = -1
    return Batch(torch.arange(len(LENGTHS)), *drawn, answers=answers, wrong=wrong)


def make_case(family: str, kv_readers: str = "kv_head", ablation: str = "patch", **kw) -> Case:
    model, batch = build_tiny_model(family), pairs(**kw)
    gated = GatedModel(model, kv_readers)
    references = References(gated, make_ablation(ablation, gated.ports, [batch]))
    return Case(family, model, references, batch)


def slow_ablated(case: Case) -> dict[str, Tensor]:
    """What cut edges carry, by the reference's own hooks."""
    batch, kind = case.batch, case.references.ablation.kind
    written = reference.writers(case.model, case.family, batch.corrupt, batch.mask)
    if kind == "zero":
        return {name: torch.zeros_like(value) for name, value in written.items()}
    if kind == "mean":
        return {name: value[batch.mask].mean(0).expand_as(value) for name, value in written.items()}
    return written


def real(ids: Tensor) -> list[list[int]]:
    return [[token for token in row if token >= 0] for row in ids.tolist()]


def slow_logits(case: Case, mask: Tensor) -> Tensor:
    """Answer-position logits of a circuit, by the transformer written out by hand."""
    gates = reference.gate_dict(case.graph, mask.double())
    batch = case.batch
    logits = reference.gated_logits(
        case.model, case.family, batch.clean, batch.mask, gates, slow_ablated(case)
    )
    return reference.at_last(logits, batch.last)


def slow_evidence(
    case: Case, logits: Tensor, metric: Callable[..., Tensor] = reference.logit_diff
) -> Evidence:
    """Every number of the evidence, in loops over examples."""
    batch = case.batch
    plain = reference.plain_logits(case.model, batch.clean, batch.mask)
    full = reference.at_last(plain, batch.last)
    answers, wrong = real(batch.answers), real(batch.wrong)
    right = matches = 0
    for row, full_row, good, bad in zip(logits, full, answers, wrong, strict=True):
        right += max(row[good]) > max(row[bad])
        matches += int(row.argmax()) == int(full_row.argmax())
    n = len(batch)
    return Evidence(
        kl=reference.kl(full, logits).mean().item(),
        metric=metric(logits, answers, wrong).mean().item(),
        accuracy=float(right) / n,
        exact_match=matches / n,
        n=n,
    )


def found(case: Case, *masks: Tensor, metric=logit_diff) -> list[Evidence]:
    named = {str(i): mask for i, mask in enumerate(masks)}
    return list(evaluate(case.references, named, [case.batch], metric).values())


def ones(case: Case) -> Tensor:
    return torch.ones(case.graph.n_edges, dtype=torch.bool)


def random_masks(case: Case, shares: tuple[float, ...] = (0.3, 0.7, 0.95)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(case.graph.n_edges, generator=generator) < share for share in shares]


def some_edges(case: Case) -> list[int]:
    """Fifteen edges: three into each kind of reader, not all of them from the input."""
    graph, generator = case.graph, torch.Generator().manual_seed(1)
    chosen = []
    for kind in ("q", "k", "v", "mlp", "logits"):
        rows = [e for e in range(graph.n_edges) if graph.reader_kind[graph.edge_reader[e]] == kind]
        late = [e for e in rows if kind in ("mlp", "logits") or graph.edge_writer[e] > 0]
        order = torch.randperm(len(late), generator=generator)[:3].tolist()
        chosen += [late[i] for i in order]
    return chosen


# ---------------------------------------------------------------- against the slow truth


@pytest.mark.parametrize(("family", "kv_readers"), CASES)
def test_every_single_edge_removed_as_the_slow_reference(family, kv_readers):
    case = make_case(family, kv_readers)
    edges, masks = some_edges(case), []
    for edge in edges:
        mask = ones(case)
        mask[edge] = False
        masks.append(mask)
    assert len(edges) >= 12
    moved = 0
    for edge, mask, evidence in zip(edges, masks, found(case, *masks), strict=True):
        expected = slow_evidence(case, slow_logits(case, mask))
        name = case.graph.edges[edge]
        assert evidence.to_json() == pytest.approx(expected.to_json(), **case.tolerance), name
        moved += expected.kl > VISIBLE
    assert moved >= len(edges) // 2


@pytest.mark.parametrize(("family", "kv_readers"), CASES)
@pytest.mark.parametrize("ablation", ["patch", "zero", "mean"])
def test_random_circuits_as_the_slow_reference(family, kv_readers, ablation):
    case = make_case(family, kv_readers, ablation)
    masks = [*random_masks(case), ~ones(case)]
    *evidence, empty = found(case, *masks)
    full = evaluate_full(case.references, [case.batch], logit_diff)
    *slow, slow_empty = [slow_evidence(case, slow_logits(case, mask)) for mask in masks]
    batch = case.batch
    plain = reference.plain_logits(case.model, batch.clean, batch.mask)
    slow_full = slow_evidence(case, reference.at_last(plain, batch.last))
    assert full.to_json() == pytest.approx(slow_full.to_json(), **case.tolerance)
    assert empty.to_json() == pytest.approx(slow_empty.to_json(), **case.tolerance)
    for ours, theirs in zip(evidence, slow, strict=True):
        assert ours.to_json() == pytest.approx(theirs.to_json(), **case.tolerance)
        assert ours.kl > VISIBLE
        share = (theirs.metric - slow_empty.metric) / (slow_full.metric - slow_empty.metric)
        scale = max(1.0, 1 / abs(slow_full.metric - slow_empty.metric))
        reached = ours.against(full, empty).faithfulness
        assert reached == pytest.approx(share, rel=scale * TOLERANCE[family], abs=1e-9)


@pytest.mark.parametrize("family", TOLERANCE)
def test_answer_sets_as_the_slow_reference(family):
    case = make_case(family, n_answers=3)
    for mask, evidence in zip(
        random_masks(case), found(case, *random_masks(case), metric=prob_diff), strict=True
    ):
        expected = slow_evidence(case, slow_logits(case, mask), reference.prob_diff)
        assert evidence.to_json() == pytest.approx(expected.to_json(), **case.tolerance)


# ---------------------------------------------------------------- against hooks on the model


@pytest.mark.parametrize(("family", "kv_readers"), CASES)
def test_a_node_cut_out_is_plain_activation_patching(family, kv_readers):
    case = make_case(family, kv_readers)
    batch = case.batch
    corrupt = reference.writers(case.model, family, batch.corrupt, batch.mask)
    nodes = ["input", "a0.h2", "m0", "a1.h0", "m1"]
    masks = [
        torch.tensor([not name.startswith(f"{node}->") for name in case.graph.edges])
        for node in nodes
    ]
    for node, evidence in zip(nodes, found(case, *masks), strict=True):
        logits = reference.patched_logits(
            case.model, family, batch.clean, batch.mask, node, corrupt[node]
        )
        expected = slow_evidence(case, reference.at_last(logits, batch.last))
        assert evidence.to_json() == pytest.approx(expected.to_json(), **case.tolerance), node
        assert expected.kl > VISIBLE


@pytest.mark.parametrize("family", TOLERANCE)
def test_one_edge_into_the_logits_is_path_patching_by_one_hook(family):
    """Corrupt minus clean of one writer, added to what the untouched model's final norm sees."""
    case = make_case(family)
    batch, model = case.batch, case.model
    clean = reference.writers(model, family, batch.clean, batch.mask)
    corrupt = reference.writers(model, family, batch.corrupt, batch.mask)
    for writer in clean:
        mask = ones(case)
        mask[case.graph.edge_index(f"{writer}->logits")] = False
        change = corrupt[writer] - clean[writer]
        norm = reference.final_norm(model, family)
        with reference.changed_input(norm, lambda x, change=change: x + change):
            logits = reference.plain_logits(model, batch.clean, batch.mask)
        expected = slow_evidence(case, reference.at_last(logits, batch.last))
        (measured,) = found(case, mask)
        wanted = pytest.approx(expected.to_json(), **case.tolerance)
        assert measured.to_json() == wanted, writer


@pytest.mark.parametrize("family", TOLERANCE)
def test_full_mask_is_the_model_and_empty_mask_the_corrupt_run(family):
    case = make_case(family)
    full, empty = found(case, ones(case), ~ones(case))
    batch = case.batch
    direct = evaluate_full(case.references, [batch], logit_diff)
    assert full.to_json() == pytest.approx(direct.to_json(), **case.tolerance)
    assert direct.kl == 0 and direct.exact_match == 1
    logits = reference.plain_logits(case.model, batch.corrupt, batch.mask)
    expected = slow_evidence(case, reference.at_last(logits, batch.last))
    assert empty.to_json() == pytest.approx(expected.to_json(), **case.tolerance)
    assert empty.kl > VISIBLE
    assert direct.against(direct, empty).faithfulness == 1
    assert empty.against(direct, empty).faithfulness == 0


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("max_gb", [0.0, 1e-4, 2.0])
@pytest.mark.parametrize("family", TOLERANCE)
def test_batching_order_and_cache_change_nothing(family, max_gb):
    case = make_case(family)
    masks = {str(i): mask for i, mask in enumerate(random_masks(case))}
    whole = evaluate(case.references, masks, [case.batch], logit_diff)
    fresh = References(case.references.gated, case.references.ablation, max_gb)
    for sizes in ([1] * 5, [2, 3], [4, 1]):
        parts = [cut(case.batch, rows) for rows in torch.arange(5).flip(0).split(sizes)]
        again = evaluate(fresh, masks, parts, logit_diff)
        for name in masks:
            assert again[name].to_json() == pytest.approx(whole[name].to_json(), **case.tolerance)
            assert again[name].n == 5


def cut(batch: Batch, rows: Tensor) -> Batch:
    """Some rows as a batch of their own, padded no more than they need."""
    width = int(batch.last[rows].max()) + 1
    taken = {name: getattr(batch, name)[rows] for name in batch.__dataclass_fields__}
    shorter = {name: taken[name][:, :width] for name in ("clean", "corrupt", "mask")}
    return Batch(**{**taken, **shorter})


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("family", TOLERANCE)
def test_trimming_changes_nothing_under_patch(family, share):
    case = make_case(family)
    (mask,) = random_masks(case, (share,))
    trimmed = Circuit(case.graph, mask).trim().mask
    assert trimmed.sum() < mask.sum()
    untrimmed, live = found(case, mask, trimmed)
    assert live.to_json() == pytest.approx(untrimmed.to_json(), **case.tolerance)


def test_examples_are_weighted_alike_whatever_their_batch():
    case = make_case("gpt2")
    (mask,) = random_masks(case, (0.7,))
    singles = [cut(case.batch, torch.tensor([row])) for row in range(5)]
    rows = [found(case._replace(batch=single), mask)[0] for single in singles]
    (whole,) = found(case, mask)
    for name in ("kl", "metric", "accuracy", "exact_match"):
        assert getattr(whole, name) == pytest.approx(
            sum(getattr(row, name) for row in rows) / 5, rel=1e-10
        )


def test_verification_leaves_no_trace_in_the_model():
    case = make_case("gpt2")
    before = reference.plain_logits(case.model, case.batch.clean, case.batch.mask)
    found(case, *random_masks(case))
    after = reference.plain_logits(case.model, case.batch.clean, case.batch.mask)
    assert torch.equal(before, after)


# ---------------------------------------------------------------- what has no number


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics says it in its way too
def test_no_examples_is_an_error_not_a_nan():
    case = make_case("gpt2")
    with pytest.raises(MetricError, match="no examples"):
        evaluate(case.references, {"": ones(case)}, [], logit_diff)


def test_faithfulness_is_undefined_when_nothing_is_to_recover():
    case = make_case("gpt2")
    same = replace(case.batch, corrupt=case.batch.clean, index=case.batch.index + 100)
    full = evaluate_full(case.references, [same], logit_diff)
    empty = evaluate(case.references, {"": ~ones(case)}, [same], logit_diff)[""]
    with pytest.raises(MetricError, match="undefined"):
        full.against(full, empty)


def test_logits_that_are_not_numbers_are_refused():
    model = AutoModelForCausalLM.from_config(build_tiny_model("gpt2").config).double()
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.nan
    gated, batch = GatedModel(model), pairs()
    references = References(gated, make_ablation("patch", gated.ports, []))
    mask = torch.ones(gated.graph.n_edges, dtype=torch.bool)
    with pytest.raises(MetricError, match="NaN"):
        evaluate(references, {"": mask}, [batch], logit_diff)


# ---------------------------------------------------------------- against EAP-IG's own numbers


def test_a_circuit_of_100_edges_scores_as_in_eap_ig():
    expected = numbers()["evaluate_graph"]
    gated, (batch,) = GatedModel(golden_model()), golden_batches()
    references = References(gated, make_ablation("patch", gated.ports, []))
    requested = Circuit.from_names(gated.graph, expected["requested_edges"])
    trimmed = requested.trim()
    assert sorted(trimmed.edges) == sorted(expected["edges_after_prune"])
    assert torch.equal(trimmed.mask, live_edges(gated.graph, requested.mask))
    masks = {"requested": requested.mask, "trimmed": trimmed.mask}
    for row in range(len(batch)):
        one = evaluate(references, masks, [cut(batch, torch.tensor([row]))], logit_diff)
        for evidence in one.values():
            assert evidence.metric == pytest.approx(expected["per_example"][row], abs=1e-9)
    whole = evaluate(references, masks, [batch], logit_diff)
    assert whole["trimmed"].metric == pytest.approx(expected["mean"], abs=1e-9)
