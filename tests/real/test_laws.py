"""The laws on real weights and real prompts, in float32, against hooks on the untouched model."""

import pytest
import torch
from attribution.test_attribution import by_logit_diff
from models.test_families import Case, answer_score, path_patched
from reference_families import Column, Untouched, some_readers
from torch import Tensor

from circuitprune.attribution import eap
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import TASKS
from circuitprune.models import load_model

pytestmark = pytest.mark.real
TOLERANCE = 5e-5
"""Largest error in units of the spread of what is expected; most are 6e-6, the largest 2e-5."""


@pytest.fixture(scope="module")
def case(folder):
    """Three IOI pairs of different lengths, so that two are padded."""
    model, tokenizer = load_model(folder)
    data = prepare(TASKS["ioi"], tokenizer, n_train=3, n_val=0, n_test=0, seed=0)
    case = Case(model, TOLERANCE)
    (case.batch,) = data.batches("train", 3)
    assert len(case.batch.last.unique()) > 1
    case.untouched.columns = columns_of(case.untouched)
    return case


def columns_of(untouched: Untouched) -> list[list[Column]]:
    """Whose the outputs of q_proj, k_proj and v_proj are: one head after the other.

    What `Untouched.columns` finds by turning every output takes minutes here.
    """
    config = untouched.model.config
    n_heads, n_kv = config.num_attention_heads, config.num_key_value_heads
    group = n_heads // n_kv
    served = {"q": [(head,) for head in range(n_heads)]}
    served["k"] = served["v"] = [tuple(range(n * group, (n + 1) * group)) for n in range(n_kv)]
    return [
        [Column(port, heads) for heads in served[port] for _ in range(config.head_dim)]
        for port in "qkv"
    ]


def late_readers(case: Case) -> list[int]:
    """A query, a key, a value and an MLP of a late layer, and the logits."""
    return some_readers(case.graph, case.graph.n_layers - 3)


def test_open_gates_are_the_model_and_closed_gates_the_corrupt_run(case):
    case.hold("open", case.engine(case.ones), case.full)
    corrupt = case.plain(case.batch.corrupt)
    case.see("closed", corrupt)
    case.hold("closed", case.engine(0 * case.ones), corrupt)


@pytest.fixture(scope="module")
def scores(case) -> Tensor:
    return eap(case.references, [case.batch], by_logit_diff)


def test_a_closed_edge_is_a_patched_path(case, scores):
    """Of the strongest edge into each of a few readers."""
    graph = case.graph
    for reader in late_readers(case)[::2]:  # a query, a value and the logits
        edges = edges_into(case, reader)
        edge = int(edges[scores[edges].abs().argmax()])
        expected = path_patched(case, int(graph.edge_writer[edge]), reader)
        closed = case.closed(torch.arange(graph.n_edges) == edge)
        case.see(graph.edge_name(edge), expected)
        case.hold(graph.edge_name(edge), case.engine(closed), expected)


def test_eap_is_the_slope_along_each_edge_by_hooks(case, scores):
    """Of every edge into some readers, by autograd through the model's own modules."""
    for reader in late_readers(case)[1:4:2]:  # a key and an MLP
        edges, expected = edges_into(case, reader), slopes_into(case, reader)
        case.hold(f"EAP into {case.graph.readers[reader]}", scores[edges], expected)


def edges_into(case: Case, reader: int) -> Tensor:
    first = case.graph.edge_at(0, reader)
    return torch.arange(first, first + case.graph.block_of_reader(reader).n_writers)


def slopes_into(case: Case, reader: int) -> Tensor:
    """Minus the slope of the mean metric as one reader sees more of what each writer writes."""
    batch, untouched = case.batch, case.untouched
    gates = case.ones[edges_into(case, reader)][None]
    changes = untouched.mixing(gates.requires_grad_(), case.clean, case.corrupt)
    value = untouched.seen(batch.clean, batch.mask, untouched.places_of(reader), changes)
    logits = untouched.logits(batch.clean, batch.mask, untouched.patches(reader, value))
    score = answer_score(logits, batch)
    return -torch.autograd.grad(score, gates)[0][0] / len(batch)
