"""Circuits compared: set algebra, the transfer matrix cell by cell, activations across models."""

import json
import shutil
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import reference
import torch
from conftest import build_tiny_model, random_batch
from json_schema import fits
from tiny import pair_rows, quick_config, save_model, save_pairs, tiny_lm, tokenizer

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.reachability import live_edges
from circuitprune.cli import main
from circuitprune.data.pairs import Batch
from circuitprune.engine.evaluation import evaluate, evaluate_full
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import silent
from circuitprune.errors import GraphError, RunError
from circuitprune.evidence.baselines import AmongRandom, among_random, draw_baselines, flat
from circuitprune.evidence.bootstrap import Interval
from circuitprune.files.records import from_json, to_json
from circuitprune.files.whole import read_json
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.patching.across_models import cross_patched
from circuitprune.pipelines import compare as module
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.compare import compare
from circuitprune.pipelines.setup import make_setup
from circuitprune.runs.finished import load_found
from circuitprune.runs.manifest import seal
from circuitprune.runs.studies import Comparison
from circuitprune.views.pages.studies import compare_page

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's and transformers' advice
FAMILIES = ["gpt2", "gpt_neox", "llama", "gemma2"]


def quiet(_: str) -> None:
    """Says nothing."""


# ---------------------------------------------------------------- activations across models


def donor_of(family: str):
    """Another model of the same sizes."""
    donor = deepcopy(build_tiny_model(family))
    generator = torch.Generator().manual_seed(99)
    for parameter in donor.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = parameter.data + 0.1 * noise
    return donor


def pairs_of(lengths: list[int]) -> Batch:
    b = random_batch(lengths, seed=5)
    n = len(lengths)
    answers, wrong = torch.arange(3, 3 + n)[:, None], torch.arange(20, 20 + n)[:, None]
    return Batch(torch.arange(n), b.clean, b.corrupt, b.mask, b.last, answers, wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_cross_patched_is_the_slow_reference(family):
    host, donor, batch = build_tiny_model(family), donor_of(family), pairs_of([9, 7, 6])
    gated = GatedModel(host)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(gated.graph.n_edges, generator=generator) < 0.3
    calls = []
    arguments = (gated, GatedModel(donor), {"some": mask}, [batch], logit_diff)
    found = cross_patched(*arguments, lambda *told: calls.append(told))["some"]
    assert calls == [(1, 1)]

    written = reference.writers(donor, family, batch.clean, batch.mask)
    gates = {name: float(not kept) for name, kept in zip(gated.graph.edges, mask, strict=True)}
    logits = reference.gated_logits(host, family, batch.clean, batch.mask, gates, written)
    logits = reference.at_last(logits, batch.last)
    target = reference.at_last(reference.plain_logits(donor, batch.clean, batch.mask), batch.last)
    tolerance = dict(rtol=1e-5, atol=1e-5)
    expected = logit_diff(logits, batch)
    torch.testing.assert_close(found.metric, expected, **tolerance)
    torch.testing.assert_close(found.kl, kl_divergence(target, logits), **tolerance)
    assert found.exact_match.tolist() == (logits.argmax(1) == target.argmax(1)).double().tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_heads_edges_are_a_patch_of_its_output_and_none_the_host_itself(family):
    host, donor, batch = build_tiny_model(family), donor_of(family), pairs_of([9, 9, 6])
    gated = GatedModel(host)
    head = gated.graph.writer_index("a1.h2")
    masks = {
        "none": torch.zeros(gated.graph.n_edges, dtype=torch.bool),
        "head": gated.graph.edge_writer == head,
    }
    found = cross_patched(gated, GatedModel(donor), masks, [batch], logit_diff)
    theirs = reference.writers(donor, family, batch.clean, batch.mask)["a1.h2"]
    logits = {
        "none": reference.plain_logits(host, batch.clean, batch.mask),
        "head": reference.patched_logits(host, family, batch.clean, batch.mask, "a1.h2", theirs),
    }
    for name, whole in logits.items():
        at_last = reference.at_last(whole, batch.last)
        expected = logit_diff(at_last, batch)
        torch.testing.assert_close(found[name].metric, expected, rtol=1e-5, atol=1e-5)


def test_models_of_other_sizes_are_refused():
    host, donor = (GatedModel(build_tiny_model(family)) for family in ("gpt2", "llama"))
    with pytest.raises(GraphError, match="equal sizes"):
        cross_patched(host, donor, {}, [pairs_of([9])], logit_diff)


# ---------------------------------------------------------------- three runs: two tasks, two models


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Runs `one`, `two` (another task) and `tuned` (the task of `one`, another model)."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    changed = [{**row, "answers": row["wrong"], "wrong": row["answers"]} for row in pair_rows()]
    for row in changed:
        row["clean"], row["corrupt"] = row["corrupt"], row["clean"]
    text = "\n".join(json.dumps({**row, "clean": row["clean"]}) for row in changed[::-1])
    (folder / "other.jsonl").write_text(text + "\n")
    tuned = deepcopy(tiny_lm("gpt2"))
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(folder / "tuned_model")
    tokenizer().save_pretrained(folder / "tuned_model")
    (folder / "run.yaml").write_text("# all settings come from the command line\n")
    make(folder, "one", "attribution.method=eap")
    make(
        folder,
        "two",
        "attribution.method=eap",
        f"task.path={folder / 'other.jsonl'}",
        "task.seed=1",
    )
    make(folder, "tuned", "attribution.method=eap", f"model.name={folder / 'tuned_model'}")
    return folder


def make(home: Path, name: str, *overrides: str) -> None:
    attribute(quick_config(home, *overrides, f"output_dir={home / name}"), quiet)


PIECES: set[tuple[bool, str, str]] = set()
"""What `compared` showed of its work: whether it was wanted, the work and its unit."""


@pytest.fixture(scope="module")
def compared(home) -> Comparison:
    @contextmanager
    def shown(show):
        yield lambda what, unit: PIECES.add((show, what, unit)) or silent

    with pytest.MonkeyPatch.context() as patch:
        for module in ("compare", "cross_model"):
            patch.setattr(f"circuitprune.pipelines.{module}.shown", shown)
        paths = [home / name for name in ("one", "two", "tuned")]
        return compare(paths, transfer=True, size=0.2, n_random=3, folder=home / "out", say=quiet)


def test_transfer_and_patching_are_shown_if_the_runs_were(home, compared):
    models = {(False, f"loading {home / name}", "weights") for name in ("model", "tuned_model")}
    work = {(False, "transfer", "runs"), (False, "cross-model patching", "runs")}
    assert models | work == PIECES


def test_parts_are_set_algebra_of_the_names(home, compared):
    written = read_json(home / "out" / "compare.json", checked=True)
    assert from_json(Comparison, written) == compared and fits(written, "Comparison")
    names = [str(home / name) for name in ("one", "two", "tuned")]
    found = {name: load_found(name) for name in names}
    n_edges = compared.n_edges
    assert n_edges == int(0.2 * compared.n_edges_total)
    circuits = {name: Circuit(one.graph, one.cut(n_edges)) for name, one in found.items()}
    for name, circuit in circuits.items():
        file = Circuit.load(Path(name) / "circuits" / f"{circuit.n_edges}.json")
        assert set(file.edges) == set(circuit.edges)
        others = [other for key, other in circuits.items() if key != name]
        alone = compared.private[name]
        assert set(alone.edges) == set(circuit.edges) - set().union(*(o.edges for o in others))
        assert set(alone.nodes) == set(circuit.nodes) - set().union(*(o.nodes for o in others))
    shared = [set(circuit.edges) for circuit in circuits.values()]
    assert set(compared.core.edges) == set.intersection(*shared)
    assert set(compared.core.nodes) == set.intersection(
        *(set(circuit.nodes) for circuit in circuits.values())
    )


def test_every_cell_of_the_matrix_is_an_exact_verification_on_unseen_pairs(home, compared):
    names = {name: str(home / name) for name in ("one", "two", "tuned")}
    setups = {name: make_setup(load_found(path).config) for name, path in names.items()}
    trained = [e.pair for setup in setups.values() for e in setup.data.splits["train"]]
    prompts = {p.clean for p in trained}
    both = {frozenset((p.clean, p.corrupt)) for p in trained}
    cells = {(c.circuit, c.on): c for c in compared.transfer.cells}
    assert len(cells) == 9
    for on, setup in setups.items():
        held_out = setup.data.splits["test"]
        pairs = [(e, frozenset((e.pair.clean, e.pair.corrupt))) for e in held_out]
        unseen = [e for e, pair in pairs if e.pair.clean not in prompts and pair not in both]
        assert 0 < len(unseen) < len(held_out)
        setup.data.splits["test"] = unseen
        fresh = make_references(setup)
        batches = setup.data.batches("test", 5)
        for name, path in names.items():
            found = load_found(path)
            masks = {"it": found.cut(compared.n_edges)}
            masks["empty"] = torch.zeros_like(masks["it"])
            evidence = evaluate(fresh, masks, batches, setup.task_metric)
            full = evaluate_full(fresh, batches, setup.task_metric)
            expected = evidence["it"].against(full, evidence["empty"])
            cell = cells[path, names[on]]
            assert cell.n == len(unseen)
            for key in ("kl", "metric", "accuracy"):
                assert getattr(cell, key) == pytest.approx(
                    getattr(expected, key), rel=1e-3, abs=1e-5
                ), (
                    name,
                    on,
                )
            assert cell.faithfulness.value == pytest.approx(
                expected.faithfulness, rel=1e-3, abs=1e-5
            )


def make_references(setup):
    """Without a cache, which knows pairs by ids that the test has moved."""
    return type(setup.references)(setup.gated, setup.references.ablation, max_gb=0.0)


def test_specificity_averages_over_other_tasks_only(home, compared):
    one, two, tuned = (str(home / name) for name in ("one", "two", "tuned"))
    cells = {(c.circuit, c.on): c for c in compared.transfer.cells}
    rows = {row.circuit: row for row in compared.specificity}

    def value(circuit, on):
        return cells[circuit, on].faithfulness.value

    assert rows[one].own == value(one, one)
    assert rows[one].others == value(one, two)  # `tuned` is of the same task
    assert rows[two].others == pytest.approx((value(two, one) + value(two, tuned)) / 2)
    assert rows[two].difference == pytest.approx(rows[two].own - rows[two].others)
    assert (rows[one].n_other_tasks, rows[two].n_other_tasks) == (1, 2)
    chance = [cells[two, on].random["uniform"].mean for on in (one, tuned)]
    assert rows[two].random_on_others["uniform"] == pytest.approx(sum(chance) / 2)


def test_models_of_one_task_are_patched_both_ways(home, compared):
    one, tuned = str(home / "one"), str(home / "tuned")
    cross = compared.cross_model
    assert [(c.host, c.donor) for c in cross] == [(one, tuned), (tuned, one)]
    forth, back = cross
    assert forth.host_alone.metric == pytest.approx(back.donor_alone.metric, rel=1e-4)
    assert forth.donor_alone.metric == pytest.approx(back.host_alone.metric, rel=1e-4)
    for row in forth.patched:
        start, end = forth.host_alone.metric, forth.donor_alone.metric
        expected = (row.metric - start) / (end - start)
        assert row.recovered.value == pytest.approx(expected, rel=1e-6)
    assert forth.donor_alone.kl == 0 and forth.host_alone.kl > 0


def test_the_page_shows_every_part(compared):
    text = compare_page(compared)
    for word in ("Jaccard", "faithfulness", "specificity", "activations of the model of 3"):
        assert word in text
    assert "nan" not in text.lower()


def test_baselines_have_the_size_and_places_count_those_beaten(home):
    found = load_found(home / "one")
    masks = {"x": found.cut(22)}
    baselines = draw_baselines(found.graph, masks, 4)
    for mask in flat(baselines).values():
        assert mask.sum() == masks["x"].sum() and torch.equal(live_edges(found.graph, mask), mask)
    values = dict(zip(flat(baselines), [0.1, 0.2, None, 0.6, 1.0, 2.0, 3.0, 4.0], strict=True))
    shares = {name: Interval(v, None, None) for name, v in {**values, "x": 0.5}.items()}
    places = among_random(shares.__getitem__, "x", baselines)
    easy = places["uniform"]
    assert (easy.n, easy.mean, easy.beaten) == (3, pytest.approx(0.3), pytest.approx(2 / 3))
    assert places["relabelled"] == AmongRandom(4, 2.5, 0.0)


def test_a_comparison_that_was_cut_short_goes_on(home, compared, tmp_path, monkeypatch):
    """Columns that are done are kept, and gone when all are; no other sizes are taken."""
    paths, honest, made = [home / name for name in ("one", "two", "tuned")], module._cells, []

    def cells(name, *rest):
        made.append(Path(name).name)
        if stops_at == name:
            raise KeyboardInterrupt
        return honest(name, *rest)

    def again(size: float = 0.2) -> Comparison:
        made.clear()
        return compare(paths, transfer=True, size=size, n_random=3, folder=tmp_path, say=quiet)

    monkeypatch.setattr(module, "_cells", cells)
    stops_at = str(home / "two")
    for size in (0.1, 0.2):
        with pytest.raises(KeyboardInterrupt):
            again(size)
        assert made == ["one", "two"]
        assert [path.name for path in (tmp_path / "columns").iterdir()] == ["0.json"]
    stops_at = None
    assert to_json(again()) == to_json(compared) and made == ["two", "tuned"]
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


# ---------------------------------------------------------------- files, and what is refused


def test_files_are_cut_within_their_own_edges(home, tmp_path):
    run = load_found(home / "one")
    whole = Circuit.load(home / "one" / "circuits" / "55.json")
    Circuit(whole.graph, whole.mask, -whole.ranking.double()).save(tmp_path / "theirs.json")
    bare = Circuit(whole.graph, run.cut(10))
    bare.save(tmp_path / "bare.json")
    theirs = load_found(tmp_path / "theirs.json")  # by magnitude: no word that it is a ranking
    assert torch.equal(theirs.cut(22) & whole.mask, theirs.cut(22))
    result = compare([home / "one", tmp_path / "theirs.json", tmp_path / "bare.json"])
    assert result.n_edges == bare.n_edges
    assert "transfer" not in to_json(result)


def test_a_circuit_without_scores_is_not_cut(home, tmp_path):
    run = load_found(home / "one")
    Circuit(run.graph, run.cut(40)).save(tmp_path / "bare.json")
    found = load_found(tmp_path / "bare.json")
    found = type(found)(found.name, found.graph, found.mask, None)
    with pytest.raises(GraphError, match="no scores"):
        found.cut(5)


@pytest.mark.parametrize("case", ["one", "twice", "unfinished", "file", "there", "graph", "empty"])
def test_what_cannot_be_compared_is_refused(home, tmp_path, case):
    run, other = home / "one", home / "two"
    file = next((home / "one" / "circuits").iterdir())
    small = tmp_path / "small.json"
    Circuit.from_names(type(load_found(run).graph)(1, 2, 2), ["input->logits"]).save(small)
    graph = load_found(run).graph
    Circuit(graph, torch.zeros(graph.n_edges, dtype=torch.bool)).save(tmp_path / "empty.json")
    (tmp_path / "compare.json").write_text("{}")
    paths, options, word = {
        "one": ([run], {}, "two or more"),
        "twice": ([run, run], {}, "different"),
        "unfinished": ([run, tmp_path], {}, "not a finished run"),
        "file": ([run, file], {"transfer": True}, "is a file"),
        "there": ([run, other], {"folder": tmp_path}, "exists"),
        "graph": ([run, small], {}, "one graph"),
        "empty": ([run, tmp_path / "empty.json"], {}, r"empty\.json keeps no edge"),
    }[case]
    with pytest.raises((RunError, GraphError), match=word):
        compare(paths, say=quiet, **options)


@pytest.mark.parametrize("key", ["model_fingerprint", "pairs_hash"])
def test_a_run_of_a_changed_model_or_of_changed_pairs_is_refused(home, tmp_path, key):
    stale = shutil.copytree(home / "one", tmp_path / "stale")
    frontier = json.loads((stale / "frontier.json").read_text())
    was, frontier[key] = frontier[key], "0" * 16
    (stale / "frontier.json").write_text(json.dumps(frontier))
    seal(stale)  # made so, not edited
    with pytest.raises(RunError, match=f"stale was made with .* {key} was 0{{16}} and is {was}"):
        compare([home / "two", stale], transfer=True, n_random=1, say=quiet)


def test_the_command_prints_the_page(home, capsys, tmp_path):
    arguments = ["compare", str(home / "one"), str(home / "two"), "--output-dir", str(tmp_path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "shared (Jaccard)" in out and (tmp_path / "compare.json").exists()
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
