"""The evidence for a run: whole, resumed, the same again, and refused where it would mislead."""

import json
import re
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from json_schema import fits
from tiny import quick_config, save_model, save_pairs, tiny_lm, tokenizer

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.cli import main, script_main
from circuitprune.errors import ConfigError, GraphError, MetricError, RunError
from circuitprune.evidence import EVIDENCE
from circuitprune.evidence.results import NotComputed, Sections
from circuitprune.files.records import from_json, to_json
from circuitprune.files.whole import read_json
from circuitprune.pipelines import verify
from circuitprune.pipelines.attribute import attribute
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.pipelines.verify_config import EvidenceConfig, load_options
from circuitprune.runs.finished import read_frontier
from circuitprune.runs.manifest import seal
from circuitprune.runs.verification import Verification
from circuitprune.views import progress
from circuitprune.views.pages.verification import page
from circuitprune.views.report.data import report_data
from pipelines.test_train import strict

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's and transformers' advice
SMALL = ["n_bootstrap=30", "n_random=3", "n_knockouts=2", "n_adversarial=2", "progress=false"]
QUICK = [*SMALL, "sections=[faithfulness,minimality]"]
GRAPH = Graph(2, 4, 4, d_model=32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    part = "verify.sizes=[0.05,0.2,0.5]"  # of a circuit of every edge some evidence says nothing
    attribute(quick_config(folder, "attribution.method=eap", part), say=lambda _: None)
    return folder


@pytest.fixture
def run(home, tmp_path):
    """A copy of the run without evidence; its config still names the model and pairs of `home`."""
    return shutil.copytree(home / "run", tmp_path / "run")


def gather(run, *overrides, **options):
    said = []
    found = verify_run(run, [*QUICK, *overrides], say=said.append, **options)
    return found, said


def reused(said):
    return [line.split(":")[0] for line in said if "found in" in line]


def spied(monkeypatch, fail_in=None, error=KeyboardInterrupt):
    """Names of sections as they are computed; one of them may fail."""
    computed = []

    def kind(name):
        def section(case):
            computed.append(name)
            if name == fail_in:
                raise error("no")
            return EVIDENCE[name](case)

        return section

    monkeypatch.setattr(verify, "EVIDENCE", {name: kind(name) for name in EVIDENCE})
    return computed


# ---------------------------------------------------------------- where things lie


def test_a_run_made_with_relative_names_is_verified_from_another_folder(
    home, tmp_path, monkeypatch
):
    """`model` there is no folder here: it must not be taken for a hub id."""
    near = ["model.name=model", "task.path=pairs.jsonl", "attribution.method=eap"]
    monkeypatch.chdir(home)
    attribute(quick_config(home, *near, f"output_dir={tmp_path / 'run'}"), say=lambda _: None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, _ = gather(tmp_path / "run", "sections=[mib]")
    assert found.run["model"] == "model" and found.sections.mib.sentence


# ---------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """A run with all its evidence, and what `verify_run` returned."""
    folder = shutil.copytree(home / "run", tmp_path_factory.mktemp("whole") / "run")
    return folder, verify_run(folder, SMALL, say=lambda _: None, minimise=True)


def test_the_report_shows_the_evidence(whole):
    text = (whole[0] / "report.html").read_text()
    (data,) = re.findall(r'type="application/json">(.*?)</script>', text)
    assert json.loads(data)["evidence"] == to_json(whole[1])


def test_every_section_is_there_in_json_and_on_the_page(whole):
    folder, found = whole
    assert from_json(Verification, read_json(folder / "verification.json", checked=True)) == found
    assert [name for name, _ in found.sections.items()] == [*EVIDENCE, "minimise"]
    text = (folder / "verification.md").read_text()
    for name, section in found.sections.items():
        assert section.sentence and not isinstance(section, NotComputed), name
        assert strict(folder / "evidence" / f"{name}.json")["result"] == to_json(section)
    assert text.count("\n## ") == len(EVIDENCE) + 1
    assert text == page(found)


def test_every_file_fits_the_schema(whole):
    folder, found = whole
    assert fits(read_json(folder / "verification.json", checked=True), "Verification")
    assert fits(strict(folder / "frontier.json"), "FrontierFile")
    assert fits(strict(folder / "pairs.json"), "ExamplePairs")
    for name, section in found.sections.items():
        written = strict(folder / "evidence" / f"{name}.json")["result"]
        assert fits(written, type(section).__name__)


def test_an_edited_number_is_shown_by_no_report(run):
    gather(run, "sections=[faithfulness]")
    text = (run / "verification.json").read_text()
    (run / "verification.json").write_text(text.replace('"value": 0.', '"value": 1.', 1))
    with pytest.raises(RunError, match=r"verification\.json is not as it was written"):
        report_data([run])


def test_the_head_says_what_was_tested(run):
    found, _ = gather(run)
    frontier, _ = read_frontier(run)
    mask = frontier.chosen().mask
    assert found.circuit.n_edges == int(mask.sum())
    assert found.circuit.file == f"circuits/{int(mask.sum())}.json"
    assert found.n_pairs == 20 and found.n_train_pairs == 24
    assert found.run["ablation"] == "patch" and found.options.n_random == 3
    evidence = frontier.chosen().evidence
    measured = found.sections.faithfulness.circuit
    for name in ("kl", "metric", "accuracy", "exact_match", "faithfulness"):
        expected = pytest.approx(getattr(evidence, name), rel=1e-5, abs=1e-6)
        assert getattr(measured, name).value == expected


def test_a_trained_run_is_verified_by_its_learned_ranking(home, tmp_path, monkeypatch):
    discover(quick_config(home, f"output_dir={tmp_path / 'run'}"), say=lambda _: None)
    cases = []
    monkeypatch.setattr(verify, "gather", lambda _, case, *__: cases.append(case) or Sections())
    gather(tmp_path / "run")
    _, ranking = read_frontier(tmp_path / "run")
    assert cases[0].scores is None and torch.equal(cases[0].ranking, ranking)
    assert set(cases[0].sizes) == {0.05, 0.2, 0.5, 1.0}


def test_an_attribution_brings_its_signed_scores(run, monkeypatch):
    cases = []
    monkeypatch.setattr(verify, "gather", lambda _, case, *__: cases.append(case) or Sections())
    gather(run)
    assert bool((cases[0].scores < 0).any()) and torch.equal(
        cases[0].scores.abs(), cases[0].ranking
    )


def test_the_same_bytes_from_the_same_seed(whole, run):
    verify_run(run, SMALL, say=lambda _: None, minimise=True)
    for name in ("verification.json", "verification.md", "circuits/minimal.json"):
        assert (run / name).read_bytes() == (whole[0] / name).read_bytes(), name


def test_another_seed_draws_other_resamples(whole, run):
    found, _ = gather(run, "seed=1")
    ours, theirs = (f.sections.faithfulness.circuit.kl for f in (found, whole[1]))
    assert ours.value == theirs.value and ours.low != theirs.low


def test_minimise_writes_a_smaller_circuit_with_what_was_measured(run):
    found, _ = gather(run, "tolerance=0.05", minimise=True)
    section = found.sections.minimise
    circuit = Circuit.load(run / "circuits" / "minimal.json", GRAPH)
    assert circuit.edges == section.edges
    assert circuit.n_edges < found.circuit.n_edges == circuit.provenance["minimised_from"]
    assert circuit.provenance["evidence"] == to_json(section.after)
    again, _ = gather(run, circuit=run / "circuits" / "minimal.json")
    assert again.circuit.n_edges == circuit.n_edges
    kl = again.sections.faithfulness.circuit.kl.value
    assert kl == pytest.approx(section.after.kl)


# ---------------------------------------------------------------- going on


def test_a_run_that_was_cut_short_goes_on(run, monkeypatch):
    with monkeypatch.context() as patch:
        computed = spied(patch, fail_in="minimality")
        with pytest.raises(KeyboardInterrupt):
            gather(run)
        assert computed == ["faithfulness", "minimality"]
    assert not (run / "verification.json").exists()
    with monkeypatch.context() as patch:
        computed = spied(patch)
        found, said = gather(run)
        assert computed == ["minimality"] and reused(said) == ["faithfulness"]
    shutil.rmtree(run / "evidence")
    assert gather(run)[0] == found


def test_a_section_gathered_alone_has_the_bytes_of_all_together(run):
    """What an interrupted command left out meets other reference runs in the memory, or none."""
    wanted = "sections=[faithfulness,rivals,clusters,hypotheses]"
    gather(run, wanted)
    whole = {path: path.read_bytes() for path in (run / "evidence").glob("*.json")}
    for path, data in whole.items():
        path.unlink()
        gather(run, wanted)
        assert path.read_bytes() == data, path.name


@pytest.mark.parametrize("change", ["seed=1", "tolerance=0.5", "verify.batch_size=7", "threads=2"])
def test_sections_of_other_settings_are_computed_again(run, change):
    gather(run)
    assert reused(gather(run)[1]) == ["faithfulness", "minimality"]
    assert reused(gather(run, change)[1]) == []


def test_sections_of_another_circuit_are_computed_again(run):
    gather(run)
    found, said = gather(run, circuit=run / "circuits" / "5.json")
    assert reused(said) == [] and found.circuit.file == "5.json"
    assert found.sections.minimality.n_edges == 5


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"identity": 1, "result": {}}', "{"])
def test_a_damaged_section_is_computed_again(run, content):
    found, _ = gather(run)
    (run / "evidence" / "minimality.json").write_text(content)
    again, said = gather(run)
    assert again == found and reused(said) == ["faithfulness"]


def test_a_section_with_an_edited_number_is_computed_again(run):
    first, _ = gather(run, "sections=[faithfulness]")
    path = run / "evidence" / "faithfulness.json"
    found = strict(path)
    found["result"]["sizes"][0]["kl"]["value"] = 0.5
    path.write_text(json.dumps(found))
    again, said = gather(run, "sections=[faithfulness]")
    assert again == first and reused(said) == []


def test_a_section_that_is_undefined_says_why_and_is_not_kept(run, monkeypatch):
    with monkeypatch.context() as patch:
        spied(patch, fail_in="faithfulness", error=MetricError)
        found, _ = gather(run)
    assert found.sections.faithfulness.error == "no"
    assert "Not computed: no" in (run / "verification.md").read_text()
    assert reused(gather(run)[1]) == ["minimality"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("n_bootstrap=0", "n_bootstrap must lie in 1 to a million"),
        ("tolerance=-1", "tolerance must be >= 0"),
        ("tolerance=nan", "tolerance=nan is not a finite number"),
        ("sections=[minimal]", "did you mean 'minimality'"),
        ("seeed=1", "seeed"),
        ("n_random=many", "many"),
        ("sections=[a", "while parsing"),
        ("seed", "key=value"),
        ("seed=${oops}", "seed: interpolations"),
        ("task.seed=1", "task.seed is a setting of the run"),
        ("ablation=zero", "ablation"),
    ],
)
def test_bad_options_are_refused(override, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_options([override])


def test_options_come_in_the_order_of_the_evidence():
    options, of_run = load_options(["sections=[minimality,faithfulness]", "train.device=cpu"])
    assert options.sections == ["faithfulness", "minimality"] and of_run == ["train.device=cpu"]
    assert load_options([])[0].sections == list(EVIDENCE)
    assert load_options([])[0].n_bootstrap == EvidenceConfig().n_bootstrap >= 1000


def test_folders_that_are_no_finished_run_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="no config"):
        gather(tmp_path)
    (run / "COMPLETE").unlink()
    with pytest.raises(RunError, match="COMPLETE missing"):
        gather(run)


@pytest.mark.parametrize("part", ["wte", "h.0.attn.c_attn", "h.1.mlp.c_fc"])
def test_another_model_is_refused_whichever_weight_differs(run, tmp_path, part):
    model = deepcopy(tiny_lm("gpt2"))
    model.transformer.get_submodule(part).weight.data += 0.001
    model.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(RunError, match=r"another model .* or run again"):
        gather(run, f"model.name={tmp_path / 'other'}")
    assert not (run / "evidence").exists()


@pytest.mark.parametrize("change", ["order", "corrupt"])
def test_other_pairs_are_refused(run, home, tmp_path, change):
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    if change == "order":
        rows = rows[::-1]
    else:  # the full model's metric, on the clean prompts, stays as it was
        for row in rows:
            row["corrupt"] = row["corrupt"].replace("and then", "then and")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "others.jsonl").write_text(text)
    with pytest.raises(RunError, match="the pairs are not those of the run"):
        gather(run, f"task.path={tmp_path / 'others.jsonl'}")
    assert not (run / "evidence").exists()


def test_pairs_may_lie_elsewhere_under_other_ids(run, home, tmp_path):
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**row, "id": f"my-{i}"}) + "\n" for i, row in enumerate(rows))
    (tmp_path / "moved.jsonl").write_text(text)
    before, _ = gather(run)
    found, said = gather(run, f"task.path={tmp_path / 'moved.jsonl'}")
    assert found == before and reused(said) == ["faithfulness", "minimality"]


def test_a_full_model_that_does_something_else_is_refused(run):
    frontier = json.loads((run / "frontier.json").read_text())
    frontier["full"]["metric"] += 0.1
    (run / "frontier.json").write_text(json.dumps(frontier))
    seal(run)  # it was not edited, but the model has changed
    with pytest.raises(RunError, match="model and pairs are those of the run, but"):
        gather(run)


def test_circuits_that_cannot_be_verified_are_refused(run, tmp_path):
    empty, other = tmp_path / "empty.json", tmp_path / "other.json"
    Circuit(GRAPH, torch.zeros(GRAPH.n_edges, dtype=torch.bool)).save(empty)
    Circuit.from_names(Graph(1, 2, 2), ["input->logits"]).save(other)
    with pytest.raises(RunError, match="keeps no edge"):
        gather(run, circuit=empty)
    with pytest.raises(GraphError):
        gather(run, circuit=other)
    with pytest.raises(RunError, match=r"absent\.json"):
        gather(run, circuit=tmp_path / "absent.json")


# ---------------------------------------------------------------- command and page


def test_the_command_prints_the_page(run, capsys):
    assert main(["verify", str(run), *QUICK]) == 0
    assert (run / "verification.md").read_text() in capsys.readouterr().out


def test_a_pipe_hears_of_every_section(run, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    sections = "sections=[faithfulness,minimality]"
    verify_run(run, [*SMALL, sections, "progress=true"], minimise=True, say=lambda _: None)
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split(":")[0] for line in lines}
    kept = read_frontier(run)[0].chosen().mask.sum()
    wanted = {"1/3 faithfulness", "2/3 minimality", f"3/3 minimise, {kept} of {kept} edges left"}
    assert wanted | {"self-check"} <= shown
    verify_run(run, [*SMALL, sections, "seed=1"], say=lambda _: None)
    assert capsys.readouterr().out == ""


def test_the_command_says_what_is_wrong_without_a_traceback(run, tmp_path, capsys):
    for arguments, code in (([str(tmp_path)], 2), ([str(run), "seed=x"], 2)):
        assert script_main("verify", arguments) == code
        shown = capsys.readouterr().err
        assert shown.startswith("error:") and "Traceback" not in shown


def test_ctrl_c_says_how_to_go_on(run, monkeypatch, capsys):
    spied(monkeypatch, fail_in="minimality")
    assert main(["verify", str(run), *QUICK]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_the_page_gives_verdicts_and_breaks_on_no_name(run):
    found, _ = gather(run)
    minimality = found.sections.minimality
    edge, *others = minimality.edges
    edges = (replace(edge, edge="input->a0.h1<q>"), *others)
    sections = replace(found.sections, minimality=replace(minimality, verdict="fail", edges=edges))
    found = replace(found, run={**found.run, "task": "a | <b>\n# c"}, sections=sections)
    text = page(found)
    assert text.splitlines()[0] == r"# Evidence for a circuit of a \| \<b> # c in " + str(
        found.run["model"]
    )
    assert "| Minimality | **fails** | 20 |" in text and "| `input->a0.h1<q>` |" in text
    assert "held-out test pairs" in text
    found = replace(found, run={**found.run, "split": "train"})
    assert "pairs that it was found on" in page(found)


def test_one_pair_judges_nothing(home, tmp_path):
    """An interval of no width would pass or fail whatever it is asked."""
    one = tmp_path / "one.jsonl"
    one.write_text("".join((home / "pairs.jsonl").read_text().splitlines(keepends=True)[:1]))
    chosen = [f"task.path={one}", "task.n_train=1", "task.n_val=0", "task.n_test=0"]
    config = quick_config(home, *chosen, f"output_dir={tmp_path / 'one'}", "task.min_accuracy=0")
    attribute(config, say=lambda _: None)
    kinds = "sections=[faithfulness,minimality,completeness,random_circuits]"
    found = verify_run(tmp_path / "one", [*SMALL, kinds], say=lambda _: None).sections
    for section in (found.faithfulness, found.minimality, found.completeness):
        assert getattr(section, "verdict", "undecided") == "undecided", section
    assert "of one pair" in (tmp_path / "one" / "verification.md").read_text()
    assert "the 1 pair that it was found on" in (tmp_path / "one" / "verification.md").read_text()


def test_a_file_of_another_model_is_refused(run, tmp_path):
    circuit = Circuit.load(next((run / "circuits").glob("*.json")))
    about = {**circuit.provenance, "model_fingerprint": "another"}
    replace(circuit, provenance=about, as_read=None).save(tmp_path / "theirs.json")
    with pytest.raises(RunError, match="of another model: its model_fingerprint is another"):
        gather(run, "sections=[faithfulness]", circuit=tmp_path / "theirs.json")


def test_what_a_file_says_of_itself_and_its_dangling_edges_are_told(run, tmp_path):
    """It is judged by its live edges, and not taken for a circuit of this run."""
    small = min((run / "circuits").glob("*.json"), key=lambda path: int(path.stem))
    circuit = Circuit.load(small)
    dead = next(
        edge
        for edge in range(circuit.graph.n_edges)
        if not circuit.mask[edge] and not live_edges(circuit.graph, with_edge(circuit, edge))[edge]
    )
    about = {**circuit.provenance, "ablation": "mean"}
    given = replace(circuit, mask=with_edge(circuit, dead), provenance=about, as_read=None)
    given.save(tmp_path / "given.json")
    kinds = "sections=[faithfulness]"
    found, said = gather(run, kinds, circuit=tmp_path / "given.json")
    assert found.circuit.n_edges == circuit.n_edges and found.circuit.n_dangling == 1
    assert found.circuit.says == {"ablation": "mean"}
    assert "1 more in the file lie on no path" in said[0] and "ablation mean" in said[0]
    assert "the file says of itself: ablation mean" in (run / "verification.md").read_text()


def with_edge(circuit, edge):
    mask = circuit.mask.clone()
    mask[edge] = True
    return mask
