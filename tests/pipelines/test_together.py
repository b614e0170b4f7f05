"""A run over several tasks: its files, the runs inside it, resuming, and what is refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from copy import copy
from dataclasses import replace

import pytest
import torch
from tiny import pair_rows, quick_config, save_model, save_pairs, settings

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.reachability import live_edges
from circuitprune.cli import main
from circuitprune.engine.evaluation import evaluate
from circuitprune.errors import ConfigError, RunError
from circuitprune.files.records import from_json
from circuitprune.files.whole import read_json, read_tensors
from circuitprune.pipelines.compare import compare
from circuitprune.pipelines.compare_scores import load_scores
from circuitprune.pipelines.learned_together import learn_together
from circuitprune.pipelines.part_edges import edges_of_run
from circuitprune.pipelines.refine import refine_run
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.together import configs_of, discover_together, setups_of
from circuitprune.pipelines.together_cuts import smallest_together
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.finished import load_found
from circuitprune.runs.manifest import seal
from circuitprune.runs.studies import Comparison
from circuitprune.runs.together import read_together
from circuitprune.training.module import MaskTraining
from circuitprune.training.target import Target
from circuitprune.views.report.data import report_data

pytestmark = pytest.mark.filterwarnings("ignore")
SAME = ("gates.safetensors", "together.json", "edges.csv", "a/frontier.json", "b/frontier.json")


def turned(row: dict) -> dict:
    """The other way round: another task on the same words."""
    ends = {"clean": "corrupt", "corrupt": "clean", "answers": "wrong", "wrong": "answers"}
    return {name: row[ends[name]] for name in row}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "a.jsonl")
    rows = [turned(row) for row in pair_rows()[::-1]]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def chosen(home, *overrides: str) -> list[str]:
    named = ["task.name=ioi", "task.path=null", f"tasks=[{home / 'a.jsonl'},{home / 'b.jsonl'}]"]
    about = ["attribution.steps=20", "verify.sizes=[0.1,0.5]", "gates.target=kl<=0.02"]
    return [*settings(home), *named, *about, *overrides]


def config_of(home, *overrides: str):
    return quick_config(home, *chosen(home, *overrides))


@pytest.fixture(scope="module")
def run(home):
    discover_together(config_of(home))
    return home / "run"


@pytest.fixture(scope="module")
def setups(home):
    return setups_of(config_of(home))


# ---------------------------------------------------------------- what a run leaves


def test_every_circuit_is_shared_and_own_edges_and_is_counted_once(run):
    found = read_together(run)
    assert found.tasks == ("a", "b") and found.target == "kl<=0.02" and len(found.rows) == 3
    rows = read_tensors(run / "gates.safetensors")[0]["ranking"]
    assert rows.shape == (3, found.n_edges_total)
    for row in found.rows:
        shared = Circuit.load(run / row.file)
        circuits = [Circuit.load(run / one.file) for one in row.tasks]
        union = torch.stack([one.mask for one in circuits]).any(dim=0)
        assert row.n_shared == shared.n_edges and row.n_union == int(union.sum())
        assert bool((shared.mask <= union).all())
        assert row.n_edges == row.n_shared + sum(one.n_private for one in row.tasks)
        for one, circuit in zip(row.tasks, circuits, strict=True):
            assert one.n_edges == circuit.n_edges
            assert one.n_private == int((circuit.mask & ~shared.mask).sum())
            assert torch.equal(live_edges(circuit.graph, circuit.mask), circuit.mask)
    assert [row.n_edges for row in found.rows] == sorted(row.n_edges for row in found.rows)


def test_every_circuit_is_verified_on_its_own_pairs(run, setups):
    found = read_together(run)
    for row in found.rows:
        for one, setup in zip(row.tasks, setups.values(), strict=True):
            mask = Circuit.load(run / one.file).mask
            batches = setup.data.batches("test", 64)
            measured = evaluate(setup.references, {"": mask}, batches, setup.task_metric)[""]
            assert one.kl == pytest.approx(measured.kl, rel=1e-4, abs=1e-7)


def test_the_target_is_reached_by_every_task(run, setups):
    found = read_together(run)
    row = found.rows[found.chosen]
    assert all(one.val_kl <= 0.02 for one in row.tasks)
    rows = read_tensors(run / "gates.safetensors")[0]["ranking"]
    best = smallest_together([*setups.values()], rows, Target.read("kl<=0.02"))
    assert best.n_edges == row.n_edges


def test_each_task_is_an_ordinary_run(run, home, tmp_path):
    found = compare([run / "a", run / "b"], folder=tmp_path)
    assert {one.task for one in found.circuits} == {"jsonl"}
    assert load_found(run / "a").n_edges > 0
    options = ["n_bootstrap=20", "n_random=2", "n_knockouts=1", "n_adversarial=1"]
    copied = shutil.copytree(run / "a", tmp_path / "a")
    assert main(["export", str(copied), "-o", str(tmp_path / "mib.json")]) == 0
    assert main(["verify", str(copied), *options, "progress=false"]) == 0


def test_the_page_tells_the_parts_and_the_report_compares_them(run):
    text = (run / "summary.md").read_text()
    row = read_together(run).rows[read_together(run).chosen]
    assert f"**{row.n_edges:,} edges in all: {row.n_shared:,} shared" in text
    compared = json.loads((run / "compare.json").read_text())
    assert [one["n_edges"] for one in compared["circuits"]] == [one.n_edges for one in row.tasks]
    assert compared["n_edges"] == max(one.n_edges for one in row.tasks)
    assert "shared" in (run / "report.html").read_text()


@pytest.mark.parametrize("task", [0, 1])
def test_each_circuit_and_report_says_what_is_shared(run, task):
    found, name = read_together(run), "ab"[task]
    data = report_data([run / name])
    for row, circuit, positions in zip(found.rows, data.circuits, data.shared, strict=True):
        mine, shared = Circuit.load(run / row.tasks[task].file), Circuit.load(run / row.file)
        assert mine.n_edges == circuit.n_edges
        assert mine.provenance["shared"] == list((mine & shared).edges)
        drawn = {(data.edges.writer[at], data.edges.reader[at]) for at in positions}
        edges = (mine & shared).mask
        ends = mine.graph.edge_writer[edges].tolist(), mine.graph.edge_reader[edges].tolist()
        assert drawn == set(zip(*ends, strict=True))
    assert any(data.shared)


def test_every_task_draws_the_pairs_of_its_own_run(home, setups):
    for name, config in configs_of(config_of(home)).items():
        assert make_setup(config).identity.pairs == setups[name].identity.pairs


# ---------------------------------------------------------------- from Python


@pytest.fixture(scope="module")
def studies(home):
    return {name: Study.from_config(one) for name, one in configs_of(config_of(home)).items()}


def test_studies_learn_together_what_the_command_does(run, home, studies):
    row = read_together(run).rows[read_together(run).chosen]
    steps = config_of(home).train.steps
    learned = learn_together(studies, steps, progress=False)
    assert torch.equal(learned.rows, read_tensors(run / "gates.safetensors")[0]["ranking"])
    found = learned.smallest("kl<=0.02")
    assert found.n_edges == row.n_edges and found.shared.edges == Circuit.load(run / row.file).edges
    for one, (name, study) in zip(row.tasks, studies.items(), strict=True):
        circuit = found.tasks[name]
        assert circuit.edges == Circuit.load(run / one.file).edges
        assert study.evaluate(circuit).kl == pytest.approx(one.kl, rel=1e-4, abs=1e-7)
        assert circuit.provenance["shared"] == list((circuit & found.shared).edges)
    small = learned.circuits(n_edges=40)
    private = sum((one - small.shared).n_edges for one in small.tasks.values())
    assert small.n_edges == small.shared.n_edges + private <= 40
    assert repr(learned) == f"LearnedTogether(a, b, {steps} steps)"


@pytest.mark.parametrize(
    ("named", "gates", "message"),
    [
        ({"a": "a"}, {}, "two or more studies of different names"),
        (["a", "b"], {}, "got jsonl of 2; give a mapping"),
        ({"a": "a", "b": "b"}, {"count": "live"}, "gates.count=live does not go with tasks"),
        ({"a": "a", "b": "other"}, {}, "studies of one model"),
    ],
)
def test_studies_that_do_not_go_together_are_refused(home, studies, named, gates, message):
    setup = studies["b"].setup
    other = copy(studies["b"])
    other.setup = replace(setup, identity=copy(setup.identity))
    other.setup.identity.model = "other"
    known = {**studies, "other": other}
    if isinstance(named, dict):
        given = {name: known[one] for name, one in named.items()}
    else:
        given = [known[one] for one in named]
    with pytest.raises(ConfigError, match=message):
        learn_together(given, steps=1, **gates)


# ---------------------------------------------------------------- beside circuits apart


def test_a_run_stands_beside_its_tasks_apart(run, home, tmp_path, capsys):
    """Edges, sums and different edges by the files of both, at the same target."""
    for name, config in configs_of(config_of(home)).items():
        discover(replace(config, output_dir=str(tmp_path / name)))
    paths = [run, tmp_path / "b", tmp_path / "a"]
    arguments = [*map(str, paths), "--output-dir", str(tmp_path / "compared")]
    assert main(["compare", *arguments]) == 0
    (found,) = from_json(
        Comparison, read_json(tmp_path / "compared" / "compare.json", checked=True)
    ).against_apart
    row, masks = read_together(run).rows[read_together(run).chosen], []
    for name, one in zip(("a", "b"), found.tasks, strict=True):
        about = json.loads((tmp_path / name / "frontier.json").read_text())
        (point,) = [p for p in about["points"] if p["n_edges"] == about["target_edges"]]
        masks.append(Circuit.load(tmp_path / name / point["file"]).mask)
        assert (one.name, one.apart) == (name, str(tmp_path / name))
        assert (one.n_edges_apart, one.kl_apart) == (point["n_edges"], point["kl"])
    assert [(one.n_edges, one.n_private, one.kl) for one in found.tasks] == [
        (one.n_edges, one.n_private, one.kl) for one in row.tasks
    ]
    both = torch.stack(masks)
    assert found.n_edges_apart == int(both.sum())
    assert found.n_union_apart == int(both.any(dim=0).sum())
    assert found.n_counted_apart == found.n_union_apart  # of two tasks what all have is any overlap
    assert (found.n_edges, found.n_shared) == (row.n_edges, row.n_shared)
    assert f"{found.n_edges / found.n_edges_apart:.1%} of the sum apart" in capsys.readouterr().out


def test_a_run_whose_tasks_were_not_run_apart_says_so(run, tmp_path):
    (found,) = compare([run], folder=tmp_path).against_apart
    assert "no run of a, b alone was given with gates.target=kl<=0.02" in found.skipped
    assert compare([run / "a", run / "b"], folder=tmp_path / "inside").against_apart is None


# ---------------------------------------------------------------- going on, and refusals


def test_an_interrupted_run_goes_on_by_the_same_command_to_the_same_bytes(
    run, home, tmp_path, monkeypatch
):
    """The power fails in a step; then a scheduler asks to stop, which a step is finished for."""

    def command() -> int:
        about = chosen(home, f"output_dir={tmp_path / 'cut'}", "train.resume=auto")
        return main(["train", str(empty), *about])

    def at(step: int, act: Callable[[], None]) -> None:
        def training_step(self, batch, batch_idx):
            if self.global_step == step:
                act()
            return honest(self, batch, batch_idx)

        patch.setattr(MaskTraining, "training_step", training_step)

    def fail() -> None:
        raise RuntimeError("power cut")

    honest, empty, cut = MaskTraining.training_step, tmp_path / "empty.yaml", tmp_path / "cut"
    empty.write_text("")
    with monkeypatch.context() as patch:
        at(7, fail)
        assert command() not in (0, 75)
        at(9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert command() == 75
    last = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 10 and not (cut / "COMPLETE").exists()
    assert command() == 0
    for name in SAME:
        assert (cut / name).read_bytes() == (run / name).read_bytes(), name
    before = (cut / "COMPLETE").read_bytes()
    assert command() == 0 and (cut / "COMPLETE").read_bytes() == before  # finished already


def test_nodes_are_shared_as_edges_are_and_called_so(home, tmp_path):
    about = ("level=node", "attribution.method=eap", "gates.target=null", "task.n_val=0")
    found = discover_together(
        config_of(home, *about, "train.steps=2", f"output_dir={tmp_path / 'nodes'}")
    )
    assert found.unit == "node" and found.rows[-1].n_edges <= found.n_edges_total / 2
    text = (tmp_path / "nodes" / "summary.md").read_text()
    assert f"The model has {found.n_edges_total} nodes. Cut nodes carry: patch" in text
    assert " edge" not in text.replace("docs", "") and "different nodes" in text


def test_a_price_changes_what_is_shared(home, tmp_path):
    shared = {}
    for cost in ("0.5", "4"):
        folder = tmp_path / cost
        about = (f"gates.shared_cost={cost}", f"output_dir={folder}", "gates.target=null")
        about = (*about, "train.steps=3", "task.n_val=0")
        shared[cost] = [row.n_shared for row in discover_together(config_of(home, *about)).rows]
    assert sum(shared["4"]) < sum(shared["0.5"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks=[ioi]"], "nothing to share"),
        (["tasks=[ioi,ioj]"], "'ioj' is unknown; did you mean 'ioi'"),
        (["tasks=[ioi,sva,ioi]"], "names ioi twice"),
        (["gates.learner=hard_concrete"], "gates.learner=hard_concrete does not go with tasks"),
        (["gates.count=live"], "gates.count=live does not go with tasks; set raw"),
        (["gates.budgets=log_both"], "take log_uniform"),
        (["gates.budgets=at_sizes"], "take log_uniform"),
        (["verify.selection=greedy"], "set top_n"),
        (["refine=true"], "refine=True does not go with tasks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(home, overrides, message):
    with pytest.raises(ConfigError, match=message):
        config_of(home, *overrides)


def test_other_commands_refuse_tasks(home):
    with pytest.raises(ConfigError, match="learned together by `train`"):
        discover(config_of(home, f"output_dir={home / 'no'}"))


def test_several_processes_are_refused(home, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="learned in one process, but torchrun started 2"):
        discover_together(config_of(home, f"output_dir={tmp_path / 'no'}"))
    assert not (tmp_path / "no").exists()


def test_another_folder_is_refused(home):
    with pytest.raises(RunError, match=r"not a finished run over several tasks.*`tasks`"):
        read_together(home)


@pytest.mark.parametrize(
    "damage",
    [
        {"tasks": ["../a", "b"]},
        {"tasks": ["a"]},
        {"tasks": [], "rows": []},
        {"chosen": 3},
        {"chosen": -1},
        {"rows": []},
    ],
)
def test_a_damaged_file_is_refused_by_name(run, tmp_path, damage):
    about = json.loads((run / "together.json").read_text())
    (tmp_path / "together.json").write_text(json.dumps({**about, **damage}))
    seal(tmp_path)
    with pytest.raises(RunError, match=r"together.json is damaged"):
        read_together(tmp_path)
    (tmp_path / "together.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"not as it was finished: together.json changed"):
        read_together(tmp_path)


def test_commands_for_one_task_name_those_inside(run):
    for command in (load_found, verify_run, refine_run, edges_of_run, load_scores):
        with pytest.raises(RunError, match=r"over several tasks; give one of them: \S+/a, \S+/b"):
            command(run)
    with pytest.raises(RunError, match=r"over several tasks; give one of them"):
        load_scores(run / "gates.safetensors")  # those of all tasks at once
    assert [one.name for one in report_data([run]).runs] == ["a", "b"]
    assert report_data([run]) == report_data([run / "a", run / "b", run / "compare.json"])


def test_a_target_out_of_reach_names_the_task(home, setups):
    rows = torch.randn(3, setups["a"].gated.graph.n_edges)
    with pytest.raises(ConfigError, match=r"out of reach: task \w+ does not reach it"):
        smallest_together([*setups.values()], rows, Target.read("accuracy>=1.1"))


def test_the_command_line_runs_several_tasks(home, tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("")
    about = chosen(home, f"output_dir={tmp_path / 'run'}", "train.steps=2")
    assert main(["train", str(tmp_path / "empty.yaml"), *about, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("full      accuracy") == 2
    assert main(["train", str(tmp_path / "empty.yaml"), *about]) == 0
    assert "edges in all" in capsys.readouterr().out
