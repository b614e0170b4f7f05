"""Every declared family against its own untouched model, which no declaration can talk round.

All that is expected comes from `reference_families`: hooks on Hugging Face's modules. Each law is
one test of a family, over a few edges of each kind, on a padded batch of four pairs (as many as the
models have heads, so that nothing can tell the two axes apart by their length).
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cache, cached_property
from itertools import product
from typing import TypeVar

import pytest
import reference
import torch
from attribution.test_attribution import by_logit_diff, pairs, patched
from family_configs import CONFIGS, REFUSED, TOLERANCE, build, randomise
from reference_families import Place, Untouched, some_readers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from circuitprune.attribution.eap_ig_activations import eap_ig_activations
from circuitprune.attribution.ifr import ifr
from circuitprune.attribution.relp import relp_ah
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.engine.tapped import edge_scores
from circuitprune.errors import ModelError
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, residual_streams
from circuitprune.models.families import FAMILIES
from circuitprune.models.ports import Ports
from circuitprune.patching.candidates import CandidateRuns
from circuitprune.patching.effects import edge_effects, node_effects

VISIBLE = 1e-3
"""Of the logits' spread: what every change that is tested must be worth."""
COUPLED = ("olmo2", "olmo3", "olmoe", "flex_olmo", "minimax_m2")
Result = TypeVar("Result")
every_family = pytest.mark.parametrize("name", CONFIGS)


class Case:
    """A family's model, seen by the package and by hooks, and what both need."""

    def __init__(
        self, model: PreTrainedModel, tolerance: float, kv_readers: str = "kv_head"
    ) -> None:
        self.model, self.tolerance = model, tolerance
        self.references = patched(model, kv_readers)
        self.gated = self.references.gated
        self.graph, self.untouched = self.gated.graph, Untouched(self.gated)
        self.batch = pairs()
        self.ones = torch.ones(self.graph.n_edges, dtype=self.gated.dtype)

    @cached_property
    @torch.no_grad()
    def ablated(self) -> Tensor:
        return self.gated.record(self.batch.corrupt, self.batch.mask)

    @cached_property
    @torch.no_grad()
    def clean(self):
        return self.untouched.record(self.batch.clean, self.batch.mask)

    @cached_property
    @torch.no_grad()
    def corrupt(self):
        return self.untouched.record(self.batch.corrupt, self.batch.mask)

    @torch.no_grad()
    def engine(self, gates: Tensor) -> Tensor:
        return self.gated(gates, self.batch.clean, self.batch.mask, self.ablated)

    @torch.no_grad()
    def plain(self, tokens: Tensor, changes=()) -> Tensor:
        return self.untouched.logits(tokens, self.batch.mask, list(changes))

    @cached_property
    def full(self) -> Tensor:
        return self.plain(self.batch.clean)

    def closed(self, which: Tensor) -> Tensor:
        return torch.where(which, 0.0, self.ones)

    def random_gates(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        gates = torch.rand(self.graph.n_edges, generator=generator, dtype=torch.float64)
        return gates.to(self.gated.dtype)

    def error(self, got: Tensor, expected: Tensor) -> float:
        """The largest difference, in units of the spread of what is expected."""
        return ((got - expected).abs().max() / expected.std()).item()

    def hold(self, what: str, got: Tensor, expected: Tensor) -> None:
        mask = self.batch.mask
        if got.ndim == 3 and got.shape[:2] == mask.shape:
            got, expected = got[mask], expected[mask]
        error = self.error(got, expected)
        assert error <= self.tolerance, f"{what} is off by {error:.2g}"

    def see(self, what: str, got: Tensor, visible: float = VISIBLE) -> None:
        mask = self.batch.mask
        moved = self.error(got[mask], self.full[mask])
        assert moved > visible, f"{what} moves logits by {moved:.2g} only"


@cache
def case_of(name: str, kv_readers: str = "kv_head") -> Case:
    return Case(build(name), TOLERANCE[name], kv_readers)


often = pytest.mark.usefixtures("untyped")


@pytest.fixture
def case(name: str) -> Case:
    return case_of(name)


def test_every_declared_family_is_tried():
    assert {config().get_text_config().model_type for config in CONFIGS.values()} == set(FAMILIES)


# ------------------------------------------------------------------ who reads where


@every_family
def test_the_declared_layout_is_what_attention_does_with_it(case):
    """Each output of each projection, by the heads and positions that it moves."""
    ports, n_heads = case.gated.ports, case.graph.n_heads
    group = n_heads // ports.n_kv_heads
    for module, columns in enumerate(case.untouched.columns):
        numbers = torch.arange(len(columns)).view(1, 1, -1).double()
        declared = [None] * len(columns)
        for part in ports.split(module, numbers):
            for index, own in enumerate(part.values):
                first, size = (index, 1) if part.port == 0 else (index * group, group)
                for column in own.flatten().long().tolist():
                    declared[column] = ("qkv"[part.port], tuple(range(first, first + size)))
        assert declared == [tuple(column) for column in columns]


@every_family
def test_a_reader_moves_the_heads_that_the_graph_says(case):
    """All heads of a layer, where one norm spans the queries, or the keys, of all of them."""
    batch, layer = case.batch, 1
    block, output = case.graph.attention_block(layer), case.untouched.outputs[layer]
    value = case.untouched.seen(batch.corrupt, batch.mask, case.untouched.projections[layer])
    for reader in range(block.first_reader, block.first_reader + block.n_readers):
        changes = case.untouched.patches(reader, value)
        (z,) = case.untouched.seen(batch.clean, batch.mask, [output], changes)
        moved = (case.untouched.by_head(z) - case.clean.heads[layer])[batch.mask].abs()
        moved = (moved.amax((0, 2)) > 1e-5).nonzero().flatten().tolist()
        first = case.graph.head_writer(layer, 0)
        assert moved == [w - first for w in case.graph.heads_of_reader(reader)], reader


@every_family
@often
def test_the_check_at_load_time_accepts_it(case):
    self_check(case.gated)


# ------------------------------------------------------------------ the engine


@every_family
def test_open_gates_are_the_clean_model_and_closed_gates_the_corrupt_one(case):
    corrupt = case.plain(case.batch.corrupt)
    case.hold("open", case.engine(case.ones), case.full)
    case.hold("closed", case.engine(0 * case.ones), corrupt)
    case.see("closed", corrupt)


@every_family
@often
def test_a_closed_writer_is_a_patched_node(case):
    """A head at its output projection, an MLP where it joins the stream, and the embeddings."""
    graph, places, head, layer = case.graph, case.untouched, 3, 1
    values = case.clean.heads[layer].clone()
    values[..., head, :] = case.corrupt.heads[layer][..., head, :]
    change = [(places.outputs[layer], lambda _: values.flatten(2))]
    check_writer(case, graph.head_writer(layer, head), change)
    change = [(places.mlp_ends[0], lambda _: case.corrupt.mlps[0])]
    check_writer(case, graph.mlp_writer(0), change)
    check_writer(case, 0, [(places.entering, lambda _: case.corrupt.entering)])


def check_writer(case: Case, writer: int, changes) -> None:
    expected, name = case.plain(case.batch.clean, changes), case.graph.writers[writer]
    case.see(name, expected)
    case.hold(name, case.engine(case.closed(case.graph.edge_writer == writer)), expected)


@every_family
@often
def test_a_closed_reader_is_a_patched_input(case):
    for reader in some_readers(case.graph, 1)[::2]:  # a query, a value and the logits
        places = case.untouched.places_of(reader)
        with torch.no_grad():
            value = case.untouched.seen(case.batch.corrupt, case.batch.mask, places)
        expected = case.plain(case.batch.clean, case.untouched.patches(reader, value))
        name = case.graph.readers[reader]
        case.see(name, expected)
        case.hold(name, case.engine(case.closed(case.graph.edge_reader == reader)), expected)


def some_edges(case: Case) -> list[int]:
    """Into one reader of each kind, from the input, a head or an MLP."""
    graph = case.graph
    writers = [0, graph.head_writer(0, 1), graph.mlp_writer(0)]
    readers = some_readers(graph, graph.n_layers - 1)
    return [graph.edge_at(writers[i % 3], reader) for i, reader in enumerate(readers)]


@every_family
@often
def test_a_closed_edge_is_a_patched_path_and_its_exact_effect(case):
    """Every other writer is held at what it wrote, and what arrives goes on from one reader."""
    check_edges(case)


def check_edges(case: Case) -> None:
    graph, batch, effects = case.graph, case.batch, []
    full = by_logit_diff(reference.at_last(case.full, batch.last), batch)
    for edge in some_edges(case):
        reader, writer = int(graph.edge_reader[edge]), int(graph.edge_writer[edge])
        expected, name = path_patched(case, writer, reader), graph.edge_name(edge)
        case.see(name, expected)
        case.hold(name, case.engine(case.closed(torch.arange(graph.n_edges) == edge)), expected)
        effects.append(by_logit_diff(reference.at_last(expected, batch.last), batch) - full)
    edges = torch.tensor(some_edges(case))
    found = edge_effects(case.references, [batch], by_logit_diff, edges, per_example=True)
    case.hold("exact effects", found, torch.stack(effects).double())


@every_family
def test_exact_effects_of_nodes_are_those_of_hooks(case):
    graph, batch, places, effects = case.graph, case.batch, case.untouched, []
    full = by_logit_diff(reference.at_last(case.full, batch.last), batch)
    values = case.clean.heads[1].clone()
    values[..., 2, :] = case.corrupt.heads[1][..., 2, :]
    for place, value in (
        (places.entering, case.corrupt.entering),
        (places.outputs[1], values.flatten(2)),
        (places.mlp_ends[0], case.corrupt.mlps[0]),
    ):
        logits = case.plain(batch.clean, [(place, lambda _, v=value: v)])
        effects.append(by_logit_diff(reference.at_last(logits, batch.last), batch) - full)
    writers = torch.tensor([0, graph.head_writer(1, 2), graph.mlp_writer(0)])
    found = node_effects(case.references, [batch], by_logit_diff, writers, per_example=True)
    case.hold("exact effects of nodes", found, torch.stack(effects).double())


@torch.no_grad()
def path_patched(case: Case, writer: int, reader: int) -> Tensor:
    graph, batch = case.graph, case.batch
    gates = torch.ones(1, graph.block_of_reader(reader).n_writers, dtype=case.ones.dtype)
    gates[0, writer] = 0
    changes = case.untouched.mixing(gates, case.clean, case.corrupt)
    if graph.reader_kind[reader] == "logits":
        return case.plain(batch.clean, changes)
    value = case.untouched.seen(batch.clean, batch.mask, case.untouched.places_of(reader), changes)
    return case.plain(batch.clean, case.untouched.patches(reader, value))


def answer_score(logits: Tensor, batch) -> Tensor:
    return by_logit_diff(reference.at_last(logits, batch.last), batch).sum()


@every_family
def test_random_gates_and_their_gradient_are_those_of_hooks(case):
    """Autograd's, through Hugging Face's own modules, for every edge."""
    check_random_gates(case)


def check_random_gates(case: Case) -> None:
    batch = case.batch
    gates = case.random_gates(seed=3).requires_grad_()
    expected = case.untouched.gated_logits(gates, batch.clean, case.corrupt, batch.mask)
    (slope,) = torch.autograd.grad(answer_score(expected, batch), gates)
    logits = case.gated(gates, batch.clean, batch.mask, case.ablated)
    (found,) = torch.autograd.grad(answer_score(logits, batch), gates)
    case.see("random gates", expected.detach())
    case.hold("random gates", logits.detach(), expected.detach())
    case.hold("the gradient at random gates", found, slope)


# ------------------------------------------------------------------ what else runs the model


@every_family
def test_eap_is_minus_the_gradient_at_open_gates(case):
    check_eap(case)


def check_eap(case: Case) -> None:
    gates = case.ones.clone().requires_grad_()
    logits = case.gated(gates, case.batch.clean, case.batch.mask, case.ablated)
    (slope,) = torch.autograd.grad(answer_score(logits, case.batch), gates)
    scores = edge_scores(case.gated, case.batch, by_logit_diff, case.ablated.clone())
    case.hold("eap", scores, -slope)


@every_family
@often
def test_candidates_of_acdc_are_whole_gated_runs(case):
    check_candidates(case)


def check_candidates(case: Case) -> None:
    batch, graph = case.batch, case.graph
    gates = (case.random_gates(seed=4) < 0.7).to(case.ones)
    gates[graph.logits_block.edges] = 1
    for reader in some_readers(graph, 1)[1::2]:  # a key and an MLP
        block = graph.block_of_reader(reader)
        whole = gates.clone()
        first = graph.edge_at(0, reader)
        whole[first : first + block.n_writers] = torch.linspace(0, 1, block.n_writers).to(gates)
        rows = whole[first : first + block.n_writers]
        runs = CandidateRuns(case.gated, batch, case.ablated, gates, reader)
        expected = reference.at_last(case.engine(whole), batch.last)
        name = f"a candidate at {graph.readers[reader]}"
        case.hold(name, runs(rows[None])[0], expected)


def unless_refused(make: Callable[[], Result], names: tuple[str, ...]) -> Result | None:
    """What is made, or None for a refusal that names its reason."""
    try:
        return make()
    except ModelError as error:
        if not any(name in str(error) for name in names):
            raise
        return None


@every_family
def test_information_flow_adds_up_to_one_or_nothing(case):
    """Nothing at a position of a reader where no writer comes near its input."""
    shares = ifr(case.references, [case.batch], by_logit_diff)
    total = torch.zeros(case.graph.n_readers).to(shares)
    total.index_add_(0, case.graph.edge_reader, shares)
    assert bool((total < 1 + 1e-6).all()) and total.median() > 1 - 1e-6


@every_family
def test_streams_are_what_enters_layers_and_the_lens_at_the_end_is_the_model(case):
    batch, streams = case.batch, residual_streams(case.gated, case.batch)
    blocks = [Place(block, "in") for block in case.gated.ports.blocks]
    with torch.no_grad():
        entering = case.untouched.seen(batch.clean, batch.mask, blocks)
    for layer, stream in enumerate(entering):
        case.hold("a stream", streams[f"a{layer}"], reference.at_last(stream, batch.last))
    found = unless_refused(
        lambda: logit_lens(case.gated, streams["logits"]), ("logit lens is not defined",)
    )
    if found is None:
        return
    expected = reference.at_last(case.full, case.batch.last)
    case.hold("the lens", found, expected)


@every_family
def test_direct_attributions_sum_to_the_logit_difference(case):
    """Behind its logit scale and its soft cap."""
    found = unless_refused(
        lambda: direct_logit_attribution(case.gated, case.batch), ("logit lens is not defined",)
    )
    if found is None:
        return
    shares, rest = found
    expected = by_logit_diff(reference.at_last(case.full, case.batch.last), case.batch)
    case.hold("the sum of shares", shares.sum(0) + rest, expected)


# ------------------------------------------------------------------ readers by query head


UNGROUPED = ("phi3", "falcon_40b", "stablelm", "gemma3_text", "gpt_oss")
"""One of each way to split the KV heads, for the slower laws."""


@every_family
@often
def test_readers_by_query_head_hold_too_or_are_refused_by_name(name, case):
    graph = case.graph
    if graph.n_kv_readers == graph.n_heads:
        return
    by_query = unless_refused(lambda: case_of(name, "query_head"), ("model.kv_readers",))
    if by_query is None:
        return
    assert by_query.graph == graph.ungrouped()
    check_random_gates(by_query)
    check_eap(by_query)
    if name in UNGROUPED:
        check_candidates(by_query)
        gates = case.random_gates(seed=5)
        by_query.hold("a repeated mask", by_query.engine(graph.ungroup(gates)), case.engine(gates))


# ------------------------------------------------------------------ single traps


@pytest.mark.parametrize("name", ["bloom", "mpt", "falcon_rw"])
def test_exact_effects_whatever_the_number_of_pairs(name):
    """Position biases and masks have a row for each head, each example, or each of both."""
    case = Case(build(name), TOLERANCE[name])
    case.batch = pairs((0, 3, 2))
    check_edges(case)


@pytest.mark.parametrize("name", COUPLED)
def test_a_norm_over_all_heads_couples_them(case):
    """By the norm itself: a query reader feeds every head of its layer."""
    graph = case.graph
    for kind in "qk":
        reader = graph.reader_kind.index(kind)
        assert len(graph.heads_of_reader(reader)) == graph.n_heads
    assert len(graph.heads_of_reader(graph.reader_kind.index("v"))) < graph.n_heads
    with pytest.raises(ModelError, match=r"model\.kv_readers"):
        GatedModel(case.model, "query_head")


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_experts_as_hugging_face_runs_them_by_itself(name):
    """In float32, where it takes one grouped product for all experts."""
    config = CONFIGS[name]()
    config._experts_implementation = None
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed=1)
    case = Case(model.eval(), tolerance=1e-4)
    assert model.config._experts_implementation == "grouped_mm"
    case.hold("open", case.engine(case.ones), case.full)
    check_eap(case)
    check_edges(case)


def test_a_layer_that_multiplies_the_stream_is_refused():
    """Gemma 4's `layer_scalar` is a buffer, so nothing but its value tells."""
    model = deepcopy(build("gemma4_text"))
    model.model.layers[1].layer_scalar.fill_(0.5)
    with pytest.raises(ModelError, match=r"layer_scalar.* 0\.5"):
        GatedModel(model)


@pytest.mark.parametrize("name", ["bloom", "gpt_neo", "gpt_oss", "granite", "olmo2", "falcon_7b"])
def test_gradients_along_activations_are_those_of_hooks(case):
    """Of runs in which one group of writers is held between two values; one of each mechanism."""
    steps, graph, batch = 2, case.graph, case.batch
    groups = [("input", 0)]
    groups += [(kind, layer) for layer in range(graph.n_layers) for kind in ("heads", "mlp")]
    apart, total = case.clean.minus(case.corrupt), torch.zeros_like(case.ones)
    for step, group in product(range(1, steps + 1), groups):
        share, gates = step / steps, case.ones.clone().requires_grad_()
        value = share * case.clean.of(*group) + (1 - share) * case.corrupt.of(*group)
        logits = case.untouched.gated_logits(
            gates, batch.clean, apart, batch.mask, {group: value}, apart=True
        )
        total -= torch.autograd.grad(answer_score(logits, batch), gates)[0]
    expected = total / (steps * len(groups) * len(batch))
    found = eap_ig_activations(case.references, [batch], by_logit_diff, steps)
    case.hold("eap_ig_activations", found, expected)


NOT_LINEAR = {
    "olmo": "clips values",
    "olmoe": "clips values",
    "mpt_clipped": "clips values",
    "gemma4_text": "norms values",
}
"""Why relevance is not passed on to the last drop in some families."""


@every_family
@often
def test_relevance_is_conserved_without_biases(name, case):
    """As in attribution/test_relp.py: the rules with frozen patterns make the model linear."""
    model = without_constants(case.model)
    gated, graph, batch = GatedModel(model), case.graph, case.batch
    references = References(gated, make_ablation("zero", gated.ports, []))
    scores = unless_refused(
        lambda: -relp_ah(references, [batch], by_logit_diff), ("Norm", "no rule for")
    )
    if scores is None or name in NOT_LINEAR:
        return
    by_writer = torch.zeros(graph.n_writers).to(scores)
    by_writer.index_add_(0, graph.edge_writer, scores)
    metric = by_logit_diff(gated.plain(batch.clean, batch.mask, batch.last), batch).mean()
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[graph.logits_block.edges].sum(), metric, **close)
    for layer in range(graph.n_layers):
        mlp, heads = graph.mlp_block(layer).edges, graph.attention_block(layer).edges
        out = by_writer[graph.mlp_writer(layer)]
        torch.testing.assert_close(scores[mlp].sum(), out, **close)
        out = by_writer[graph.heads(layer)].sum()
        torch.testing.assert_close(scores[heads].sum(), out, **close)
        assert out.abs() > 1e-3


def without_constants(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without biases and without a soft cap."""
    model = deepcopy(model)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.zero_()
    model.config.get_text_config().final_logit_softcapping = None
    return model


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graph_cannot_say_is_refused_by_name(name):
    config = REFUSED[name]()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError) as error:
        Ports(model)
    kind = config.get_text_config().model_type
    message = str(error.value)
    assert repr(kind) in message
    assert "no module" not in message and "not declared" not in message
