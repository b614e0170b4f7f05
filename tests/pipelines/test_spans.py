"""Runs whose gates stand on edges at spans, from a config to files, evidence and a report."""

import csv
import json
from pathlib import Path

import pytest
from tiny import pair_rows, quick_config, save_model, save_pairs, tiny_lm, tokenizer

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.config import AttributionConfig, GatesConfig, RunConfig, VerifyConfig
from circuitprune.data.tasks import Pair
from circuitprune.errors import ConfigError
from circuitprune.pipelines.study import Study
from circuitprune.pipelines.train import discover
from circuitprune.pipelines.verify import verify_run
from circuitprune.runs.finished import load_found
from circuitprune.views.report.data import report_data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    save_model(folder / "model", "llama")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def learned(home: Path) -> Path:
    """A finished run of training at spans."""
    discover(quick_config(home, "spans=difference"), say=lambda _: None)
    return home / "run"


def test_edges_at_spans_are_learned_verified_and_written(learned: Path) -> None:
    graph = load_found(learned).graph
    assert isinstance(graph, SpanGraph) and graph.n_edges == 124
    assert [span.name for span in graph.spans] == ["before", "difference", "after", "end"]
    points = json.loads((learned / "frontier.json").read_text())["points"]
    assert points[-1]["n_edges"] == graph.n_edges and points[-1]["kl"] < 1e-6 < points[0]["kl"]
    for row in points:
        circuit = Circuit.load(learned / row["file"])
        assert circuit.graph.same_edges(graph) and circuit.n_edges == row["n_edges"]
    with (learned / "edges.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [f"{row['writer']}->{row['reader']}@{row['span']}" for row in rows] == [*graph.edges]
    assert "@" in (learned / "report.html").read_text()


def test_the_reports_edges_and_tokens_are_at_their_spans(learned: Path) -> None:
    graph, data = load_found(learned).graph, report_data([learned])
    spans = data.graph.spans
    assert [span.name for span in spans] == ["before", "difference", "after", "end"]
    for span in spans:
        (own,) = (one for one in graph.spans if one.name == span.name)
        assert {spans[at].name for at in span.sees} == {graph.spans[at].name for at in own.sees}
    for writer, reader, at, name in zip(
        data.edges.writer, data.edges.reader, data.edges.span, data.edges.part, strict=True
    ):
        made = f"{data.graph.writers[writer]}->{data.graph.readers[reader]}@{spans[at].name}"
        assert name == made
    for pair in json.loads((learned / "pairs.json").read_text())["pairs"]:
        differ = [a != b for a, b in zip(pair["clean"], pair["corrupt"], strict=True)]
        first = differ.index(True)
        assert pair["spans"][: first + 1] == ["before"] * first + ["difference"]
        assert pair["spans"][-1] == "end" and len(pair["spans"]) == len(differ)


def test_the_evidence_is_of_edges_at_spans(learned: Path) -> None:
    found = verify_run(
        learned,
        ["n_bootstrap=20", "n_random=4", "n_knockouts=2", "n_adversarial=1", "progress=false"],
        circuit=learned / "circuits" / "6.json",
        minimise=True,
        say=lambda _: None,
    )
    sections = dict(found.sections.items())
    assert [name for name, one in sections.items() if "error" in vars(one)] == ["cross_ablation"]
    assert "other ablations make one at others too" in sections["cross_ablation"].error
    assert {row.edge for row in sections["minimality"].edges} == {
        *Circuit.load(learned / "circuits" / "6.json").edges
    }
    page = (learned / "verification.md").read_text()
    assert "6 of 124 edges" in page and "an edge at one span" in page
    assert "The model has 124 edges at spans" in (learned / "summary.md").read_text()


def test_a_study_at_spans(home: Path) -> None:
    study = Study(
        str(home / "model"),
        str(home / "pairs.jsonl"),
        n_train=8,
        n_test=8,
        spans="difference",
        min_accuracy=0,
        progress=False,
    )
    scores = study.attribute("eap")
    circuit = study.circuit(scores, n_edges=12)
    assert circuit.n_edges == 12 and all("@" in name for name in circuit.edges)
    assert study.evaluate(study.graph.edges).kl == pytest.approx(0, abs=1e-6)
    exact, name = study.attribute("exact").values, circuit.edges[0]
    effect = exact[study.graph.edge_index(name)].item()
    assert study.effect(name) == pytest.approx(effect, rel=1e-4, abs=1e-7)
    for gates in ({"learner": "hard_concrete"}, {"count": "live"}, {"direction": "joint"}):
        ranking = study.learn(2, start=scores, progress=False, **gates).ranking
        assert ranking.shape == scores.values.shape and bool(ranking.isfinite().all())
    study.gated.release()


def test_tags_under_means_reach_every_token() -> None:
    rows = [
        Pair(
            str(i),
            row["clean"],
            row["corrupt"],
            tuple(row["answers"]),
            tuple(row["wrong"]),
            tags={"noun": tagged(row["clean"], row["answers"][0])},
        )
        for i, row in enumerate(pair_rows())
    ]
    words = dict(tokenizer=tokenizer(), n_train=8, n_test=8, spans="tags", min_accuracy=0)
    counts = {}
    for ablation in ("patch", "mean"):
        study = Study(tiny_lm("llama"), rows, **words, ablation=ablation, progress=False)
        assert [span.name for span in study.graph.spans] == ["noun", "rest", "end"]
        assert study.evaluate(study.graph.edges).kl == pytest.approx(0, abs=1e-6)
        counts[ablation] = study.graph.exists.sum(dim=0).tolist()
        study.gated.release()
    assert counts == {"patch": [37, 24, 63], "mean": [37, 37, 82]}, "82 are all edges"


def tagged(clean: str, answer: str) -> tuple[int, int]:
    start = clean.index(answer.strip())
    return start, start + len(answer.strip())


def test_what_is_of_whole_edges_is_refused() -> None:
    for settings in (
        {"attribution": AttributionConfig("acdc")},
        {"attribution": AttributionConfig("eap_qk")},
        {"gates": GatesConfig(starts=["atp"])},
        {"verify": VerifyConfig(selection="greedy")},
        {"refine": True},
        {"tasks": ["ioi", "sva"]},
    ):
        with pytest.raises(ConfigError, match="spans=tags"):
            RunConfig(spans="tags", **settings)
