"""The command `mib`: what a submission holds, its table, and whether a model can do the task."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from evidence_cases import tiny_case
from pairs import pair as made
from reference_evidence import MIB_SIZES, area, on_a_path
from tiny import quick_config, save_model, save_pairs

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.cli import main
from circuitprune.data.encoding import Encoder
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.errors import DataError, RunError
from circuitprune.evidence.ability import Ability, ability, refuse_unable
from circuitprune.evidence.mib_areas import mib_areas
from circuitprune.metrics import logit_diff
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.mib import importance_of, submit
from circuitprune.runs.finished import run_circuit
from circuitprune.views.pages.mib import mib_page


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished attribution of a tiny Llama, whose keys and values are shared by two heads."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "tiny", "llama")
    save_pairs(folder / "pairs.jsonl")
    for name in ("run", "again"):
        about = [f"model.name={folder / 'tiny'}", f"output_dir={folder / name}"]
        about += ["attribution.method=eap", "task.metric=prob_diff"]
        attribute(quick_config(folder, *about), say=lambda _: None)
    return folder


def quiet(*args, **options):
    return submit(*args, **options, say=lambda _: None)


# ---------------------------------------------------------------- areas


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_areas_are_those_of_the_slow_loop(family):
    case = tiny_case(family)
    references, graph = case.references, case.references.gated.graph
    importance = -case.scores
    found = mib_areas(references, importance, case.batches)
    full = evaluate_full(references, case.batches, logit_diff).metric
    for values, curve, total in (
        (importance, found.signed, found.cpr),
        (importance.abs(), found.absolute, None),
    ):
        order = sorted(range(graph.n_edges), key=lambda edge: -values[edge].item())
        slow = []
        for size in MIB_SIZES:
            names = [graph.edge_name(edge) for edge in order[: int(size * graph.n_edges)]]
            mask = graph.mask_of(on_a_path(names, graph.n_heads // graph.n_kv_readers))
            masks = {"circuit": mask, "empty": graph.no_edges()}
            one = evaluate(references, masks, case.batches, logit_diff)
            empty = one["empty"].metric
            slow.append((one["circuit"].metric - empty) / (full - empty))
        assert curve == pytest.approx(slow, abs=1e-9)
        if total is not None:
            assert total == pytest.approx(area(slow))
        else:
            assert found.cmd == pytest.approx(area([abs(1 - f) for f in slow]))
    assert found.n_pairs == 8 and found.n_edges == graph.n_edges


# ---------------------------------------------------------------- files


def test_importances_are_positive_where_an_edge_helps_and_by_query_head(home, tmp_path):
    (cell,) = quiet([f"{home / 'run'}=ioi_tiny"], tmp_path, table=False).cells
    assert (cell.name, cell.on_board, cell.source) == ("ioi_tiny", False, "scores")
    value = json.loads((tmp_path / "submission/ioi_tiny/importances.json").read_text())
    run = run_circuit(home / "run")
    graph = run.graph
    assert graph.n_kv_readers < graph.n_heads and len(value["edges"]) == graph.n_edges_ungrouped
    whole, scores = graph.ungrouped(), graph.ungroup(run.scores).double()
    for name, entry in value["edges"].items():
        assert entry["score"] == -scores[whole.edge_index(name)].item()
    assert cell.ability is None and cell.areas is None


def test_nine_circuits_hold_no_more_edges_than_their_share(home, tmp_path):
    (cell,) = quiet([f"{home / 'run'}=ioi_gpt2"], tmp_path, circuits=True, table=False).cells
    assert cell.on_board
    folder = tmp_path / "submission" / "ioi_gpt2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(cell.files)
    assert len(cell.files) == 9
    total, before = run_circuit(home / "run").graph.n_edges_ungrouped, None
    for size, name in zip(MIB_SIZES, cell.files, strict=False):
        assert name == f"{size:g}.json"
        circuit = Circuit.load(folder / name)
        assert circuit.n_edges <= size * total and circuit.trim().n_edges == circuit.n_edges
        assert before is None or not (before & ~circuit.mask).any()
        before = circuit.mask
        edges = json.loads((folder / name).read_text())["edges"]
        kinds = Counter(type(edge["in_graph"]) for edge in edges.values())
        assert kinds == {bool: total}
    assert before.any()


def test_an_order_without_a_sign_keeps_its_order_by_value_and_by_magnitude():
    graph = Graph(1, 2, 2)
    ranking = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(0))
    ranking[3] = -torch.inf
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    importance = importance_of(Circuit(graph, every, ranking=ranking))
    assert torch.equal(importance.argsort(descending=True), ranking.argsort(descending=True))
    assert torch.equal(importance.abs(), importance) and importance.max() == 1


# ---------------------------------------------------------------- the table


def test_the_table_is_of_the_logit_difference_by_query_head(home, tmp_path, capsys):
    """Whatever metric the run had, and however it counted edges."""
    assert main(["mib", f"{home / 'run'}=ioi_tiny", "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "mib.json").read_text())["cells"][0]
    areas = found["areas"]
    assert areas["n_edges"] == run_circuit(home / "run").graph.n_edges_ungrouped
    assert areas["n_pairs"] == 20 and len(areas["signed"]) == 10
    assert areas["signed"][-1] == pytest.approx(1, abs=1e-5)
    assert areas["cpr"] == pytest.approx(area(areas["signed"]))
    assert f"{areas['cpr']:.3f}" in shown and "at least two tasks and two models" in shown
    assert found["able"] == (found["ability"]["accuracy"] >= 0.6)
    assert ("the model cannot do this task" in shown) == (not found["able"])
    assert (tmp_path / "mib.md").read_text().strip() in shown


def test_two_tasks_of_two_models_are_enough(home, tmp_path):
    runs = [f"{home / 'run'}=ioi_gpt2", f"{home / 'again'}=mcqa_qwen2.5"]
    found = quiet(runs, tmp_path, table=False)
    assert [cell.on_board for cell in found.cells] == [True, True]
    assert "at least two" not in mib_page(found)


def test_what_cannot_be_submitted(home, tmp_path):
    run = str(home / "run")
    with pytest.raises(RunError, match=r"is of task 'jsonl', and MIB's are ioi, .*=TASK_MODE"):
        quiet([run], tmp_path)
    with pytest.raises(RunError, match=r"a cell is called TASK_MODEL, such as mcqa_qwen2.5, got"):
        quiet([f"{run}=ioi"], tmp_path)
    with pytest.raises(RunError, match="two runs are of cell ioi_x"):
        quiet([f"{run}=ioi_x", f"{home / 'again'}=ioi_x"], tmp_path)
    with pytest.raises(RunError, match="is not a finished run"):
        quiet([f"{home / 'tiny'}=ioi_x"], tmp_path)
    assert not (tmp_path / "submission").exists()


def test_a_table_is_of_the_pairs_of_the_run(home, tmp_path):
    pairs = home / "pairs.jsonl"
    kept = pairs.read_text()
    pairs.write_text("".join(kept.splitlines(keepends=True)[::-1]))
    with pytest.raises(RunError, match="the pairs are not those of the run"):
        quiet([f"{home / 'run'}=ioi_x"], tmp_path / "out")
    pairs.write_text(kept)


# ---------------------------------------------------------------- can it do the task


class Letters:
    """A tokenizer whose tokens are characters."""

    all_special_ids = ()
    unk_token_id = None

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_where_a_prompt_has_choices_the_answer_must_stand_above_them_all():
    """A letter above a number says nothing: here the model likes C, and no number."""
    rows = [made(f"pair {i}", f"peer {i}", (a,), ("1",), id=f"p{i}") for i, a in enumerate("ABCC")]
    for row in rows:
        row.meta[CHOICES] = "A|B|C"
    encoder = Encoder(Letters(), (), None)
    for row in rows:
        encoder.add(row)
    assert len(encoder.examples) == 4
    logits = torch.zeros(4, 128)
    logits[:, ord("C")], logits[:, ord("1")] = 2.0, -5.0
    logits[0, ord("A")] = 3.0
    references = SimpleNamespace(
        gated=SimpleNamespace(device="cpu"), full_logits=lambda batch: logits[batch]
    )
    data = SimpleNamespace(
        splits={"train": encoder.examples},
        batches=lambda name: [torch.tensor([0, 1, 2]), torch.tensor([3])],
    )
    full = SimpleNamespace(accuracy=1.0, n=4)
    found = ability(references, Letters(), data, full)
    assert (found.accuracy, found.n, found.chance) == (0.75, 4, pytest.approx(1 / 3))
    del rows[0].meta[CHOICES]
    assert ability(references, Letters(), data, full).accuracy == 1.0


def test_a_model_that_cannot_is_refused_with_what_chance_gives():
    found = Ability(0.3, 40, 0.25, "the choices of each prompt")
    refuse_unable(found, 0.3)
    with pytest.raises(DataError, match=r"cannot do this task: it is right on 30.0% of 40"):
        refuse_unable(found, 0.31)
    with pytest.raises(DataError, match=r"among the choices of each prompt \(chance 25%\)"):
        refuse_unable(found, 0.6)
