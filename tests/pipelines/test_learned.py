"""What training leaves beside its order: the smallest circuit for a target, and its starts."""

import pytest
import torch
from tiny import quick_config, save_model, save_pairs

from circuitprune import Study
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.selection import select
from circuitprune.engine.evaluation import evaluate
from circuitprune.errors import ConfigError
from circuitprune.files.text import counted
from circuitprune.files.whole import read_tensors
from circuitprune.pipelines.frontier import smallest_circuit
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.train import discover
from circuitprune.runs.frontier import read_results
from circuitprune.training.starts import normal_scores
from circuitprune.training.target import Target

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and logging
TARGET = "kl<=0.002"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def setup(home):
    return make_setup(quick_config(home))


@pytest.fixture(scope="module")
def ranking(setup):
    return torch.randn(setup.gated.graph.n_edges, generator=torch.Generator().manual_seed(0))


def kl_of(setup, masks, split):
    found = evaluate(setup.references, masks, setup.data.batches(split, 64), setup.task_metric)
    return {name: one.kl for name, one in found.items()}


def test_the_smallest_circuit_reaches_the_target_and_one_edge_less_does_not(setup, ranking):
    """Against every size, on the validation pairs."""
    graph = setup.gated.graph
    masks = {str(n): select(graph, ranking, n) for n in range(1, graph.n_edges + 1)}
    kl = {int(n): value for n, value in kl_of(setup, masks, "val").items()}
    limit = sorted(kl.values())[graph.n_edges // 3]
    found = int(smallest_circuit(setup, ranking, Target("kl", limit)).sum())
    sizes = [n for n in kl if int(masks[str(n)].sum()) == found]
    assert min(kl[n] for n in sizes) <= limit
    assert any(kl[n] > limit for n in kl if int(masks[str(n)].sum()) < found) or found == 1


def test_a_run_with_a_target_leaves_that_circuit_and_says_so(home, tmp_path):
    options = ("train.steps=4", f"gates.target={TARGET}", f"output_dir={tmp_path / 'run'}")
    frontier = discover(quick_config(home, *options), say=lambda text: None)
    n_edges = frontier.provenance["target_edges"]
    point = next(one for one in frontier.points if int(one.mask.sum()) == n_edges)
    assert point.validation.kl <= 0.002 < 1 and frontier.provenance["target"] == TARGET
    again, _ = read_results(tmp_path / "run")
    assert again.provenance.items() >= frontier.provenance.items()
    assert [p.size for p in again.points] == sorted(p.size for p in frontier.points)
    assert (
        f"The fewest that reach `{TARGET}` are {counted(n_edges, 'edge')}"
        in (tmp_path / "run" / "summary.md").read_text()
    )
    circuit = Circuit.load(tmp_path / "run" / "circuits" / f"{n_edges}.json")
    assert torch.equal(circuit.mask, point.mask)


def test_what_the_model_itself_does_not_reach_is_an_error(setup, ranking):
    with pytest.raises(ConfigError, match=r"gates\.target=metric>=1000 is out of reach.*val pairs"):
        smallest_circuit(setup, ranking, Target.read("metric>=1000"))


def test_more_starts_are_scored_and_averaged(home, tmp_path):
    """With no step the order is that of the mean of their normal scores; each is left as a file."""
    options = ["train.steps=0", "attribution.method=eap", "gates.starts=[relp, magnitude]"]
    options += [f"output_dir={tmp_path / 'run'}"]
    frontier = discover(quick_config(home, *options), say=lambda text: None)
    assert frontier.points
    rows = []
    for name, method in (("scores", "eap"), ("scores_2", "relp"), ("scores_3", "magnitude")):
        tensors, notes = read_tensors(tmp_path / "run" / f"{name}.safetensors")
        assert notes["method"] == method
        rows.append(normal_scores(tensors["scores"].abs().float()))
    found = read_tensors(tmp_path / "run" / "gates.safetensors")[0]["ranking"]
    mean = torch.stack(rows).mean(0)
    assert torch.equal(found.argsort(stable=True), normal_scores(mean).argsort(stable=True))
    assert not torch.equal(found.argsort(stable=True), rows[0].argsort(stable=True))


def test_a_study_learns_in_both_directions_from_several_starts(home):
    study = Study(home / "model", home / "pairs.jsonl", min_accuracy=0, progress=False)
    about = {"steps": 3, "progress": False}
    plain = study.learn(**about, start=["eap", "gate_ig"])
    joint = study.learn(**about, start=["eap", "gate_ig"], direction="joint", objective="acc")
    assert not torch.equal(plain.ranking, joint.ranking)
    assert not torch.equal(plain.ranking, study.learn(**about, start="eap").ranking)
    circuit = plain.smallest("kl<=0.01")
    assert circuit.provenance["target"] == "kl<=0.01"
    train = kl_of(study.setup, {"": circuit.mask}, "train")  # no validation pairs
    assert train[""] <= 0.01
    with pytest.raises(ConfigError, match=r"gates\.average"):
        study.learn(**about, average=2.0)
