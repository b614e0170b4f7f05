"""ACDC against a loop that runs every candidate as a whole, and the promises around it."""

from functools import cache

import pytest
import reference_acdc
import torch
from attribution.test_attribution import pairs, patched
from conftest import CONFIGS, randomise
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel

from circuitprune.circuits.graph import Graph
from circuitprune.errors import ConfigError, DataError, NonFiniteError, RunError
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.patching.acdc import AcdcState, _decide, acdc, sweep

some_families = pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
THRESHOLD = 0.02
"""In nats; keeps some edges of every random model and removes most."""
SLACK = 1e-5
"""No decision of the tests lies so close to the threshold that rounding could take it."""


@cache
def small(family: str) -> PreTrainedModel:
    """The tiny model of a family with a layer less: the slow loop runs it once for each edge."""
    config = CONFIGS[family]()
    config.num_hidden_layers = 2
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed=1)
    return model.double().eval().requires_grad_(False)


def slow(references, threshold, worsening=None):
    """Mask and scores of the loop, and how close a decision came to the threshold."""
    gated, batch, graph = references.gated, pairs(), references.gated.graph
    ablated, full = references.ablated(batch)[:], references.full_logits(batch)

    def run(edges: set[str]) -> float:
        gates = torch.tensor([float(edge in edges) for edge in graph.edges]).double()
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        worse = worsening(logits, batch) if worsening else kl_divergence(full, logits)
        return worse.mean().item()

    circuit, increases = reference_acdc.acdc(graph, threshold, run)
    scores = torch.tensor([-increases[edge] for edge in graph.edges], dtype=torch.float64)
    margin = min(abs(increase - threshold) for increase in increases.values())
    return graph.mask_of(circuit), scores, margin


@cache
def found(family: str, threshold: float = THRESHOLD):
    """The circuit of one family, kept for the tests that only look at it."""
    return acdc(patched(small(family)), [pairs()], threshold)


# ------------------------------------------------------------------ the circuit


FEW = [("gpt2", "kv_head"), ("gpt_neox", "kv_head"), ("llama", "query_head"), ("gemma2", "kv_head")]
"""One of each kind of layer: these loops are slow."""


@pytest.mark.parametrize(("family", "kv_readers"), FEW)
def test_the_circuit_and_the_scores_are_the_slow_loops(family, kv_readers, tolerance):
    references = patched(small(family), kv_readers)
    mask, scores, margin = slow(references, THRESHOLD)
    result = acdc(references, [pairs()], THRESHOLD)
    assert margin > SLACK
    assert torch.equal(result.mask, mask)
    assert_close(result.scores, scores, **tolerance)
    assert 5 < int(mask.sum()) < 0.8 * len(mask)


def test_a_task_metric_counts_by_its_fall():
    references = patched(small("gpt2"))

    def worsening(logits, batch):
        return -logit_diff(logits, batch)

    mask, scores, margin = slow(references, 0.05, worsening)
    result = acdc(references, [pairs()], 0.05, logit_diff)
    assert margin > SLACK and 5 < int(mask.sum()) < 0.8 * len(mask)
    assert torch.equal(result.mask, mask)
    assert_close(result.scores, scores, rtol=1e-10, atol=1e-10)
    full = references.full_logits(pairs())
    gates, batch = mask.double(), pairs()
    logits = references.gated(gates, batch.clean, batch.mask, references.ablated(batch), batch.last)
    assert_close(result.worsening, worsening(logits, batch).mean().item())
    assert result.worsening != pytest.approx(worsening(full, batch).mean().item())


def test_kept_edges_are_those_whose_removal_hurt(family):
    result = found(family)
    assert torch.equal(result.mask, -result.scores >= THRESHOLD)


def visited(graph: Graph, mask) -> list[int]:
    """The readers behind which something kept reads on, and the logits."""
    tails = {edge.split("->")[0] for edge, keep in zip(graph.edges, mask, strict=True) if keep}
    return [
        reader
        for reader, name in enumerate(graph.readers)
        if name == "logits" or {graph.writers[w] for w in graph.heads_of_reader(reader)} & tails
    ]


def test_what_nobody_reads_goes_without_a_run(family):
    result, graph = found(family), patched(small(family)).gated.graph
    seen = torch.isin(graph.edge_reader, torch.tensor(visited(graph, result.mask)))
    assert not result.mask[~seen].any() and not result.scores[~seen].any()
    assert (result.scores[seen] != 0).float().mean() > 0.9


# ------------------------------------------------------------------ what must not matter


@some_families
@pytest.mark.parametrize("longest", [1, 3, 500])
def test_guessing_ahead_changes_nothing(family, longest, tolerance):
    result = acdc(patched(small(family)), [pairs()], THRESHOLD, longest_chain=longest)
    assert torch.equal(result.mask, found(family).mask)
    assert_close(result.scores, found(family).scores, **tolerance)
    graph = patched(small(family)).gated.graph
    seen = torch.isin(graph.edge_reader, torch.tensor(visited(graph, result.mask)))
    n_decisions = int(seen.sum())
    assert result.evaluations == n_decisions if longest == 1 else result.evaluations > n_decisions
    assert result.evaluations < 3 * n_decisions


@some_families
def test_batches_change_nothing(family, tolerance):
    apart = [pairs(rows) for rows in ((2,), (0, 3), (1,))]
    result = acdc(patched(small(family)), apart, THRESHOLD)
    assert torch.equal(result.mask, found(family).mask)
    assert_close(result.scores, found(family).scores, **tolerance)
    assert_close(result.worsening, found(family).worsening, **tolerance)


# ------------------------------------------------------------------ stop and go on


class Stop(RuntimeError):
    """Raised in the middle of a search on purpose."""


@some_families
@pytest.mark.parametrize("after", [1, 9, 15])
def test_a_stopped_search_goes_on_to_the_same_bits(family, tmp_path, after):
    path = tmp_path / "state.safetensors"

    def stop(state):
        state.save(path, "the model")
        if state.readers_done == after:
            raise Stop

    with pytest.raises(Stop):
        acdc(patched(small(family)), [pairs()], THRESHOLD, on_reader=stop)
    references = patched(small(family))
    state = AcdcState.load(path, references.gated.graph, THRESHOLD, "kl", "the model")
    assert state.readers_done == after
    result, whole = acdc(references, [pairs()], THRESHOLD, state=state), found(family)
    assert torch.equal(result.mask, whole.mask) and torch.equal(result.scores, whole.scores)
    assert (result.worsening, result.evaluations) == (whole.worsening, whole.evaluations)
    assert result.counts == whole.counts


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("threshold", dict(threshold=0.1)),
        ("worsening", dict(worsening=logit_diff)),
        ("fingerprint", dict(fingerprint="other")),
        ("edges", dict(graph=Graph(2, 2, 2))),
    ],
)
def test_a_state_of_another_search_is_refused(tmp_path, what, change):
    graph, path = Graph(1, 2, 2), tmp_path / "state.safetensors"
    AcdcState.start(graph, 0.01, "kl").save(path, "model")
    same = dict(graph=graph, threshold=0.01, worsening="kl", fingerprint="model")
    assert AcdcState.load(path, **same).readers_done == 0
    with pytest.raises(RunError, match=f"another search: its {what} is"):
        AcdcState.load(path, **same | change)


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    AcdcState.start(Graph(1, 2, 2), 0.01, "kl").save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="checksum mismatch"):
        AcdcState.load(path, Graph(1, 2, 2), 0.01)


# ------------------------------------------------------------------ around it


def test_a_sweep_is_one_search_for_each_threshold():
    references, calls = patched(small("gpt2")), []
    half = AcdcState.start(references.gated.graph, 0.1, "kl")
    results = sweep(
        references,
        iter([pairs()]),
        [0.1, THRESHOLD],
        states={0.1: half},
        progress=lambda done, total: calls.append((done, total)),
    )
    assert list(results) == [0.1, THRESHOLD]
    assert torch.equal(results[THRESHOLD].mask, found("gpt2").mask)
    assert torch.equal(results[0.1].mask, half.mask)
    assert results[0.1].mask.sum() < results[THRESHOLD].mask.sum()
    n_readers = references.gated.graph.n_readers
    assert calls == [(i, 2 * n_readers) for i in range(1, 2 * n_readers + 1)]


@some_families
def test_counts_are_the_edges_left_after_each_layer(family):
    references, seen = patched(small(family)), {}
    graph = references.gated.graph

    def look(state):
        last = graph.n_readers - state.readers_done
        seen[int(graph.reader_layer[last])] = int(state.mask.sum())

    result = acdc(references, [pairs()], THRESHOLD, on_reader=look)
    assert result.counts == [(layer, seen[layer]) for layer in (2, 1, 0)]
    assert result.counts[-1][1] == int(result.mask.sum())


def test_what_cannot_be_searched_is_refused():
    references = patched(small("gpt2"))
    for threshold in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="threshold must be above 0"):
            acdc(references, [pairs()], threshold)
    with pytest.raises(DataError, match="no batches"):
        acdc(references, [], 0.1)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        acdc(references, [pairs()], 0.1, lambda logits, batch: logits[:, 0] / 0)
    state = AcdcState.start(references.gated.graph, 0.2, "kl")
    with pytest.raises(RunError, match="another search"):
        acdc(references, [pairs()], 0.1, state=state)


def test_an_edge_that_worsens_by_the_threshold_itself_stays():
    """It is the least worsening by which an edge is kept; wrong guesses end what was decided."""
    guesses = dict.fromkeys(range(3), True)
    assert _decide([2, 1, 0], [0.25, 0.375, 1.0], guesses, 0.0, 0.5) == {2: True, 1: True, 0: False}
    assert _decide([1], [0.5], {1: True}, 0.0, 0.5) == {1: False}
    guesses = {2: True, 1: False, 0: True}
    assert _decide([2, 1, 0], [0.75, 0.0, 0.5], guesses, 0.0, 0.5) == {2: False}
    assert guesses == {2: True, 1: True, 0: True}  # what was run after a wrong guess is a guess
