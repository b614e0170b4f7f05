"""Published circuits meet a model of GPT-2 small's shape: names are its heads, and runs are scored.

The model is random and 24 wide, which changes nothing about layers, heads and edges.
"""

import pytest
import reference
import torch
from conftest import random_batch, randomise
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import quick_config, save_pairs, tokenizer
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.known.greater_than_gpt2 import GREATER_THAN_GPT2
from circuitprune.circuits.known.ioi_gpt2 import IOI_GPT2
from circuitprune.circuits.known.published import GPT2_SMALL
from circuitprune.circuits.recovery import circuit_recovery
from circuitprune.engine.gated import GatedModel
from circuitprune.files.whole import read_tensors
from circuitprune.pipelines.attribute import attribute

KNOWN = {"ioi": IOI_GPT2, "greater_than": GREATER_THAN_GPT2}
every_circuit = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
SHAPE = GPT2Config()
SHORT = len(tokenizer())
"""Words of the model."""


@pytest.fixture(scope="module")
def model():
    sizes = dict(n_embd=24, n_positions=16, vocab_size=SHORT)
    special = dict(bos_token_id=None, eos_token_id=0, pad_token_id=0)
    model = GPT2LMHeadModel(
        GPT2Config(n_layer=SHAPE.n_layer, n_head=SHAPE.n_head, **sizes, **special)
    )
    randomise(model, seed=5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def home(model, tmp_path_factory):
    """The model as a folder, pairs, the circuits as files, and a run scored against each."""
    home = tmp_path_factory.mktemp("home")
    model.save_pretrained(home / "model")
    tokenizer().save_pretrained(home / "model")
    save_pairs(home / "pairs.jsonl")
    for name, known in KNOWN.items():
        known.circuit().save(home / f"{name}.json")
        options = "attribution.method=eap", f"verify.reference={home / name}.json"
        sizes = "verify.sizes=[0.01]", "cache.max_gb=0"
        config = quick_config(home, *options, *sizes, f"output_dir={home / name}")
        attribute(config, lambda _: None)
    return home


def test_the_graph_is_the_one_of_gpt2s_own_config():
    assert reference.graph_of(type("Shaped", (), {"config": SHAPE})(), "gpt2") == GPT2_SMALL


@every_circuit
@torch.no_grad()
def test_a_published_name_is_that_head_or_mlp_of_the_model(known, model):
    """Closed, it is what the untouched model does when that very place is patched."""
    double = GPT2LMHeadModel(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    batch = random_batch([9, 7], seed=1)
    batch = batch._replace(clean=batch.clean % SHORT, corrupt=batch.corrupt % SHORT)
    gated = GatedModel(double)
    assert gated.graph.same_edges(known.graph)
    ablated = gated.record(batch.corrupt, batch.mask)
    graph, full = gated.graph, reference.plain_logits(double, batch.clean, batch.mask)

    def cut(closed):
        gates = torch.where(closed, 0.0, torch.ones(graph.n_edges).double())
        return gated(gates, batch.clean, batch.mask, ablated)

    def hold(found, expected):
        assert_close(batch.real(found), batch.real(expected), rtol=1e-10, atol=1e-10)
        assert (batch.real(full) - batch.real(expected)).abs().max() > 1e-6

    parts = double, "gpt2", batch.clean, batch.corrupt, batch.mask
    corrupt = reference.writers(double, "gpt2", batch.corrupt, batch.mask)
    for node in known.nodes():
        if node.startswith("m"):
            expected = reference.patched_logits(
                double, "gpt2", batch.clean, batch.mask, node, corrupt[node]
            )
        else:
            expected = reference.patched_head_logits(*parts, node)
        hold(cut(graph.edge_writer == graph.writers.index(node)), expected)
    for reader in sorted({edge.split("->")[1] for edge in known.edges()}):
        expected = reference.patched_reader_logits(*parts, reader)
        hold(cut(graph.edge_reader == graph.readers.index(reader)), expected)


@pytest.mark.parametrize("name", KNOWN)
def test_a_run_is_scored_against_a_published_circuit(home, name):
    """The area under the ROC curve, counted pair by pair from the names of the edges."""
    tensors, _ = read_tensors(home / name / "scores.safetensors")
    by_name = dict(zip(GPT2_SMALL.edges, tensors["scores"].abs().tolist(), strict=True))
    true = {*KNOWN[name].edges()}
    ours = torch.tensor([by_name[edge] for edge in GPT2_SMALL.edges if edge in true]).double()
    others = torch.tensor([by_name[e] for e in GPT2_SMALL.edges if e not in true]).double()
    wins = sum(int((one > others).sum()) + int((one == others).sum()) / 2 for one in ours)
    events = EventAccumulator(str(home / name))
    events.Reload()
    (drawn,) = events.Scalars("reference/auroc")
    assert drawn.value == pytest.approx(wins / len(ours) / len(others), abs=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_a_circuit_is_scored_against_a_published_one_by_the_names_in_its_file(home, name):
    (file,) = (home / name / "circuits").glob("*.json")
    found, true = Circuit.load(file), KNOWN[name].circuit()
    ours, theirs = {*found.edges}, {*KNOWN[name].edges()}
    assert ours & theirs and ours - theirs
    assert circuit_recovery(found.mask, true.mask) == {
        "precision": len(ours & theirs) / len(ours),
        "recall": len(ours & theirs) / len(theirs),
        "jaccard": len(ours & theirs) / len(ours | theirs),
    }
