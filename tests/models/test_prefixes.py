"""What clean and corrupt prompts begin with alike may be left out of every run: the numbers stay.

The reference is the same work on the whole prompts, for every declared family with a cache of
Hugging Face's usual kind; one that is not of that kind runs whole prompts and says so.
"""

from collections.abc import Callable

import pytest
import torch
from family_configs import CONFIGS, TOLERANCE, VOCAB, build
from torch import Tensor

from circuitprune.attribution.attn_lrp import attn_lrp
from circuitprune.attribution.clean_corrupted import clean_corrupted
from circuitprune.attribution.eap import eap
from circuitprune.attribution.eap_ig_activations import eap_ig_activations
from circuitprune.attribution.eap_ig_inputs import eap_ig_inputs
from circuitprune.attribution.eap_qk import eap_qk
from circuitprune.attribution.gate_ig import gate_ig
from circuitprune.attribution.gim import gim
from circuitprune.attribution.ifr import ifr
from circuitprune.attribution.magnitude import magnitude
from circuitprune.attribution.per_writer_ig import per_writer_ig
from circuitprune.attribution.relp import relp_ah
from circuitprune.data.batches import Batch, Rest
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.metrics import logit_diff
from circuitprune.patching.acdc import acdc
from circuitprune.patching.effects import edge_effects, node_effects
from circuitprune.patching.paths import path_effects

LENGTHS, FIRST = [9, 8, 6, 9], [5, 1, 3, 0]
WITHOUT_CACHE = {"llama4_text"}
"""Its attention scales queries by a count of positions that a cache's padding is part of."""
FLOAT32 = 4e-5
"""Two float32 sums of other shapes, where a family knows no float64."""


def pairs() -> Batch:
    """Four pairs, padded; each differs from some position on, one of them from the first."""
    generator = torch.Generator().manual_seed(5)
    lengths, here = torch.tensor(LENGTHS), torch.arange(max(LENGTHS))
    clean = torch.randint(3, VOCAB, (4, max(LENGTHS)), generator=generator)
    moved = (clean - 3 + 7) % (VOCAB - 3) + 3
    first = torch.tensor(FIRST)[:, None]
    corrupt = torch.where((here == first) | (here == first + 2), moved, clean)
    mask = here < lengths[:, None]
    answers = torch.randint(3, VOCAB, (4, 1), generator=generator)
    wrong = (answers - 3 + 5) % (VOCAB - 3) + 3
    return Batch(torch.arange(4), clean * mask, corrupt * mask, mask, lengths - 1, answers, wrong)


class Both:
    """One model whose references leave prefixes out, and run them."""

    def __init__(self, name: str, kv_readers: str = "kv_head") -> None:
        self.gated = GatedModel(build(name), kv_readers)
        self.left_out = References(self.gated, "patch")
        self.whole = References(self.gated, "patch", prefixes=False)
        self.batch, self.tolerance = pairs(), max(TOLERANCE[name], 0)
        if self.gated.dtype == torch.float32:
            self.tolerance = FLOAT32

    def agree(self, what: str, work: Callable[[References], Tensor]) -> None:
        """The same numbers either way, and numbers that are not all alike."""
        got, expected = work(self.left_out), work(self.whole)
        assert expected.std() > 0
        error = ((got - expected).abs().max() / expected.std()).item()
        assert error <= self.tolerance, f"{what} is off by {error:.2g}"

    def gates(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        gates = torch.rand(self.gated.graph.n_edges, generator=generator, dtype=torch.float64)
        return gates.to(self.gated.dtype)


def check_runs(both: Both) -> None:
    """Gated logits and gradients, tapped scores, and recorded runs with one edge changed."""
    gates, batch = both.gates(), both.batch

    def gradient(references: References) -> Tensor:
        leaf = gates.clone().requires_grad_()
        worth = logit_diff(references.run(batch)(leaf), batch)
        return torch.autograd.grad(worth.sum(), leaf)[0]

    with torch.no_grad():
        both.agree("a gated run", lambda references: references.run(batch)(gates))
    both.agree("its gradient", gradient)
    both.agree("eap", lambda references: eap(references, [batch], logit_diff))
    edges = torch.arange(0, both.gated.graph.n_edges, 17)
    both.agree("exact", lambda r: edge_effects(r, [batch], logit_diff, edges=edges))


@pytest.mark.parametrize("name", sorted({*CONFIGS} - WITHOUT_CACHE))
@pytest.mark.usefixtures("untyped")
def test_every_family_goes_on_behind_a_prefix(name):
    both = Both(name)
    assert both.left_out.leaves_out_prefixes
    check_runs(both)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3"])
@pytest.mark.usefixtures("untyped")
def test_readers_by_query_head_share_the_keys_and_values_of_a_prefix(name):
    check_runs(Both(name, "query_head"))


@pytest.mark.parametrize("name", sorted(WITHOUT_CACHE))
def test_a_family_without_such_a_cache_runs_whole_prompts(name):
    both = Both(name)
    assert not both.left_out.leaves_out_prefixes
    assert both.left_out.run(both.batch).batch.clean.shape == both.batch.clean.shape


METHODS = (
    attn_lrp,
    gim,
    clean_corrupted,
    eap_qk,
    eap_ig_inputs,
    eap_ig_activations,
    gate_ig,
    ifr,
    magnitude,
    per_writer_ig,
    relp_ah,
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.usefixtures("untyped")
def test_every_method_scores_alike(method):
    both = Both("llama")
    both.agree("scores", lambda r: method(r, [both.batch], logit_diff, steps=2))


@pytest.mark.usefixtures("untyped")
def test_patching_has_the_same_effects():
    both = Both("gemma2")
    batch = both.batch
    both.agree("denoising", lambda r: edge_effects(r, [batch], logit_diff, direction="denoising"))
    both.agree("nodes", lambda r: node_effects(r, [batch], logit_diff))
    paths = ["a0.h1->a1.h2<k>->m1->logits", "input->m0->logits", "a1.h0->a2.h3<q>->logits"]
    both.agree("paths", lambda r: path_effects(r, [batch], logit_diff, paths))


@pytest.mark.usefixtures("untyped")
def test_acdc_takes_the_same_decisions():
    both = Both("gpt2")
    found = [acdc(r, [both.batch], threshold=0.01) for r in (both.left_out, both.whole)]
    assert torch.equal(found[0].mask, found[1].mask)
    assert 0 < int(found[0].mask.sum()) < both.gated.graph.n_edges
    torch.testing.assert_close(found[0].scores, found[1].scores)


@pytest.fixture
def llama() -> Both:
    return Both("llama")


def test_the_rest_begins_at_the_first_difference(llama):
    rest, batch = llama.left_out.rest(llama.batch), llama.batch
    assert isinstance(rest, Rest)
    assert batch.shared().tolist() == FIRST
    lengths = [whole - left_out for whole, left_out in zip(LENGTHS, FIRST, strict=True)]
    assert rest.mask.sum(1).tolist() == lengths
    for row, (first, length) in enumerate(zip(FIRST, LENGTHS, strict=True)):
        for name in ("clean", "corrupt"):
            whole, part = getattr(batch, name)[row, first:length], getattr(rest, name)[row]
            assert part[: length - first].tolist() == whole.tolist()
    assert rest.whole.clean.equal(batch.clean)
    assert llama.left_out.rest(rest).clean.equal(rest.clean)


def test_the_answer_position_always_runs(llama):
    same = Batch(**{**vars(llama.batch), "corrupt": llama.batch.clean})
    assert same.shared().tolist() == (same.last).tolist()
    assert llama.left_out.rest(same).clean.shape == (4, 1)


def test_a_prefix_is_never_added_to(llama):
    """Runs of the same rest are the same to the bit, however many went before."""
    run = llama.left_out.run(llama.batch)
    with torch.no_grad():
        first = run(llama.gates())
        assert torch.equal(run(llama.gates()), first)


def test_what_does_not_fit_the_budget_is_computed_again(llama):
    poor = References(llama.gated, "patch", max_gb=0.0)
    with torch.no_grad():
        expected = llama.whole.run(llama.batch)(llama.gates())
        for _ in range(2):
            torch.testing.assert_close(poor.run(llama.batch)(llama.gates()), expected)


@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean"])
def test_where_cut_edges_carry_something_in_the_prefix_it_is_run(llama, kind):
    ablation = make_ablation(kind, llama.gated.ports, [llama.batch])
    references = References(llama.gated, ablation)
    assert references.rest(llama.batch).clean.shape == llama.batch.clean.shape


def test_the_full_model_is_compared_with_on_whole_prompts(llama):
    rest = llama.left_out.rest(llama.batch)
    plain = llama.gated.plain(llama.batch.clean, llama.batch.mask, llama.batch.last)
    assert torch.equal(llama.left_out.full_logits(rest), plain)
