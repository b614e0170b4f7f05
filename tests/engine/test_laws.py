"""The laws that make a gated model trustworthy, on every family, in float64.

The engine is compared with untouched Hugging Face models (plain runs and hooks) and, where no hook
can say it, with `reference.gated_logits`, which `test_reference.py` holds against Hugging Face.
"""

from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import numpy
import pytest
import reference
import torch
from golden_numbers import golden_batches, golden_model
from golden_numbers import scores as golden_scores
from torch import Tensor
from torch.testing import assert_close

from circuitprune.engine.gated import GatedModel

VISIBLE = 1e-3
"""An intervention moves some logit by more than this, or a test of it would prove nothing."""

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
every_ablation = pytest.mark.parametrize(
    ("ablation", "batch_kind"),
    [("patch", "padded"), ("patch", "unpadded"), ("zero", "padded"), ("random", "padded")],
)
both_batches = pytest.mark.parametrize(
    ("ablation", "batch_kind"), [("patch", "padded"), ("patch", "unpadded")]
)


class Case(NamedTuple):
    """One model under one convention, one batch, and what cut edges carry."""

    family: str
    model: torch.nn.Module
    gated: GatedModel
    batch: tuple
    ablated: Tensor
    tolerance: dict[str, float]

    @property
    def graph(self):
        return self.gated.graph

    def engine(self, gates: Tensor) -> Tensor:
        """Logits `[real position, vocab]` of the engine."""
        logits = self.gated(gates, self.batch.clean, self.batch.mask, self.ablated)
        return self.batch.real(logits)

    def slow(self, gates: Tensor) -> Tensor:
        """The same from the reference."""
        by_name = reference.gate_dict(self.graph, gates)
        return self.batch.real(
            reference.gated_logits(
                self.model, self.family, self.batch.clean, self.batch.mask, by_name, self.named
            )
        )

    @property
    def named(self) -> dict[str, Tensor]:
        return dict(zip(self.graph.writers, self.ablated, strict=True))

    def plain(self, tokens: Tensor | None = None) -> Tensor:
        """Logits of the untouched model at the real positions."""
        tokens = self.batch.clean if tokens is None else tokens
        return self.batch.real(reference.plain_logits(self.model, tokens, self.batch.mask))

    def open_except(self, closed) -> Tensor:
        """Gates 1, but 0 on every edge whose name satisfies `closed`."""
        return torch.tensor([0.0 if closed(e) else 1.0 for e in self.graph.edges]).double()

    def random_gates(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.graph.n_edges, generator=generator, dtype=torch.float64)

    def score(self, logits: Tensor) -> Tensor:
        """Mean logit difference at each row's last position, of `[batch, pos, vocab]` logits."""
        answers, wrong = [[5, 7], [11], [2], [30]], [[6], [12, 3], [40], [31]]
        last = reference.at_last(logits, self.batch.last)
        return reference.logit_diff(last, answers[: len(last)], wrong[: len(last)]).mean()

    def engine_score(self, gates: Tensor) -> Tensor:
        return self.score(self.gated(gates, self.batch.clean, self.batch.mask, self.ablated))

    def slow_score(self, gates: Tensor) -> Tensor:
        by_name = reference.gate_dict(self.graph, gates)
        return self.score(
            reference.gated_logits(
                self.model, self.family, self.batch.clean, self.batch.mask, by_name, self.named
            )
        )

    def engine_gradient(self, gates: Tensor) -> Tensor:
        return gradient(self.engine_score, gates)


def gradient(value, gates: Tensor) -> Tensor:
    gates = gates.clone().requires_grad_()
    return torch.autograd.grad(value(gates), gates)[0]


@pytest.fixture
def case(request, tiny_model, family, kv_readers, ablation, batch_kind, tolerance) -> Case:
    batch = request.getfixturevalue(f"{batch_kind}_batch")
    model = tiny_model(family)
    gated = GatedModel(model, kv_readers=kv_readers)
    ablated = gated.record(batch.corrupt, batch.mask)
    if ablation == "zero":
        ablated = torch.zeros_like(ablated)
    if ablation == "random":
        generator = torch.Generator().manual_seed(11)
        ablated = torch.randn(ablated.shape, generator=generator, dtype=torch.float64) / 2
    return Case(family, model, gated, batch, ablated, tolerance)


def assert_visible(logits: Tensor, other: Tensor, what: str = "") -> None:
    assert (logits - other).abs().max() > VISIBLE, f"no visible effect {what}"


# ------------------------------------------------------------------ the graph and the record


@every_graph
@both_batches
def test_graph_and_record_agree_with_the_reference(case, kv_readers):
    assert case.graph == reference.graph_of(case.model, case.family, kv_readers)
    batch = case.batch
    expected = reference.writers(case.model, case.family, batch.corrupt, batch.mask)
    assert case.graph.writers == tuple(expected)
    for name, value in expected.items():
        assert_close(batch.real(case.named[name]), batch.real(value), **case.tolerance)


# ------------------------------------------------------------------ laws 1 to 5: the forward


@every_graph
@every_ablation
def test_law_1_open_gates_give_the_model(case):
    assert_close(
        case.engine(torch.ones(case.graph.n_edges).double()), case.plain(), **case.tolerance
    )


@every_graph
@every_ablation
def test_law_2_closed_gates_give_the_ablated_run(case, ablation):
    gates = torch.zeros(case.graph.n_edges).double()
    logits = case.engine(gates)
    if ablation == "patch":
        assert_close(logits, case.plain(case.batch.corrupt), **case.tolerance)
    assert_close(logits, case.slow(gates), **case.tolerance)
    assert_visible(logits, case.plain())


@every_graph
@every_ablation
def test_law_3_a_closed_writer_is_activation_patching(case):
    batch, plain = case.batch, case.plain()
    for writer in case.graph.writers:
        logits = case.engine(case.open_except(lambda e, w=writer: e.startswith(f"{w}->")))
        expected = reference.patched_logits(
            case.model, case.family, batch.clean, batch.mask, writer, case.named[writer]
        )
        assert_close(logits, batch.real(expected), **case.tolerance)
        assert_visible(logits, plain, writer)


@every_graph
@both_batches
def test_law_4_a_closed_reader_is_patching_its_slice(case):
    """With readers by query head, Hugging Face's own model with each KV head copied is patched."""
    batch, plain, untouched = case.batch, case.plain(), case.model
    if case.graph.n_kv_readers != reference.sizes(case.model, case.family).n_kv:
        untouched = reference.ungrouped_model(case.model, case.family)
    for reader in case.graph.readers:
        logits = case.engine(case.open_except(lambda e, r=reader: e.endswith(f"->{r}")))
        expected = reference.patched_reader_logits(
            untouched, case.family, batch.clean, batch.corrupt, batch.mask, reader
        )
        assert_close(logits, batch.real(expected), **case.tolerance)
        assert_visible(logits, plain, reader)


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("zero", "padded"), ("random", "padded")])
def test_law_4_a_closed_reader_without_a_corrupt_run(case):
    """Zeros and means have no run to patch from; the reference says what the reader sees."""
    for reader in one_reader_of_each_kind(case.graph):
        gates = case.open_except(lambda e, r=reader: e.endswith(f"->{r}"))
        assert_close(case.engine(gates), case.slow(gates), **case.tolerance)
        assert_visible(case.engine(gates), case.plain(), reader)


@every_graph
@every_ablation
def test_law_5_one_closed_edge_is_the_slow_reference(case, ablation):
    plain, edges = case.plain(), sample_edges(case.graph)
    for edge in edges if ablation == "patch" else edges[::3]:
        gates = case.open_except(lambda e, one=edge: e == one)
        logits = case.engine(gates)
        assert_close(logits, case.slow(gates), **case.tolerance)
        assert_visible(logits, plain, edge)


@every_graph
@every_ablation
def test_law_5_any_gates_are_the_slow_reference(case):
    """Fractional gates, boolean ones, and gates outside [0, 1]."""
    fractions = case.random_gates(seed=0)
    for gates in (fractions, fractions.round(), 3 * fractions - 1):
        logits = case.engine(gates)
        assert_close(logits, case.slow(gates), **case.tolerance)
        assert_visible(logits, case.plain())
        assert_visible(logits, case.plain(case.batch.corrupt))


def one_reader_of_each_kind(graph) -> list[str]:
    """The last q, k, v, MLP and logits reader, then two of layer 1."""
    last = dict(zip(graph.reader_kind, graph.readers, strict=True))
    return [*last.values(), "a1.h0<q>", "m1"]


def sample_edges(graph) -> list[str]:
    """An edge of each kind of writer into each kind of reader, from different layers."""
    readers = dict(zip(graph.reader_kind, graph.readers, strict=True))
    writers = ("input", "a1.h2", "m0", "a0.h3")
    late = [f"{w}->{r}" for w, r in product(writers, readers.values())]
    return [*late, "m2->logits", "input->a0.h1<q>", "a0.h0->m0" if not graph.parallel else "m1->m2"]


# ------------------------------------------------------------------ law 6: the gradient


@every_graph
@every_ablation
def test_law_6_gradient_is_that_of_the_reference(case):
    """Every edge, at open gates and at fractional ones, through the whole second-order network."""
    for gates in (torch.ones(case.graph.n_edges).double(), case.random_gates(seed=1)):
        slopes = case.engine_gradient(gates)
        assert_close(slopes, gradient(case.slow_score, gates), **case.tolerance)
        assert slopes.abs().median() > VISIBLE / 10


@every_graph
@both_batches
def test_law_6_gradient_at_open_gates_is_edge_attribution_patching(case):
    batch, untouched = case.batch, case.model
    if case.graph.n_kv_readers != reference.sizes(case.model, case.family).n_kv:
        untouched = reference.ungrouped_model(case.model, case.family)
    expected = reference.eap_by_hooks(
        untouched, case.family, case.graph, batch.clean, batch.corrupt, batch.mask, case.score
    )
    slopes = case.engine_gradient(torch.ones(case.graph.n_edges).double())
    assert_close(-slopes, expected, **case.tolerance)


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_law_6_gradient_is_a_finite_difference_of_exact_patching(case):
    """The step is wide where norms round to float32, so that the rounding does not show."""
    exact = case.tolerance["rtol"] < 1e-8
    step, tolerance = (1e-3, 1e-8) if exact else (2e-2, 2e-4)
    edges = [case.graph.edge_index(e) for e in sample_edges(case.graph)[::4]]
    for gates in (torch.ones(case.graph.n_edges).double(), case.random_gates(seed=2)):
        expected = reference.edge_gradients_by_finite_difference(
            case.slow_score, gates, edges, step
        )
        slopes = case.engine_gradient(gates)[edges]
        assert_close(slopes, expected, rtol=tolerance, atol=tolerance)
        assert slopes.abs().max() > 100 * tolerance


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_gradient_of_the_engine_by_torch_gradcheck(case):
    """Along random directions, from the engine alone, at the answer positions only."""
    batch, gates = case.batch, case.random_gates(seed=3)
    direction = case.random_gates(seed=4) - 0.5

    def score(gates):
        logits = case.gated(gates, batch.clean, batch.mask, case.ablated, batch.last)
        return (logits * torch.linspace(-1, 1, logits.shape[-1]).double()).sum()

    step = 1e-4 if case.tolerance["rtol"] < 1e-8 else 5e-3
    rise = score(gates + step * direction) - score(gates - step * direction)
    slope = gradient(score, gates) @ direction
    assert_close(slope, rise / (2 * step), rtol=10 * step, atol=10 * step)
    assert slope.abs() > 1000 * step**2


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_law_7_gradients_along_the_gates_sum_to_the_change_of_the_metric(case):
    points, weights = numpy.polynomial.legendre.leggauss(48)
    ones = torch.ones(case.graph.n_edges).double()
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        gates = ones * (point + 1) / 2
        total += weight / 2 * case.engine_gradient(gates).sum()
    change = case.engine_score(ones) - case.engine_score(0 * ones)
    assert_close(total, change, rtol=1e-3, atol=0)
    assert change.abs() > 0.02


# ------------------------------------------------------------------ law 8: the batch


@every_graph
@both_batches
def test_law_8_each_row_alone_gives_the_same(case):
    """Its own length, so without padding; and `record` of the row alone likewise."""
    batch, gates = case.batch, case.random_gates(seed=5)
    together = case.gated(gates, batch.clean, batch.mask, case.ablated)
    for row, end in enumerate(batch.last + 1):
        clean, corrupt, mask = (part[row : row + 1, :end] for part in batch[:3])
        ablated = case.gated.record(corrupt, mask)
        assert_close(ablated[:, 0], case.ablated[:, row, :end], **case.tolerance)
        alone = case.gated(gates, clean, mask, ablated)
        assert_close(alone[0], together[row, :end], **case.tolerance)


@every_graph
@both_batches
def test_law_8_order_of_the_batch(case):
    batch, gates, order = case.batch, case.random_gates(seed=5), torch.tensor([2, 0, 3, 1])
    logits = case.gated(gates, batch.clean, batch.mask, case.ablated)
    moved = case.gated(gates, batch.clean[order], batch.mask[order], case.ablated[:, order])
    assert_close(moved, logits[order], **case.tolerance)


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded"), ("random", "padded")])
def test_law_8_what_stands_in_the_padding(case):
    batch, gates = case.batch, case.random_gates(seed=5)
    clean, ablated, padding = batch.clean.clone(), case.ablated.clone(), ~batch.mask
    clean[padding] = 17
    ablated[:, padding] = 50.0
    logits = case.gated(gates, clean, batch.mask, ablated)
    assert_close(batch.real(logits), case.engine(gates), **case.tolerance)


@every_graph
@both_batches
def test_law_8_gradient_of_a_batch_is_the_sum_over_its_rows(case):
    batch, gates = case.batch, case.random_gates(seed=6)

    def score(gates, rows):
        logits = case.gated(
            gates, batch.clean[rows], batch.mask[rows], case.ablated[:, rows], batch.last[rows]
        )
        return logits[:, :7].sum()

    whole = gradient(lambda g: score(g, slice(None)), gates)
    rows = [gradient(lambda g, i=i: score(g, slice(i, i + 1)), gates) for i in range(4)]
    assert_close(whole, sum(rows), **case.tolerance)


@every_graph
@both_batches
def test_answer_positions_alone_give_the_same_logits_and_gradient(case):
    batch, gates = case.batch, case.random_gates(seed=7)

    def at_last(gates):
        return case.gated(gates, batch.clean, batch.mask, case.ablated, batch.last)

    def sliced(gates):
        logits = case.gated(gates, batch.clean, batch.mask, case.ablated)
        return reference.at_last(logits, batch.last)

    assert_close(at_last(gates), sliced(gates), **case.tolerance)
    weight = torch.linspace(-1, 1, at_last(gates).numel()).double()
    narrow = gradient(lambda g: at_last(g).flatten() @ weight, gates)
    wide = gradient(lambda g: sliced(g).flatten() @ weight, gates)
    assert_close(narrow, wide, **case.tolerance)
    earlier = case.gated(gates, batch.clean, batch.mask, case.ablated, batch.last - 1)
    assert_visible(earlier, at_last(gates))


# ------------------------------------------------------------------ law 9: nothing is left behind


class Boom(RuntimeError):
    """Raised inside a run on purpose."""


@contextmanager
def raising(module: torch.nn.Module):
    """Inside, a call of `module` raises."""

    def boom(*_):
        raise Boom

    handle = module.register_forward_pre_hook(boom)
    try:
        yield
    finally:
        handle.remove()


def raising_module(model, family: str, where: str) -> torch.nn.Module:
    """A module that Hugging Face's own code calls in the middle of a run."""
    layer = reference.layers(model, family)[1]
    return {
        "embedding": model.get_input_embeddings(),
        "mlp": [m for m in layer.mlp.modules() if hasattr(m, "weight")][-1],
        "attention": layer.attention,
        "unembedding": model.lm_head,
    }[where]


def state_of(model) -> list:
    """Every instance attribute and hook of every module, by identity, and the config."""
    states = [model.config.to_dict(), model.training]
    for module in model.modules():
        attributes = vars(module)
        hooks = {k: list(v) for k, v in attributes.items() if "hooks" in k and v is not None}
        states.append(({k: id(v) for k, v in attributes.items()}, hooks))
    return states


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
@pytest.mark.parametrize("where", ["embedding", "mlp", "attention", "unembedding"])
def test_law_9_an_exception_leaves_the_model_as_it_was(case, where):
    batch, gates = case.batch, case.random_gates(seed=8).requires_grad_()
    before, plain, gated = state_of(case.model), case.plain(), case.engine(gates)

    with raising(raising_module(case.model, case.family, where)):
        for run in (
            lambda: case.gated(gates, batch.clean, batch.mask, case.ablated),
            lambda: case.gated(gates, batch.clean, batch.mask, case.ablated, batch.last),
            lambda: case.gated.record(batch.clean, batch.mask),
        ):
            with pytest.raises(Boom):
                run()
    assert state_of(case.model) == before
    assert_close(case.plain(), plain, rtol=0, atol=0)
    assert_close(case.engine(gates), gated, rtol=0, atol=0)


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_law_9_a_run_leaves_the_model_and_its_arguments_as_they_were(case):
    before, plain = state_of(case.model), case.plain()
    gates, kept = case.random_gates(seed=9), case.ablated.clone()
    given = gates.clone()
    case.engine_gradient(gates)
    case.gated.record(case.batch.clean, case.batch.mask)
    assert state_of(case.model) == before
    assert_close(case.plain(), plain, rtol=0, atol=0)
    assert_close(case.ablated, kept, rtol=0, atol=0)
    assert_close(gates, given, rtol=0, atol=0)


# ------------------------------------------------------------------ runs do not disturb each other


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_two_runs_before_their_backward_passes(case):
    first = case.random_gates(seed=10).requires_grad_()
    second = case.random_gates(seed=11).requires_grad_()
    scores = case.engine_score(first), case.engine_score(second)
    (slope_second,) = torch.autograd.grad(scores[1], second)
    (slope_first,) = torch.autograd.grad(scores[0], first)
    assert_close(slope_first, case.engine_gradient(first.detach()), **case.tolerance)
    assert_close(slope_second, case.engine_gradient(second.detach()), **case.tolerance)


@every_graph
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
def test_two_backward_passes_of_one_run(case):
    """As per-example gradients need: each gives its own gradient, or an error, never a sum."""
    gates = case.random_gates(seed=12).requires_grad_()
    score = case.engine_score(gates)
    (first,) = torch.autograd.grad(score, gates, retain_graph=True)
    try:
        (second,) = torch.autograd.grad(score, gates)
    except RuntimeError:
        return
    assert_close(second, first, **case.tolerance)


@pytest.mark.parametrize("family", reference.GROUPED)
@pytest.mark.parametrize(("ablation", "batch_kind"), [("patch", "padded")])
@pytest.mark.parametrize("kv_readers", ["kv_head"])
def test_both_conventions_of_key_and_value_readers_agree(case):
    """Gates by KV head, repeated for its query heads, give the same logits by query head."""
    gates, batch = case.random_gates(seed=13), case.batch
    ungrouped = GatedModel(case.model, kv_readers="query_head")
    assert ungrouped.graph == case.graph.ungrouped()
    repeated = case.graph.ungroup(gates)
    logits = ungrouped(repeated, batch.clean, batch.mask, case.ablated)
    assert_close(batch.real(logits), case.engine(gates), **case.tolerance)
    repeated[ungrouped.graph.edge_index("input->a1.h1<k>")] = 0  # h0 keeps the shared key
    logits = ungrouped(repeated, batch.clean, batch.mask, case.ablated)
    assert_visible(batch.real(logits), case.engine(gates))


# ------------------------------------------------------------------ numbers of another program


def test_all_scores_equal_those_of_eap_ig():
    """The gradient of all 479 edges and the exact score of every 19th, to 1e-9."""
    gated, (batch,) = GatedModel(golden_model()), golden_batches()
    ablated = gated.record(batch.corrupt, batch.mask)
    answers, wrong = batch.answers.tolist(), batch.wrong.tolist()
    eap, exact = golden_scores("EAP"), golden_scores("exact")

    def score(gates):
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        return reference.logit_diff(logits, answers, wrong).mean()

    ones, edges = torch.ones(gated.graph.n_edges).double(), gated.graph.edges
    assert set(edges) == set(eap)
    expected = torch.tensor([eap[edge] for edge in edges], dtype=torch.float64)
    assert_close(-gradient(score, ones), expected, rtol=1e-9, atol=1e-9)
    for index in range(3, len(edges), 19):
        gates = ones.clone()
        gates[index] = 0
        found = score(gates) - score(ones)
        expected = torch.tensor(exact[edges[index]], dtype=torch.float64)
        assert_close(found, expected, rtol=1e-9, atol=1e-9)
