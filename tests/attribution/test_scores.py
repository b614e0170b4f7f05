"""Scores to hold: what they say of themselves, and their strongest edges."""

import pytest
import torch

from circuitprune.attribution import Scores
from circuitprune.circuits.graph import Graph
from circuitprune.errors import GraphError

GRAPH = Graph(1, 1, 1)


def scores(*values: float, **about) -> Scores:
    return Scores(GRAPH, torch.tensor(values), "eap", about.get("metric", "kl"))


def test_the_top_is_by_magnitude_and_leaves_out_what_was_not_scored():
    given = scores(0.5, -2.0, torch.nan, 1.0, 0.0, -1.0, torch.nan, 0.1)
    edges = GRAPH.edges
    strongest = [(edges[1], -2.0), (edges[3], 1.0), (edges[5], -1.0)]
    assert list(given.top(3).rows) == strongest
    assert len(given.top(100)) == 6
    assert repr(given) == "Scores(6 edges by eap of kl, signed)"


def test_the_top_is_a_table():
    top = scores(0, -2.5, 0, 0, 0, 0, 0, 1).top(2)
    assert repr(top).splitlines() == [
        f"{GRAPH.edges[1]}  -2.5",
        f"{GRAPH.edges[7]:{len(GRAPH.edges[1])}}  +1",
    ]
    assert top._repr_html_().count("<tr>") == 3
    assert "input-&gt;" in top._repr_html_()


def test_magnitudes_and_methods_without_a_metric_say_so():
    given = Scores(GRAPH, torch.ones(8), "ifr", "none", signed=False)
    assert repr(given) == "Scores(8 edges by ifr, magnitudes)"


def test_scores_fit_their_graph():
    with pytest.raises(GraphError, match="expected \\(8,\\)"):
        Scores(GRAPH, torch.ones(7), "eap", "kl")
