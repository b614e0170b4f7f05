"""The frontier and its summary, against loops over hand-made circuits."""

import json
import math
import os
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import CONFIGS, build_tiny_model
from transformers import AutoModelForCausalLM

from circuitprune.circuits.graph import Graph
from circuitprune.errors import RunError
from circuitprune.files.limits import BESIDE, LIMITS, PER_EDGE, POINTS
from circuitprune.files.whole import write_json
from circuitprune.metrics import Evidence
from circuitprune.runs.frontier import Frontier, Point, read_results, write_results
from circuitprune.runs.identity import fingerprint
from circuitprune.views.pages.summary import summary

GRAPH = Graph(2, 4, 2)
FULL = Evidence(kl=0.0, metric=2.0, accuracy=0.95, exact_match=1.0, n=40)
EMPTY = Evidence(kl=3.0, metric=-1.0, accuracy=0.1, exact_match=0.05, n=40)
ABOUT = {"model": "tiny", "task": "ioi", "ablation": "patch", "metric": "logit_diff"}
ABOUT |= {"split": "test", "revision": None}


def point(size: float, n_edges: int, kl: float, seed: int = 0) -> Point:
    """A random mask of so many edges with invented evidence."""
    order = torch.randperm(GRAPH.n_edges, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(GRAPH.n_edges, dtype=torch.bool)
    mask[order[:n_edges]] = True
    evidence = Evidence(kl, 1.7, 0.75, 0.5, 40, 0.9)
    return Point(size, mask, evidence)


def frontier(*points: Point) -> Frontier:
    return Frontier(GRAPH, ABOUT, FULL, EMPTY, list(points))


# ---------------------------------------------------------------- the chosen circuit


@pytest.mark.parametrize(
    ("sizes_and_kls", "max_kl", "expected"),
    [
        ([(5, 0.5), (10, 0.09), (20, 0.01)], 0.1, 10),
        ([(5, 0.1), (10, 0.09)], 0.1, 5),  # the bound itself is allowed
        ([(20, 0.01), (10, 0.05), (5, 0.5)], 0.1, 10),  # in any order
        ([(5, 0.05), (10, 0.2), (20, 0.01)], 0.1, 5),  # KL need not fall with size
        ([(5, 0.9), (10, 0.4), (20, 0.6)], 0.1, 10),  # none is good: the least KL
        ([(5, 0.9), (10, 0.4), (20, 0.3)], 0.5, 10),
    ],
)
def test_chosen_is_the_smallest_good_circuit(sizes_and_kls, max_kl, expected):
    points = [point(n / GRAPH.n_edges, n, kl) for n, kl in sizes_and_kls]
    assert int(frontier(*points).chosen(max_kl).mask.sum()) == expected


@pytest.mark.parametrize(
    ("shares", "expected", "said"),
    [
        ({5: 1.22, 10: 1.1, 20: 1.0}, 10, "the smallest with KL at most 0.1"),
        ({5: 0.8, 10: 1.0, 20: 1.0}, 5, "faithfulness in 0.8 to 1.2"),  # the band's ends are in it
        ({5: 1.2, 10: 1.0, 20: 1.0}, 5, "faithfulness in 0.8 to 1.2"),
        ({5: 1.22, 10: 1.3, 20: 0.7}, 20, "the one of least KL"),
    ],
)
def test_the_chosen_circuit_keeps_the_task_too(shares, expected, said):
    """Fifteen edges of least KL that do the task better than the model are not the model's."""
    points = [
        replace(p, evidence=replace(p.evidence, faithfulness=share))
        for n, share in shares.items()
        for p in [point(n / GRAPH.n_edges, n, 0.5 / n)]
    ]
    found = frontier(*points)
    assert int(found.chosen().mask.sum()) == expected
    assert said in found.choice() and "on these same pairs" in found.choice()


def test_validation_pairs_choose_where_there_are_some(tmp_path):
    """The held-out numbers of the chosen circuit are then not picked among several."""
    small, large = point(0.1, 8, 0.05), point(0.3, 25, 0.01)
    points = [
        replace(small, validation=replace(small.evidence, kl=0.3)),
        replace(large, validation=replace(large.evidence, kl=0.02)),
    ]
    found = frontier(*points)
    assert found.chosen() is points[1] and "on the validation pairs" in found.choice()
    assert found.to_json()["points"][0]["val"]["kl"] == 0.3
    write_results(tmp_path, found, None, torch.rand(GRAPH.n_edges), "")
    again, _ = read_results(tmp_path)
    assert again.chosen().validation == points[1].validation
    assert again.to_json() == found.to_json()


# ---------------------------------------------------------------- the smallest circuit of an edge


def test_smallest_size_by_loops():
    points = [point(0.9, 60, 0.1, seed=1), point(0.1, 8, 0.5, seed=2), point(0.3, 25, 0.2, seed=3)]
    found = frontier(*points).smallest_size().tolist()
    in_none = 0
    for edge in range(GRAPH.n_edges):
        sizes = [int(p.mask.sum()) for p in points if p.mask[edge]]
        in_none += not sizes
        assert found[edge] == min(sizes) if sizes else math.isnan(found[edge])
    assert 0 < in_none < GRAPH.n_edges


# ---------------------------------------------------------------- files


def test_frontier_json_has_the_promised_keys_in_order():
    value = frontier(point(0.1, 8, 0.5), point(1.0, GRAPH.n_edges, 0.0)).to_json()
    assert {"model", "task", "ablation"} <= set(value)
    assert value["n_edges_total"] == GRAPH.n_edges == 82
    assert value["n_edges_total_ungrouped"] == Graph(2, 4, 4).n_edges == 110
    assert value["full"] == FULL.to_json() and value["empty"] == EMPTY.to_json()
    first, last = value["points"]
    assert list(first)[:2] == ["size", "n_edges"]
    assert {"kl", "faithfulness", "metric", "accuracy", "exact_match"} <= set(first)
    assert (first["size"], first["n_edges"], first["kl"]) == (0.1, 8, 0.5)
    assert (last["n_edges"], last["n_edges_ungrouped"]) == (82, 110)


def test_grouped_edges_are_counted_once_per_query_head():
    for p in (point(0.2, 17, 0.1, seed=4), point(0.5, 43, 0.1, seed=5)):
        expected = 0
        for edge in p.mask.nonzero().flatten().tolist():
            kind = GRAPH.reader_kind[int(GRAPH.edge_reader[edge])]
            expected += 2 if kind in ("k", "v") else 1
        assert frontier(p).to_json()["points"][0]["n_edges_ungrouped"] == expected


def test_nothing_that_is_not_a_number_reaches_a_file(tmp_path):
    bad = frontier(point(0.1, 8, math.nan))
    with pytest.raises(RunError):
        write_json(tmp_path / "frontier.json", bad.to_json())
    assert not list(tmp_path.iterdir())


def test_written_files_agree_with_the_frontier(tmp_path):
    points = [point(0.1, 8, 0.5), point(0.3, 25, 0.05), point(1.0, GRAPH.n_edges, 0.0)]
    scores = torch.linspace(-1, 1, GRAPH.n_edges)
    write_results(tmp_path, frontier(*points), None, scores, "command")
    assert json.loads((tmp_path / "frontier.json").read_text()) == frontier(*points).to_json()
    assert {p.name for p in (tmp_path / "circuits").iterdir()} == {"8.json", "25.json", "82.json"}
    header, *rows = (tmp_path / "edges.csv").read_text().splitlines()
    assert header == "writer,reader,kind,layer,final_score,smallest_circuit"
    assert len(rows) == GRAPH.n_edges
    expected = frontier(*points).smallest_size().tolist()
    assert [float(row.split(",")[-1]) for row in rows] == expected


def test_circuits_of_equal_size_have_files_of_their_own(tmp_path):
    points = [
        point(0.1, 8, 0.07, seed=1),
        point(0.2, 8, 0.05, seed=2),
        point(0.3, 8, 0.06, seed=3),
        point(0.4, 8, 0.07, seed=1),  # the first one again
        point(0.5, 9, 0.3),
    ]
    found = frontier(*points)
    files = [f"circuits/{name}.json" for name in ("8", "8_2", "8_3", "8", "9")]
    assert found.files() == [row["file"] for row in found.to_json()["points"]] == files
    write_results(tmp_path, found, None, torch.zeros(GRAPH.n_edges), "command")
    back, circuits = read_results(tmp_path)
    for before, after, circuit in zip(points, back.points, circuits, strict=True):
        assert torch.equal(before.mask, after.mask) and torch.equal(after.mask, circuit.mask)
        assert before.evidence == after.evidence
    chosen = back.chosen()
    assert torch.equal(chosen.mask, points[1].mask) and back.file_of(chosen) == files[1]
    assert "`circuits/8_2.json`" in summary(found, "command")


def test_a_frontier_that_names_no_files_is_read_by_size(tmp_path):
    points = [point(0.1, 8, 0.5), point(0.3, 25, 0.05)]
    write_results(tmp_path, frontier(*points), None, torch.zeros(GRAPH.n_edges), "command")
    value = json.loads((tmp_path / "frontier.json").read_text())
    for row in value["points"]:
        del row["file"]
    write_json(tmp_path / "frontier.json", value)
    masks = [found.mask for found in read_results(tmp_path)[0].points]
    assert all(torch.equal(a, b.mask) for a, b in zip(masks, points, strict=True))


def test_sizes_are_looked_at_before_anything_is_read(tmp_path):
    points = [point(0.1, 8, 0.5), point(0.3, 25, 0.05)]
    write_results(tmp_path, frontier(*points), None, torch.zeros(GRAPH.n_edges), "command")
    value = json.loads((tmp_path / "frontier.json").read_text())
    write_json(tmp_path / "frontier.json", value | {"points": [{}] * (POINTS + 1)})
    with pytest.raises(RunError, match=f"expected an object with 1 to {POINTS:,} `points`"):
        read_results(tmp_path)
    write_json(tmp_path / "frontier.json", value)
    most = BESIDE + PER_EDGE * GRAPH.n_edges_ungrouped
    os.truncate(tmp_path / "circuits" / "25.json", most + 1)
    with pytest.raises(RunError, match=f"a circuit's file has at most {most:,}"):
        read_results(tmp_path)
    os.truncate(tmp_path / "frontier.json", LIMITS["frontier"] + 1)
    with pytest.raises(RunError, match=f"a frontier has at most {LIMITS['frontier']:,}"):
        read_results(tmp_path)


# ---------------------------------------------------------------- the summary


def test_summary_is_a_table_of_the_frontier():
    points = [point(0.1, 8, 0.5), point(0.3, 25, 0.05)]
    text = summary(frontier(*points), "python scripts/train_mask.py x.yaml")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == [
        "size",
        "edges",
        "KL (nats)",
        "faithfulness",
        "metric",
        "accuracy",
        "exact match",
    ]
    assert rows.pop(1) == ["---"] * 7
    assert rows[1] == ["0.1", "8", "0.5", "0.900", "1.700", "75.0%", "50.0%"]
    assert rows[2][:3] == ["0.3", "25", "0.05"]
    assert rows[3] == ["full", "82", "0", "1.000", "2.000", "95.0%", "100.0%"]
    assert rows[4] == ["empty", "0", "3", "0.000", "-1.000", "10.0%", "5.0%"]
    assert "**25 edges (30.5%)" in text and "`circuits/25.json`" in text
    assert "82 edges (110 by query head)" in text
    assert "`python scripts/train_mask.py x.yaml`" in text
    assert "40 test pairs" in text


def test_what_rounds_to_zero_has_no_sign_in_the_summary():
    one = frontier(point(0.1, 8, 0.5), point(0.3, 25, 0.05))
    worse = replace(one, full=replace(one.full, metric=-3.0))  # than the empty circuit
    assert str(worse.empty.compared(worse.full, worse.empty).faithfulness) == "-0.0"
    assert "-0.000" not in summary(worse, "again")


# ---------------------------------------------------------------- the model's fingerprint


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_weight_and_buffer_is_in_the_fingerprint(family, dtype):
    model = deepcopy(build_tiny_model(family)).to(dtype)
    before = fingerprint(model)
    assert fingerprint(deepcopy(model)) == before
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        kept = tensor.clone()
        tensor.view(-1)[-1] += 0.5
        assert fingerprint(model) != before, name
        tensor.copy_(kept)
    assert fingerprint(model) == before


def test_what_is_computed_counts_but_not_its_last_bits():
    model = deepcopy(build_tiny_model("llama")).float()
    before, frequencies = fingerprint(model), model.model.rotary_emb.inv_freq
    frequencies *= 1 + 1e-7  # as another machine may round
    assert fingerprint(model) == before
    config = CONFIGS["llama"]()
    config.rope_parameters["rope_theta"] *= 2
    other = AutoModelForCausalLM.from_config(config).eval()
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) != before


@pytest.mark.parametrize(
    ("name", "value"),
    [("activation_function", "relu"), ("layer_norm_epsilon", 1e-3), ("scale_attn_weights", False)],
)
def test_settings_that_no_weight_tells_are_in_the_fingerprint(name, value):
    model = deepcopy(build_tiny_model("gpt2"))
    before, kept = fingerprint(model), getattr(model.config, name)
    setattr(model.config, name, value)
    assert fingerprint(model) != before
    setattr(model.config, name, kept)
    others = dict(use_cache=False, architectures=["Mine"], eos_token_id=1, attn_pdrop=0.5)
    for same, other in others.items():
        setattr(model.config, same, other)
    assert fingerprint(model) == before


def test_a_model_is_itself_when_it_is_saved_and_loaded(family, tmp_path):
    model = deepcopy(build_tiny_model(family))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=model.dtype)
    assert fingerprint(loaded) == fingerprint(model)


def test_a_number_of_edges_that_is_not_the_circuits_is_refused(tmp_path):
    found = frontier(point(0.1, 8, 0.5), point(0.3, 25, 0.05))
    write_results(tmp_path, found, None, torch.zeros(GRAPH.n_edges), "command")
    value = json.loads((tmp_path / "frontier.json").read_text())
    value["points"][1]["n_edges"] = 24
    write_json(tmp_path / "frontier.json", value)
    with pytest.raises(RunError, match=r"says n_edges 24 of circuits/25\.json, which has 25"):
        read_results(tmp_path)
