"""Runs whose gates stand on parts at spans, and at each token, from a config to a report."""

import csv
import json
from pathlib import Path

import pytest
from tiny import pair_rows, quick_config, save_model, save_pairs, tiny_lm, tokenizer

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.part_spans import PartSpanGraph
from circuitprune.cli import main
from circuitprune.config import AttributionConfig, GatesConfig, RunConfig, VerifyConfig
from circuitprune.data.tasks import Pair
from circuitprune.errors import ConfigError, DataError
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.finished import load_found
from circuitprune.views.report.data import report_data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("part_spans")
    save_model(folder / "model", "llama")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def learned(home: Path) -> Path:
    """A finished run of training on neurons at spans."""
    discover(quick_config(home, "level=neuron", "spans=difference"), say=lambda _: None)
    return home / "run"


def test_neurons_at_spans_are_learned_verified_and_written(learned: Path) -> None:
    graph = load_found(learned).graph
    assert isinstance(graph, PartSpanGraph) and graph.level == "neuron"
    at = {
        name: int(n)
        for name, n in zip(
            (span.name for span in graph.spans), graph.exists.sum(dim=0), strict=True
        )
    }
    assert at == {"before": 0, "difference": 1 + 4 + 48, "after": 4 + 48, "end": 2 * (4 + 48)}
    points = json.loads((learned / "frontier.json").read_text())["points"]
    assert points[-1]["n_edges"] == graph.n_edges and points[-1]["kl"] < 1e-6 < points[0]["kl"]
    for row in points:
        circuit = Circuit.load(learned / row["file"])
        assert circuit.graph == graph and circuit.n_edges == row["n_edges"]
    with (learned / "edges.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [f"{row['part']}@{row['span']}" for row in rows] == [*graph.edges]
    assert f"The model has {graph.n_edges} parts at spans" in (learned / "summary.md").read_text()


def test_the_evidence_is_of_parts_at_spans(learned: Path) -> None:
    file = learned / json.loads((learned / "frontier.json").read_text())["points"][1]["file"]
    found = verify_run(
        learned,
        ["n_bootstrap=20", "n_random=4", "n_knockouts=2", "n_adversarial=1", "progress=false"],
        circuit=file,
        minimise=True,
        say=lambda _: None,
    )
    sections, circuit = dict(found.sections.items()), Circuit.load(file)
    assert [name for name, one in sections.items() if "error" in vars(one)] == ["cross_ablation"]
    assert {row.edge for row in sections["minimality"].edges} == {*circuit.edges}
    parts = {name.partition("@")[0] for name in circuit.edges}
    assert {row.part for row in sections["function"].parts.parts} == {n for n in parts if ".n" in n}
    page = (learned / "verification.md").read_text()
    assert "an edge at one span" in page and "Gates stand on parts" in page
    assert "A path goes on" not in page, "parts lie on no paths"


def test_the_report_places_parts_at_their_spans(learned: Path) -> None:
    data, graph = report_data([learned]), load_found(learned).graph
    names = [span.name for span in data.graph.spans]
    assert names == ["before", "difference", "after", "end"] and data.graph.unit == "part"
    ends = zip(data.edges.part, data.edges.writer, data.edges.span, strict=True)
    for part, writer, at in ends:
        assert part.partition("@")[2] == names[at] and part in graph.edges
        assert part.startswith(data.graph.writers[writer])


def test_edges_between_parts_at_spans_are_told(learned: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "edges.csv"
    command = ["part-edges", str(learned), "--steps", "1", "--threshold", "1e-9", "-o", str(out)]
    assert main(command) == 0
    rows, kept = [*csv.DictReader(out.open())], {*load_found(learned).graph.edges}
    assert rows and {row["part"] for row in rows} <= kept
    assert {row["into"] for row in rows} <= {*kept, "logits"}


def pairs(start: str = "the") -> list[Pair]:
    """Pairs that begin so; any otherwise."""
    return [
        Pair(str(i), row["clean"], row["corrupt"], tuple(row["answers"]), tuple(row["wrong"]))
        for i, row in enumerate(pair_rows())
        if row["clean"].startswith(start)
    ]


def study_of(rows: list[Pair], **settings: object) -> Study:
    words = dict(tokenizer=tokenizer(), n_train=8, n_test=8, min_accuracy=0, progress=False)
    return Study(tiny_lm("llama"), rows, **words, **settings)


@pytest.mark.parametrize("level", ["edge", "node", "neuron"])
def test_a_study_at_each_position(level: str) -> None:
    """What a gate scores at all positions is the score without; exact is the effect at one."""
    plain = study_of(pairs(), level=level)
    whole = plain.attribute("eap").values
    plain.gated.release()
    study = study_of(pairs(), level=level, spans="positions")
    assert [span.name for span in study.graph.spans] == [str(i) for i in range(8)]
    found = study.attribute("eap")
    summed = whole.new_zeros(len(whole)).index_add_(0, study.graph.edge_base, found.values)
    assert summed.tolist() == pytest.approx(whole.tolist(), rel=1e-4, abs=1e-6)
    circuit = study.circuit(found, n_edges=12)
    assert circuit.n_edges == 12 and all("@" in name for name in circuit.edges)
    assert study.evaluate(study.graph.edges).kl == pytest.approx(0, abs=1e-6)
    exact, name = study.attribute("exact").values, circuit.edges[0]
    effect = exact[study.graph.edge_index(name)].item()
    assert study.effect(name) == pytest.approx(effect, rel=1e-4, abs=1e-7)
    study.gated.release()


def test_parts_under_means_stand_at_every_token_that_leads_on() -> None:
    study = study_of(pairs(""), level="node", spans="difference", ablation="mean")
    assert study.evaluate(study.graph.edges).kl == pytest.approx(0, abs=1e-6)
    assert study.graph.exists.sum(dim=0).tolist() == [6, 6, 6, 11]
    assert study.learn(2, progress=False).ranking.isfinite().all()
    study.gated.release()


def test_prompts_of_several_lengths_have_no_positions() -> None:
    with pytest.raises(DataError, match="of one length, and the tokens of these are 8 to 9; take"):
        study_of(pairs(""), spans="positions")


def test_what_is_of_edges_or_of_whole_parts_is_refused() -> None:
    for settings in (
        {"attribution": AttributionConfig("relp")},
        {"gates": GatesConfig(starts=["clean_corrupted"])},
        {"verify": VerifyConfig(selection="greedy")},
        {"refine": True},
        {"tasks": ["ioi", "sva"]},
        {"ablation": "optimal"},
    ):
        with pytest.raises(ConfigError, match=r"level=node|spans=tags"):
            RunConfig(spans="tags", level="node", **settings)
