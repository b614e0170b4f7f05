"""Reference runs from the cache are those computed afresh, and the cache keeps to its budget."""

from dataclasses import replace

import pytest
import torch
from conftest import VOCAB, random_batch
from torch.testing import assert_close

from circuitprune.attribution import eap
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError
from circuitprune.metrics import logit_diff

LENGTHS = [9, 4, 7, 9, 2, 6]
N_WRITERS, D_MODEL = 16, 32


def batch_of(rows: list[int]) -> Batch:
    """Some of six fixed examples, padded to the longest of these."""
    tokens = random_batch(LENGTHS, seed=0)
    width = max(LENGTHS[row] for row in rows)
    answers = torch.zeros(len(rows), 1, dtype=torch.long)
    parts = (part[rows, :width] for part in tokens[:3])
    return Batch(torch.tensor(rows) + 100, *parts, tokens.last[rows], answers, answers + 1)


@pytest.fixture
def gated(tiny_model) -> GatedModel:
    return GatedModel(tiny_model("gpt2"))


@pytest.fixture
def counts(monkeypatch, gated) -> dict[str, list[list[int]]]:
    """Which examples each run was made for."""
    calls = {"plain": [], "patch": []}
    plain = gated.plain

    def counted(clean, mask, last=None):
        calls["plain"].append(mask.sum(1).tolist())
        return plain(clean, mask, last)

    monkeypatch.setattr(gated, "plain", counted)
    return calls


def references(gated, counts=None, max_gb=1.0, kind="patch") -> References:
    ablation = make_ablation(kind, gated.ports, [batch_of([0, 1, 2])])

    class Counted:
        kind = ablation.kind

        def __call__(self, batch):
            if counts is not None:
                counts["patch"].append((batch.index - 100).tolist())
            return ablation(batch)

    return References(gated, Counted(), max_gb)


def assert_right(refs: References, batch: Batch, gated: GatedModel) -> None:
    """Both runs are those of an empty cache, wherever something real can read them."""
    fresh = references(gated, max_gb=0.0)
    ablated = refs.ablated(batch)[:]
    assert ablated.shape == (N_WRITERS, *batch.clean.shape, D_MODEL)
    assert_close(ablated[:, batch.mask], fresh.ablated(batch)[:][:, batch.mask])
    tokens, mask, _, prefix = batch.corrupt_prompts
    assert_close(ablated[:, mask], gated.record(tokens, mask, prefix)[:, mask])
    whole = batch.whole
    full = gated.plain(whole.clean, whole.mask)[torch.arange(len(batch)), whole.last]
    assert_close(refs.full_logits(batch), full)


@pytest.mark.parametrize("max_gb", [0.0, 2e-5, 1e-4, 1.0])
def test_any_composition_of_batches_gives_what_a_fresh_run_gives(gated, max_gb):
    """Rows in new company, in another order, padded wider and narrower than when first seen."""
    refs = references(gated, max_gb=max_gb)
    for rows in ([0, 1], [1], [4, 1], [5, 4, 1, 0], [3, 2], [2, 3, 0], [4], [5, 2, 1], [0, 1]):
        assert_right(refs, batch_of(rows), gated)


def test_what_is_cached_is_not_computed_again(gated, counts):
    refs = references(gated, counts)
    for rows in ([0, 1, 2], [3, 4, 5]):
        refs.ablated(batch_of(rows))[:]
        refs.full_logits(batch_of(rows))
    for rows in ([0, 4], [5, 1, 2, 3], [1], [0, 1, 2]):
        refs.ablated(batch_of(rows))[:]
        refs.full_logits(batch_of(rows))
    assert counts == {"patch": [[0, 1, 2], [3, 4, 5]], "plain": [[9, 4, 7], [9, 2, 6]]}


def test_pairs_of_another_data_set_are_not_taken_for_those_of_the_same_number(gated):
    refs, batch = references(gated), batch_of([0, 1, 2])
    assert_right(refs, batch, gated)
    tokens = random_batch(LENGTHS, seed=1)
    other = replace(batch, clean=tokens.clean[:3], corrupt=tokens.corrupt[:3])
    assert_right(refs, other, gated)
    assert_right(refs, replace(batch, corrupt=other.corrupt), gated)
    assert_right(refs, batch, gated)


@pytest.mark.parametrize("prompts", ["clean", "corrupt"])
@pytest.mark.parametrize("at", ["first", "last"])
def test_pairs_that_differ_in_one_token_alone_are_told_apart(gated, prompts, at):
    """At the answer position too, which is the last that either run looks at."""
    refs, batch = references(gated), batch_of([0, 1, 2])
    assert_right(refs, batch, gated)
    tokens = getattr(batch, prompts).clone()
    rows = torch.arange(len(batch))
    place = batch.last if at == "last" else torch.zeros_like(batch.last)
    tokens[rows, place] = tokens[rows, place] % (VOCAB - 1) + 1
    assert_right(refs, replace(batch, **{prompts: tokens}), gated)
    assert_right(refs, batch, gated)


def test_one_unknown_example_computes_its_batch(gated, counts):
    refs = references(gated, counts)
    for rows in ([0, 1], [1, 2], [2, 0]):
        refs.ablated(batch_of(rows))[:]
    assert counts["patch"] == [[0, 1], [1, 2]]


def test_a_budget_of_zero_computes_everything_again(gated, counts):
    refs = references(gated, counts, max_gb=0.0)
    for _ in range(3):
        refs.ablated(batch_of([0, 1]))[:]
        refs.full_logits(batch_of([0, 1]))
    assert counts["patch"] == 3 * [[0, 1]] and counts["plain"] == 3 * [[9, 4]]
    assert stored_bytes(refs) == 0


def stored_bytes(refs: References) -> int:
    """Of all tensors kept, each counted with the whole storage that it holds on to."""
    kept = [*refs._written.values(), *refs._logits.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


def bytes_of(row: int) -> int:
    """What one example's writers take, in float64."""
    return N_WRITERS * LENGTHS[row] * D_MODEL * 8


def test_a_budget_for_some_examples_keeps_those(gated, counts):
    refs = references(gated, counts, max_gb=(bytes_of(0) + bytes_of(1)) / 1e9 + 1e-9)
    refs.ablated(batch_of([0, 1, 2]))[:]
    assert stored_bytes(refs) == bytes_of(0) + bytes_of(1)
    for rows in ([1, 0], [2], [0, 2]):
        assert_close(
            refs.ablated(batch_of(rows))[:][:, batch_of(rows).mask],
            gated.record(batch_of(rows).corrupt, batch_of(rows).mask)[:, batch_of(rows).mask],
        )
    assert counts["patch"] == [[0, 1, 2], [2], [0, 2]]


@pytest.mark.parametrize("examples", [0.0, 0.5, 1.5, 3.2, 100.0])
def test_the_budget_is_never_exceeded(gated, examples):
    limit = int(examples * bytes_of(0))
    refs = references(gated, max_gb=limit / 1e9)
    for rows in ([0, 1, 2], [3, 4], [5], [4, 5, 0], [1, 3]):
        refs.ablated(batch_of(rows))[:]
        refs.full_logits(batch_of(rows))
        assert stored_bytes(refs) <= limit
    everything = sum(map(bytes_of, range(6))) + 6 * VOCAB * 8
    assert (stored_bytes(refs) == everything) == (examples == 100.0)


def test_writing_into_a_result_leaves_the_cache_alone(gated):
    refs, batch = references(gated), batch_of([0, 3])
    for _ in range(3):
        assert_right(refs, batch, gated)
        refs.ablated(batch)[:].zero_()
        refs.full_logits(batch).zero_()
    refs = references(gated)
    refs.ablated(batch_of([1]))[:].zero_()  # the first result is not the cached one
    refs.full_logits(batch_of([1])).zero_()
    assert_right(refs, batch_of([1]), gated)


@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean"])
def test_constants_take_no_memory(gated, counts, kind):
    refs = references(gated, counts, kind=kind)
    for rows in ([0, 1], [1, 0]):
        ablated = refs.ablated(batch_of(rows))[:]
        assert ablated.stride(1) == 0
        assert_close(
            ablated, make_ablation(kind, gated.ports, [batch_of([0, 1, 2])])(batch_of(rows))
        )
    assert stored_bytes(refs) == 0


def asked_last(gated, counts, max_gb) -> list[tuple]:
    """One batch after others asked first, in two ways, and which examples are kept then."""
    seen = []
    for others in ([[5, 0], [3, 1, 2]], [[1, 4]]):
        refs = references(gated, counts, max_gb)
        refs.fill([batch_of([0, 1, 2, 3]), batch_of([4, 5])])
        for rows in others:
            refs.run(batch_of(rows))
            refs.full_logits(batch_of(rows))
        asked = refs.rest(batch_of([2, 5, 0]))
        seen.append((refs.ablated(asked)[:], refs.full_logits(asked), set(refs._written)))
    return seen


@pytest.mark.parametrize("examples", [0.0, 0.5, 1.5, 2.7, 3.2, 100.0])
def test_after_filling_no_byte_depends_on_who_asked_first(gated, counts, examples):
    first, second = asked_last(gated, counts, examples * bytes_of(0) / 1e9)
    mask = references(gated).rest(batch_of([2, 5, 0])).mask
    assert torch.equal(first[0][:, mask], second[0][:, mask])
    assert torch.equal(first[1], second[1]) and first[2] == second[2]


def test_filling_leaves_nothing_to_compute(gated, counts):
    refs = references(gated, counts)
    calls = []
    batches = [batch_of([0, 1, 2]), batch_of([3, 4, 5])]
    refs.fill(batches, lambda *told: calls.append(told))
    assert calls == [(done, 4) for done in range(5)]  # the logits and the writers of each
    for rows in ([0, 4], [5, 1, 2, 3]):
        assert_right(refs, refs.rest(batch_of(rows)), gated)
    assert counts["patch"] == [[0, 1, 2], [3, 4, 5]]


def test_filling_with_no_budget_computes_nothing(gated, counts):
    references(gated, counts, max_gb=0.0).fill([batch_of([0, 1])])
    assert counts == {"patch": [], "plain": []}


@pytest.mark.parametrize("kind", ["patch", "zero"])
def test_an_ablation_that_needs_no_pairs_goes_by_its_name(gated, kind):
    batch = batch_of([0, 1])
    named = References(gated, kind).ablated_copy(batch)
    assert_close(named, References(gated, make_ablation(kind, gated.ports)).ablated_copy(batch))


def test_by_its_name_a_mean_says_what_it_needs(gated):
    for kind in ("mean", "positional-mean"):
        with pytest.raises(DataError, match=r"make_ablation\(kind, gated.ports, batches\)"):
            References(gated, kind)
    with pytest.raises(ConfigError, match="must be one of patch, zero, mean"):
        References(gated, "pach")


def test_attribution_takes_references_by_name_and_a_metric_of_the_package(gated):
    batches, patch = [batch_of([0, 1, 2])], make_ablation("patch", gated.ports)
    found = eap(References(gated, "patch"), batches, logit_diff)
    assert torch.equal(found, eap(References(gated, patch), batches, logit_diff))
    assert found.abs().max() > 0
