"""Path patching against hooks on the untouched model, and the spelling of paths."""

import pytest
import reference
import reference_patching
import torch
from attribution.test_attribution import by_logit_diff, pairs, patched
from engine.test_laws import state_of
from torch.testing import assert_close

from circuitprune.circuits.graph import Graph
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, GraphError, NonFiniteError
from circuitprune.patching.effects import edge_effects, node_effects
from circuitprune.patching.paths import parse_path, path_effect, path_effects, set_effect
from patching.test_effects import EXACT, by_gates, hooked_model, rounding

PATHS = [
    "input -> a0.h1<q> -> a1.h2<k> -> logits",
    "input -> a0.h3<v> -> m1 -> m2 -> logits",
    "a0.h2 -> a1.h0<q> -> a2.h3<v>",
    "a0.h1 -> a1.h3<v> -> a2.h1<k> -> logits",
    "m0 -> a1.h2<v> -> a2.h0<q> -> logits",
    "a0.h0 -> a2.h2<v> -> logits",
    "input -> m0 -> a1.h1<k>",
    "a0.h3 -> m1 -> a2.h2<k> -> logits",
]
every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)


def hops(graph: Graph, text: str) -> list[tuple[str, str]]:
    """(writer, reader) names of a path, the readers as the graph spells them."""
    names = text.split(" -> ")
    writers = [name.partition("<")[0] for name in names[:-1]]
    readers = [graph.readers[graph.reader_index(name)] for name in names[1:]]
    return list(zip(writers, readers, strict=True))


# ------------------------------------------------------------------ effects


@every_graph
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_paths_are_those_of_hooks(model, family, kv_readers, direction):
    references, batch = patched(model, kv_readers), pairs()
    tokens = (batch.clean, batch.corrupt)
    paths = PATHS if direction == "noising" else PATHS[:3]
    expected = [
        reference_patching.path_effect(
            hooked_model(model, family, kv_readers),
            family,
            *(tokens if direction == "noising" else tokens[::-1]),
            batch,
            lambda logits: by_logit_diff(logits, batch),
            hops(references.gated.graph, path),
        )
        for path in paths
    ]
    found = path_effects(references, [batch], by_logit_diff, paths, direction, per_example=True)
    assert_close(found, torch.stack(expected), **rounding(family))
    assert (found.abs().amax(1) > 1e-5).all()


@every_graph
def test_a_path_of_one_edge_is_that_edge(model, kv_readers):
    references = patched(model, kv_readers)
    graph = references.gated.graph
    edges = torch.arange(5, graph.n_edges, 29)
    paths = [graph.edges[edge].replace("->", " -> ") for edge in edges]
    found = path_effects(references, [pairs()], by_logit_diff, paths)
    assert_close(found, edge_effects(references, [pairs()], by_logit_diff, edges), **EXACT)


def test_paths_through_linear_readers_add_up_to_the_node(tiny_model):
    """Without the final norm, the last layer's paths from a head add up to the head's effect."""
    references = patched(tiny_model("gpt2"))
    graph = references.gated.graph
    model = references.gated.model
    norm = model.transformer.ln_f
    norm.forward = lambda hidden: hidden  # the logits are linear in the stream from here on
    try:
        references = patched(model)
        direct, through = path_effects(
            references, [pairs()], by_logit_diff, ["a2.h1 -> logits", "a2.h1 -> m2 -> logits"]
        )
        node = node_effects(
            references, [pairs()], by_logit_diff, torch.tensor([graph.writer_index("a2.h1")])
        )
    finally:
        del norm.forward
    assert_close(direct + through, node[0], **EXACT)
    assert direct.abs() > 1e-3 and through.abs() > 1e-3


def test_batches_and_one_path_alone(tiny_model):
    references = patched(tiny_model("llama"))
    whole = path_effects(references, [pairs()], by_logit_diff, PATHS)
    parts = path_effects(references, [pairs([2]), pairs([0, 1, 3])], by_logit_diff, PATHS)
    assert_close(parts, whole, **EXACT)
    alone = path_effect(references, [pairs()], by_logit_diff, PATHS[3])
    assert alone == pytest.approx(whole[3].item(), rel=1e-10)
    assert path_effects(references, [pairs()], by_logit_diff, []).shape == (0,)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_other_ablations_travel_too(model, family):
    batch, gated = pairs(), GatedModel(model)
    references = References(gated, make_ablation("zero", gated.ports, []))
    expected = reference_patching.path_effect(
        model,
        family,
        batch.clean,
        reference_patching.constant(model, family, 0.0, batch.clean),
        batch,
        lambda logits: by_logit_diff(logits, batch),
        hops(gated.graph, PATHS[2]),
    )
    found = path_effects(references, [batch], by_logit_diff, PATHS[2:3], per_example=True)
    assert_close(found[0], expected, **rounding(family))
    with pytest.raises(ConfigError, match="denoising"):
        path_effects(references, [batch], by_logit_diff, PATHS[2:3], "denoising")


def test_a_set_of_edges_is_ablated_together(model):
    references, batch = patched(model), pairs()
    graph = references.gated.graph
    names = ["input->a1.h0<q>", "m0->m2", graph.edges[-1]]
    closed = graph.mask_of(names)
    found = set_effect(references, [batch], by_logit_diff, names, per_example=True)
    assert_close(found, by_gates(references, batch, closed), rtol=1e-6, atol=1e-6)
    parts = [pairs([0, 1, 2]), pairs([3])]
    found = set_effect(references, parts, by_logit_diff, closed.nonzero().flatten())
    assert torch.equal(found, set_effect(references, parts, by_logit_diff, closed))
    with pytest.raises(GraphError, match=r"a mask of 3 for .* it needs"):
        set_effect(references, parts, by_logit_diff, closed[:3])
    expected = by_gates(references, batch, closed).mean()
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    one = set_effect(references, [batch], by_logit_diff, names[1:2])
    edge = torch.tensor([graph.edge_index(names[1])])
    expected = edge_effects(references, [batch], by_logit_diff, edge)[0]
    assert_close(one, expected, rtol=1e-6, atol=1e-6)
    assert set_effect(references, [batch], by_logit_diff, []).abs() < 1e-6
    with pytest.raises(GraphError, match="no edge -1"):
        set_effect(references, [batch], by_logit_diff, torch.tensor([-1]))


def test_the_model_is_left_as_it_was(model):
    before, references = state_of(model), patched(model)
    path_effects(references, [pairs()], by_logit_diff, PATHS[:2])
    with pytest.raises(DataError, match="given no batches"):
        path_effects(references, [], by_logit_diff, PATHS)
    with pytest.raises(NonFiniteError, match=r"on examples \[20, 21, 22, 23\]"):
        path_effects(references, [pairs()], lambda x, b: by_logit_diff(x, b) * torch.nan, PATHS)
    assert state_of(model) == before


# ------------------------------------------------------------------ spelling


GRAPH = Graph(3, 4, 2)


@pytest.mark.parametrize("text", PATHS)
def test_a_path_is_its_hops(text):
    path = parse_path(GRAPH, text.replace(" ", ""))
    assert path.name == text
    names = [(GRAPH.writers[w], GRAPH.readers[r]) for w, r in path.hops]
    assert names == hops(GRAPH, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input", "a path is 'writer -> reader"),
        ("", "a path is 'writer -> reader"),
        ("input -> -> logits", "a path is 'writer -> reader"),
        ("a0.h9 -> logits", "no writer 'a0.h9'"),
        ("logits -> m1", "no writer 'logits'"),
        ("a0.h1<q> -> logits", "no writer 'a0.h1<q>'"),
        ("input -> x -> logits", "no reader 'x'"),
        ("input -> input -> logits", "no reader 'input'"),
        ("input -> a1.h0 -> logits", "a1.h0 in .* write a1.h0<q>, a1.h0<k> or a1.h0<v>"),
        ("input -> a1.h0", "a1.h0 in .* write a1.h0<q>"),
        ("input -> logits -> m2", "logits write nothing"),
        ("input -> a1.kv1<k> -> logits", "a1.kv1<k> feeds 2 heads; .* such as a1.h2<k>"),
        ("a1.h0 -> a1.h2<q> -> logits", "a1.h0 is not upstream of a1.h2<q>"),
        ("m1 -> a2.h0<q> -> m0 -> logits", "a2.h0<q> is not upstream of m0"),
        ("m1 -> m1", "m1 is not upstream of m1"),
    ],
)
def test_what_is_no_path_is_refused(text, message):
    with pytest.raises(GraphError, match=message):
        parse_path(GRAPH, text)


def test_a_shared_key_may_end_a_path():
    path = parse_path(GRAPH, "input -> a1.kv1<k>")
    assert path.hops == parse_path(GRAPH, "input -> a1.h3<k>").hops
