"""Repeated runs: their own folders, never run twice, and numbers that follow from their files."""

import csv
import json
import shutil
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from json_schema import fits
from tiny import pair_rows, quick_config, save_model, save_pairs, settings, tiny_lm

from circuitprune.circuits.circuit import Circuit
from circuitprune.cli import main
from circuitprune.data.splits import resampled
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.engine.progress import silent
from circuitprune.errors import ConfigError, RunError
from circuitprune.files.records import from_json, to_json
from circuitprune.files.whole import read_json
from circuitprune.pipelines import trials as module
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.stability import stability
from circuitprune.pipelines.trials import trials
from circuitprune.pipelines.unseen import texts_of, unseen_batches
from circuitprune.runs.finished import Found, load_run
from circuitprune.runs.settings import load_config
from circuitprune.runs.studies import Stability
from pipelines.test_train import strict

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
N_SEEDS, N_BOOTSTRAP = 3, 4


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    (folder / "run.yaml").write_text("# all settings come from the command line\n")
    return folder


def config_of(home: Path, name: str, *overrides: str):
    return quick_config(home, "train.steps=4", *overrides, f"output_dir={home / name}")


PIECES: set[tuple[bool, str, str]] = set()
"""What `study` itself showed of its work: whether it was wanted, the work and its unit."""


@pytest.fixture(scope="module")
def study(home) -> tuple[Path, Stability]:
    """A study of three trained and four attributed runs, and what it returned."""

    @contextmanager
    def shown(show):
        yield lambda what, unit: PIECES.add((show, what, unit)) or silent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitprune.pipelines.stability.shown", shown)
        return _study(home)


def test_the_verification_of_all_circuits_is_shown_if_it_is_wanted(study):
    assert {(False, "verification", "runs")} == PIECES


def _study(home: Path) -> tuple[Path, dict]:
    found = stability(config_of(home, "study"), N_SEEDS, N_BOOTSTRAP, say=lambda _: None)
    return home / "study", found


# ---------------------------------------------------------------- which runs


def test_seeds_count_up_and_resamples_keep_them(home):
    config = config_of(home, "planned", "train.seed=7", "task.seed=20")
    both = trials(config, 2, 2, False, "both")
    assert [(t.config.train.seed, t.config.task.seed) for t in both["seed"]] == [(7, 20), (8, 21)]
    assert [t.config.task.resample for t in both["seed"]] == [None, None]
    resamples = [
        (t.config.train.seed, t.config.task.seed, t.config.task.resample, t.attributes)
        for t in both["bootstrap"]
    ]
    assert resamples == [(7, 20, 0, True), (7, 20, 1, True)]
    for vary, expected in (("train", [(7, 20), (8, 20)]), ("task", [(7, 20), (7, 21)])):
        found = trials(config, 2, 0, False, vary)["seed"]
        assert [(t.config.train.seed, t.config.task.seed) for t in found] == expected
    attributed = trials(config, 2, 0, True, "both")["seed"]
    assert [(t.config.train.seed, t.attributes) for t in attributed] == [(7, True), (7, True)]
    assert len({t.folder for group in both.values() for t in group}) == 4


@pytest.mark.parametrize(
    ("seeds", "bootstrap", "attributes", "vary", "overrides", "word"),
    [
        (1, 0, False, "both", [], "at least 2"),
        (0, 0, False, "both", [], "at least 2"),
        (-2, 5, False, "both", [], "at least 2"),
        (2, 0, True, "train", [], "does not use train.seed"),
        (2, 2, False, "both", ["attribution.method=none"], "no scores"),
        (2, 0, False, "both", ["task.resample=1"], "leave them out"),
    ],
)
def test_plans_that_compare_nothing_are_refused(
    home, seeds, bootstrap, attributes, vary, overrides, word
):
    with pytest.raises(ConfigError, match=word):
        trials(config_of(home, "refused", *overrides), seeds, bootstrap, attributes, vary)


def test_a_resample_is_drawn_with_replacement_from_the_training_pairs(home):
    plain, other = (make_setup(config_of(home, "x", *o)) for o in ([], ["task.resample=3"]))
    before, after = (setup.data.splits for setup in (plain, other))
    assert after["train"] == resampled(before["train"], 3) != resampled(before["train"], 4)
    assert len(after["train"]) == len(before["train"])
    assert {e.clean for e in after["train"]} < {e.clean for e in before["train"]}
    assert after["test"] == before["test"] and after["val"] == before["val"]


# ---------------------------------------------------------------- what a study leaves behind


def test_every_run_is_a_finished_run_of_its_own_config(study):
    folder, found = study
    names = [f"seed{i}" for i in range(N_SEEDS)] + [f"bootstrap{i}" for i in range(N_BOOTSTRAP)]
    for name in names:
        assert (folder / name / "COMPLETE").exists()
        assert (folder / name / "gates.safetensors").exists() == name.startswith("seed")
    assert load_config(folder / "seed2" / "config.yaml").train.seed == 2
    assert load_config(folder / "bootstrap2" / "config.yaml").task.resample == 2
    assert from_json(Stability, read_json(folder / "stability.json", checked=True)) == found
    assert fits(read_json(folder / "stability.json", checked=True), "Stability")
    assert set(found.groups) == {"seed", "bootstrap"}


def test_overlap_follows_from_the_circuit_files(study):
    folder, found = study
    for name, group in found.groups.items():
        n_runs = len(group.runs)
        for row in group.curve:
            sets = []
            for i in range(n_runs):
                file = folder / f"{name}{i}" / "circuits" / f"{row.n_edges}.json"
                sets.append(set(Circuit.load(file).edges))
            pairs = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
            assert row.edges.mean == pytest.approx(np.mean(pairs))
            assert row.edges.least == pytest.approx(min(pairs))
            assert row.edges.largest == pytest.approx(max(pairs))


def test_the_matrix_has_every_pair_of_the_overlap(study):
    _, found = study
    for group in found.groups.values():
        for kind, matrix in vars(group.jaccard).items():
            n = len(group.runs)
            assert [len(row) for row in matrix] == [n] * n
            assert all(matrix[i][i] == 1 for i in range(n)) and np.array_equal(
                matrix, np.transpose(matrix)
            )
            pairs = [matrix[i][j] for i in range(n) for j in range(i)]
            summary = getattr(group.overlap, kind)
            assert summary.mean == pytest.approx(np.mean(pairs))
            assert (summary.least, summary.largest) == pytest.approx((min(pairs), max(pairs)))


def test_the_csv_counts_how_often_an_edge_was_kept(study):
    folder, found = study
    for name, group in found.groups.items():
        runs = [load_run(folder / run.folder) for run in group.runs]
        kept = [set(Circuit(run.graph, run.cut(group.n_edges)).edges) for run in runs]
        with (folder / f"{name}_edges.csv").open() as file:
            rows = {f"{r['writer']}->{r['reader']}": r for r in csv.DictReader(file)}
        assert set(rows) == set().union(*kept)
        counts = {edge: sum(edge in one for one in kept) for edge in rows}
        assert {edge: float(row["times_kept"]) for edge, row in rows.items()} == counts
        expected = [sum(n == times for n in counts.values()) for times in range(1, len(runs) + 1)]
        assert list(group.kept_by[1:]) == expected


def test_the_core_is_what_every_run_keeps_at_every_size(study):
    folder, found = study
    size = max(group.n_edges for group in found.groups.values())
    assert found.core.sizes == (size // 2, size, 2 * size)
    runs = [load_run(path) for path in sorted(folder.iterdir()) if (path / "COMPLETE").exists()]
    assert found.core.n_views == 3 * len(runs) == 3 * (N_SEEDS + N_BOOTSTRAP)
    views = [run.cut(n).tolist() for run in runs for n in found.core.sizes]
    kept = [sum(view[edge] for view in views) for edge in range(len(views[0]))]
    core = [run_edge for run_edge, n in zip(runs[0].graph.edges, kept, strict=True) if n == 21]
    assert list(found.core.core) == core
    assert found.core.n_contingent == sum(0 < n < 21 for n in kept)
    assert found.core.n_half == sum(2 * n >= 21 for n in kept)
    with (folder / "views_edges.csv").open() as file:
        rows = {f"{r['writer']}->{r['reader']}": float(r["views"]) for r in csv.DictReader(file)}
    assert rows == {e: n for e, n in zip(runs[0].graph.edges, kept, strict=True) if n}
    assert set(Circuit.load(folder / "core.json").edges) == set(core)
    assert found.core.sentence in (folder / "stability.md").read_text().replace("\\", "")


def test_elected_circuits_are_verified_on_pairs_that_no_run_was_trained_on(study, home):
    folder, found = study
    setup = make_setup(config_of(home, "again"))
    trained = set()
    for i in range(N_SEEDS):
        other = make_setup(config_of(home, "again", f"task.seed={i}"))
        trained |= {example.pair.clean for example in other.data.splits["train"]}
    unseen = [e for e in setup.data.splits["test"] if e.pair.clean not in trained]
    assert 0 < len(unseen) < len(setup.data.splits["test"])
    assert (found.n_pairs, found.n_pairs + found.n_pairs_seen) == (len(unseen), 20)

    data, group = setup.data, found.groups["seed"]
    data.splits["test"] = unseen
    setup.references.budget = 0  # the ids have moved: nothing of the cache is asked for
    batches = data.batches("test", 7)
    circuit = Circuit.load(folder / "seed_consensus.json")
    masks = {"circuit": circuit.mask, "empty": torch.zeros_like(circuit.mask)}
    evidence = evaluate(setup.references, masks, batches, setup.task_metric)
    full = evaluate_full(setup.references, batches, setup.task_metric)
    expected = evidence["circuit"].against(full, evidence["empty"])
    measured = group.measured["consensus"]
    for key in ("kl", "metric", "accuracy", "exact_match", "n"):
        assert getattr(measured, key) == pytest.approx(getattr(expected, key), rel=1e-4)
    assert measured.faithfulness.value == pytest.approx(expected.faithfulness, rel=1e-4)
    assert measured.faithfulness.low < measured.faithfulness.high
    assert circuit.provenance["evidence"] == to_json(measured)


def test_unseen_batches_keep_the_ids_of_the_data_set(home):
    setup = make_setup(config_of(home, "ids", "verify.batch_size=4"))
    test = setup.data.splits["test"]
    seen = texts_of(test[1:6])
    batches = unseen_batches(setup, seen)
    kept = [i for i, e in enumerate(test) if not texts_of([e]) & seen]
    first = len(setup.data.splits["train"]) + len(setup.data.splits["val"])
    assert torch.cat([b.index for b in batches]).tolist() == [first + i for i in kept]
    assert 0 not in range(1, 6) and len(kept) <= 15
    flipped = {frozenset((test[0].pair.corrupt, test[0].pair.clean))}
    assert sum(map(len, unseen_batches(setup, flipped))) == 19
    assert unseen_batches(setup, texts_of(test)) == []


def test_the_page_says_it_in_words(study):
    text, found = (study[0] / "stability.md").read_text(), study[1]
    for group in found.groups.values():
        assert group.sentence in text
    assert "Trained 3 times" in text and "Attributed by gate_ig 4 times" in text
    assert (
        "**consensus**" in text and "NaN" not in text and "nan" not in text.replace("finance", "")
    )


# ---------------------------------------------------------------- again


def test_a_finished_study_is_not_run_again_and_grows(study, home, monkeypatch):
    folder, found = study
    ran: list[str] = []

    def counted(name):
        whole = getattr(module, name)
        return lambda config, say: (ran.append(Path(config.output_dir).name), whole(config, say))

    for name in ("discover", "attribute"):
        monkeypatch.setattr(module, name, counted(name))
    before = (folder / "stability.json").read_bytes()
    stability(config_of(home, "study"), N_SEEDS, N_BOOTSTRAP, say=lambda _: None)
    assert ran == [] and (folder / "stability.json").read_bytes() == before

    shutil.copytree(folder, home / "grown")
    with pytest.raises(RunError, match="other settings"):
        stability(config_of(home, "grown", "attribution.steps=3"), N_SEEDS, say=lambda _: None)
    (home / "grown" / "seed1" / "COMPLETE").unlink()
    for path in (home / "grown" / "bootstrap1", home / "grown" / "seed2"):
        (path / "COMPLETE").unlink()
    shutil.rmtree(home / "grown" / "seed2" / "checkpoints")
    again = stability(config_of(home, "grown"), N_SEEDS, N_BOOTSTRAP + 1, say=lambda _: None)
    assert ran == ["seed1", "seed2", "bootstrap1", "bootstrap4"]
    assert again.groups["seed"] == found.groups["seed"]
    assert again.groups["bootstrap"].runs[:-1] == found.groups["bootstrap"].runs


@pytest.fixture
def again(tmp_path):
    """A study of two attributions in a home of its own; called, it is asked for once more."""
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl")
    config = config_of(tmp_path, "study", "attribution.method=eap")
    stability(config, 2, attributes=True, vary="task", say=lambda _: None)
    return lambda attributes=True: stability(config, 2, 0, attributes, "task", say=lambda _: None)


def test_finished_runs_of_another_kind_are_refused(again, tmp_path):
    with pytest.raises(RunError, match=r"seed0' holds .* an attribution there, a trained run now"):
        again(attributes=False)
    (tmp_path / "study" / "seed1" / "gates.safetensors").touch()
    with pytest.raises(RunError, match=r"seed1' holds .* a trained run there, an attribution now"):
        again()


def test_finished_runs_of_another_model_or_of_other_pairs_are_refused(again, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "attribute", lambda *_: pytest.fail("a run was made"))
    shutil.rmtree(tmp_path / "study" / "seed0")  # what is found is looked at before it is made
    rows = [{**row, "wrong": [" today"]} for row in pair_rows()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match=r"seed1 was .*: pairs_hash was .* Restore the pairs, or"):
        again()
    save_pairs(tmp_path / "pairs.jsonl")
    model = deepcopy(tiny_lm("gpt2"))
    model.transformer.h[0].attn.c_attn.weight.data += 0.01
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match=r"seed1 was .*: model_fingerprint was .* Restore the model"):
        again()


def test_circuits_of_any_selection_are_cut_to_live_edges(home):
    """`top_n_raw` counts before it prunes: its budget of 60 is a circuit of fewer live edges."""
    wanted = ["attribution.method=random", "verify.selection=top_n_raw", "verify.sizes=[0.1,0.55]"]
    found = stability(config_of(home, "raw", *wanted), 2, attributes=True, say=lambda _: None)
    group = found.groups["seed"]
    runs = [load_run(home / "raw" / run.folder) for run in group.runs]
    for run in runs:
        assert 0 < run.n_edges < 60 and torch.equal(run.cut(run.n_edges), run.mask)
        sizes = {n: int(run.cut(n).sum()) for n in (1, 5, 20, 60)}
        assert all(size <= n for n, size in sizes.items())
        assert list(sizes.values()) == sorted(sizes.values()) and sizes[60] > 50
    assert group.overlap.fewest_edges > 0.7 * group.n_edges


def test_a_study_of_empty_circuits_is_refused_and_some_empty_ones_are_told(home, monkeypatch):
    config = config_of(home, "empty", "attribution.method=eap")
    cut, some = Found.cut, {"empty/seed0", "empty/seed1", "empty/seed2"}

    def emptied(run, n_edges):
        mask = cut(run, n_edges)
        return torch.zeros_like(mask) if run.name[-len("empty/seed0") :] in some else mask

    monkeypatch.setattr(Found, "cut", emptied)
    with pytest.raises(RunError, match=r"all 3 runs .* are empty at .* give a larger --size"):
        stability(config, 3, attributes=True, say=lambda _: None)
    some.remove("empty/seed0")
    group = stability(config, 3, attributes=True, say=lambda _: None).groups["seed"]
    assert group.jaccard.edges == ((1.0, 0.0, 0.0), (0.0, None, None), (0.0, None, None))
    assert group.overlap.edges.mean == 0 and group.overlap.n_empty == 2
    assert "2 of the 3 circuits kept no edge" in group.sentence
    strict(home / "empty" / "stability.json")


def test_without_unseen_pairs_nothing_is_verified(home, tmp_path):
    rows = [json.dumps(row) for row in pair_rows()[:44]]  # all of them are trained on by some run
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n")
    sizes = ["task.n_train=36", "task.n_val=0", "task.n_test=4", "task.seed=1"]
    config = config_of(home, "few", f"task.path={tmp_path / 'few.jsonl'}", *sizes)
    found = stability(config, 5, attributes=True, say=lambda _: None)
    assert found.n_pairs == 0
    assert found.groups["seed"].measured == {}
    assert "none was verified" in found.groups["seed"].sentence


def test_the_command_takes_overrides_on_both_sides_of_its_options(home, capsys):
    arguments = [str(home / "run.yaml"), *settings(home)]
    late = ["attribution.method=eap", f"output_dir={home / 'typed'}"]
    options = ["--attribute", "--seeds", "2", "--size", "0.2"]
    assert main(["stability", *arguments, *options, *late]) == 0
    out = capsys.readouterr().out
    assert "# Stability of jsonl" in out and "Attributed by eap 2 times" in out
    found = strict(home / "typed" / "stability.json")
    assert found["groups"]["seed"]["n_edges"] == int(0.2 * found["n_edges_total"])
    assert main(["stability", *arguments, "--seeds", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["stability", *arguments, "--seeds", "2", "word"])
