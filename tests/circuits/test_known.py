"""Published circuits: the members and the arrows, worked out by hand, and names that exist."""

from dataclasses import replace

import pytest
import torch

from circuitprune.circuits.known.entity_tracking_llama import (
    ENTITY_TRACKING_FLOAT,
    ENTITY_TRACKING_GOAT,
    ENTITY_TRACKING_LLAMA,
)
from circuitprune.circuits.known.greater_than_gpt2 import GREATER_THAN_GPT2
from circuitprune.circuits.known.ioi_gpt2 import IOI_GPT2
from circuitprune.circuits.known.published import GPT2_SMALL, Link, Published
from circuitprune.circuits.known.sentiment_gpt2 import (
    MOOD_STORIES_PYTHIA_2B8,
    SENTIMENT_GPT2,
    SENTIMENT_PYTHIA_1B4,
)
from circuitprune.circuits.reachability import live_edges
from circuitprune.errors import GraphError

every_circuit = pytest.mark.parametrize(
    "known", [IOI_GPT2, GREATER_THAN_GPT2], ids=lambda k: k.name
)


def test_the_papers_count_of_heads():
    assert len(IOI_GPT2.nodes()) == 26
    sizes = {name: len(nodes) for name, nodes in IOI_GPT2.classes.items()}
    assert sizes == {
        "previous token": 2,
        "duplicate token": 3,
        "induction": 4,
        "s-inhibition": 4,
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
    }
    assert len(GREATER_THAN_GPT2.nodes()) == 3 + 4 + 6 + 4


@every_circuit
def test_no_node_has_two_classes_and_every_edge_leads_to_the_logits(known):
    members = [node for nodes in known.classes.values() for node in nodes]
    assert len(members) == len(set(members))
    circuit = known.circuit()
    assert torch.equal(live_edges(circuit.graph, circuit.mask), circuit.mask)
    assert set(circuit.nodes) == {*members, "input", "logits"}
    assert "arXiv" in circuit.provenance["source"]
    assert known.graph.n_edges == 32_491


def test_ioi_edges_counted_by_hand():
    # input: 2*3 + 3*3 + 4*2 + (3 + 8 + 2)*2; then by layers, only upstream writers
    from_input = 6 + 9 + 8 + 26
    previous_to_induction = 2 * 4
    to_s_inhibition = (3 + 4) * 4
    s_inhibition_to_movers = 4 * (3 + 8 + 2)
    to_logits = 3 + 8 + 2
    expected = from_input + previous_to_induction + to_s_inhibition + s_inhibition_to_movers
    assert IOI_GPT2.circuit().n_edges == expected + to_logits
    edges = set(IOI_GPT2.edges())
    assert {"a8.h6->a9.h9<q>", "a4.h11->a5.h5<k>", "a11.h10->logits"} <= edges
    assert not {"a8.h6->a9.h9<k>", "a2.h2->a7.h3<v>", "input->logits", "input->a7.h3<q>"} & edges


def test_greater_than_edges_counted_by_hand():
    # early heads are all in layer 0, upstream of m0; MLPs read those before them
    within_four = 3 + 2 + 1
    early_to_mid = (3 + 4) * 6 * 3
    mid_to_late = 4 + 4 + 4 + 4 + 4 + 3  # a9.h1 is not upstream of m8
    expected = 9 + 4 + 3 * 4 + within_four + early_to_mid + mid_to_late + 6 + within_four + 4
    assert GREATER_THAN_GPT2.circuit().n_edges == expected
    assert "a9.h1->m8" not in GREATER_THAN_GPT2.edges()


def test_nodes_and_classes():
    assert IOI_GPT2.nodes("name mover", "previous token") == (
        "a2.h2",
        "a4.h11",
        "a9.h6",
        "a9.h9",
        "a10.h0",
    )
    assert IOI_GPT2.class_of("a10.h7") == "negative name mover"
    assert IOI_GPT2.class_of("a1.h1") is None
    with pytest.raises(GraphError, match="no class 'mover'; there are previous token"):
        IOI_GPT2.nodes("mover")


def test_what_does_not_exist_is_refused():
    with pytest.raises(GraphError, match=r"no node 'a12\.h0'"):
        replace(IOI_GPT2, classes={"mover": ("a12.h0",)}, links=())
    with pytest.raises(GraphError, match="a link names 'movers'; classes: mover"):
        Published("x", "gpt2", "", GPT2_SMALL, {"mover": ("a9.h9",)}, (Link("movers", "logits"),))


# ------------------------------------------------------------------ entity tracking, sentiment


TUNED = {"goat": ENTITY_TRACKING_GOAT, "float": ENTITY_TRACKING_FLOAT}


def test_entity_tracking_has_the_papers_counts():
    sizes = {
        known.model.rpartition("/")[2]: [len(heads) for heads in known.classes.values()]
        for known in (ENTITY_TRACKING_LLAMA, *TUNED.values())
    }
    assert sizes == {
        "llama-7b": [5, 20, 7, 40],
        "goat-lora-7b": [39, 40, 28, 68],
        "float-7b": [38, 40, 29, 68],
    }
    heads = [len(known.nodes()) for known in (ENTITY_TRACKING_LLAMA, *TUNED.values())]
    assert heads == [67, 151, 154]  # of 72, 175 and 175 places
    for known in TUNED.values():
        assert all(len(set(heads)) == len(heads) for heads in known.classes.values())


@pytest.mark.parametrize(("name", "found"), [("goat", [5, 16, 6, 27]), ("float", [5, 15, 7, 27])])
def test_tuning_kept_most_of_the_base_models_heads(name, found):
    again = [
        len({*heads} & {*TUNED[name].classes[group]})
        for group, heads in ENTITY_TRACKING_LLAMA.classes.items()
    ]
    assert again == found


@pytest.mark.parametrize(
    ("known", "n_heads", "n_edges_of_model"),
    [
        (ENTITY_TRACKING_LLAMA, 67, 1_592_881),
        (SENTIMENT_GPT2, 10, 32_491),
        (SENTIMENT_PYTHIA_1B4, 5, 231_493),
        (MOOD_STORIES_PYTHIA_2B8, 12, 1_591_857),
    ],
    ids=lambda value: getattr(value, "model", None),
)
def test_published_circuits_lead_to_the_logits(known, n_heads, n_edges_of_model):
    assert known.graph.n_edges == n_edges_of_model and len(known.nodes()) == n_heads
    edges = set(known.edges())
    assert edges and all(edge.split("->")[0] in (*known.nodes(), "input") for edge in edges)
    assert "arXiv" in known.source and any(edge.endswith("->logits") for edge in edges)


def test_sentiment_reads_the_summary_that_is_written():
    edges = set(SENTIMENT_GPT2.edges())
    assert {"a0.h4->a7.h1<v>", "a6.h4->a9.h2<k>", "a7.h5->a8.h5<v>", "a9.h10->logits"} <= edges
    assert not {"a9.h2->a9.h10<v>", "a8.h5->a7.h5<v>", "a6.h4->logits"} & edges
