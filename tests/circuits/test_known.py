"""Published circuits: the members and the arrows, worked out by hand, and names that exist."""

from dataclasses import replace

import pytest
import torch

from circuitprune.circuits.known.greater_than_gpt2 import GREATER_THAN_GPT2
from circuitprune.circuits.known.ioi_gpt2 import IOI_GPT2
from circuitprune.circuits.known.published import GPT2_SMALL, Link, Published
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
