"""Comparing scores: against scipy and by hand, across files and conventions; and refusals."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from scipy.stats import spearmanr

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import Cut, part_graph
from circuitprune.circuits.part_spans import at_spans
from circuitprune.circuits.span_graph import Span, SpanGraph
from circuitprune.errors import GraphError, MetricError, RunError
from circuitprune.files.whole import write_tensors
from circuitprune.pipelines.compare_scores import ScoreFile, align, comparison, load_scores

GROUPED = Graph(2, 4, 2, d_model=8)
WHOLE = GROUPED.ungrouped()
CUTS = Cut("input", 0), Cut("a0.h1", 2), Cut("m0", 5, "neuron", 4)
SPANS = [Span("S", (0,), True, False), Span("end", (0, 1), False, True)]
NODES = part_graph(GROUPED, "node", tuple(Cut(name, i) for i, name in enumerate(GROUPED.writers)))
NEURONS = part_graph(GROUPED, "neuron", CUTS)
STANDING = [NODES, NEURONS, at_spans(GROUPED, SPANS), at_spans(NEURONS, SPANS)]
"""Graphs whose gates do not stand on whole edges."""


def random_scores(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graph_note(graph):
    return json.dumps(asdict(graph))


def save(path, scores, graph=None, **notes):
    path.parent.mkdir(exist_ok=True)
    notes |= {} if graph is None else {"graph": graph_note(graph)}
    write_tensors(path, {"scores": scores}, notes)
    return path


def save_circuit(path, ranking, scores=None, method=None, **provenance):
    """A circuit file such as runs leave: the upper half of the ranking."""
    Circuit(GROUPED, ranking > ranking.median(), scores, provenance, ranking, method).save(path)
    return path


def known(found):
    """Which edges have a score, and the scores."""
    return ~found.values.isnan(), found.values[~found.values.isnan()]


def shown(text: str) -> list[str]:
    """The last word of each measure's line, for two files."""
    legend, table = text.split("\n\n")
    assert len(legend.splitlines()) == 2 and re.match(r"\w+ compared ", table)
    return [line.split()[-1] for line in table.splitlines()[1:]]


def numbers(text: str) -> list[float]:
    return list(map(float, shown(text)))


def test_two_files_by_hand(tmp_path):
    a = torch.tensor([3.0, -2.0, 1.0, 0.5, torch.nan])
    b = torch.tensor([2.0, 3.0, 1.0, -0.5, 7.0])
    text = comparison(
        [save(tmp_path / "a.safetensors", a), save(tmp_path / "b.safetensors", b)], 0.5
    )
    assert text.splitlines()[3].split("compared")[1].split() == ["4", "of", "5"]
    signed, magnitude, top, sign = numbers(text)
    assert signed == pytest.approx(spearmanr(a[:4], b[:4]).statistic, abs=1e-4)
    assert magnitude == pytest.approx(spearmanr(a[:4].abs(), b[:4].abs()).statistic, abs=1e-4)
    assert top == 1  # 3 and -2 against 2 and 3
    assert sign == 0.5
    assert "50.0%" in text


def test_a_run_folder_its_file_and_a_circuit_are_the_same_scores(tmp_path):
    scores = random_scores(GROUPED.n_edges, 0)
    file = save(tmp_path / "run" / "scores.safetensors", scores, GROUPED)
    Circuit(GROUPED, scores > 0, scores).save(tmp_path / "circuit.json")
    for path in (tmp_path / "run", file):
        found = load_scores(path)
        assert torch.equal(found.values, scores) and found.graph == GROUPED
    kept, values = known(load_scores(tmp_path / "circuit.json"))
    assert torch.equal(kept, scores > 0) and torch.equal(values, scores[kept])
    assert numbers(comparison([tmp_path / "run", tmp_path / "circuit.json"])) == [1, 1, 1, 1]


def test_query_heads_are_summed_to_their_kv_head():
    by_head, ours = random_scores(WHOLE.n_edges, 1), random_scores(GROUPED.n_edges, 2)
    expected = [0.0] * GROUPED.n_edges
    for name, score in zip(WHOLE.edges, by_head.tolist(), strict=True):
        expected[GROUPED.edge_index(name)] += score
    a = ScoreFile("a", by_head, WHOLE)
    b = ScoreFile("b", ours, GROUPED)
    x, y = align(a, b)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(y, ours)
    y, x = align(b, a)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(y, ours)


@pytest.mark.parametrize("method", ["magnitude", "ifr", "ugs", "atp", "exact_nodes", "acdc"])
def test_of_strengths_a_kv_head_has_the_largest(method):
    """Of largest magnitude, with its sign."""
    by_head, ours = random_scores(WHOLE.n_edges, 1), random_scores(GROUPED.n_edges, 2)
    expected = [0.0] * GROUPED.n_edges
    for name, score in zip(WHOLE.edges, by_head.tolist(), strict=True):
        edge = GROUPED.edge_index(name)
        expected[edge] = max(expected[edge], score, key=abs)
    a, b = ScoreFile("a", by_head, WHOLE, method), ScoreFile("b", ours, GROUPED, method)
    assert align(a, b)[0].tolist() == align(b, a)[1].tolist() == expected
    assert min(expected) < -1 and max(expected) > 1


def test_unscored_query_heads_leave_their_kv_head_unscored():
    by_head = random_scores(WHOLE.n_edges, 1)
    edge = WHOLE.edge_index("input->a0.h1<k>")
    by_head[edge] = torch.nan
    ours = ScoreFile("ours", random_scores(GROUPED.n_edges, 2), GROUPED)
    for method in ("eap", "magnitude"):
        found = align(ScoreFile("theirs", by_head, WHOLE, method), ours)[0]
        assert found.isnan().nonzero().tolist() == [[GROUPED.edge_index("input->a0.kv0<k>")]]


@pytest.mark.parametrize(
    ("method", "magnitudes", "words"),
    [("random", False, "theirs holds random scores"), ("eap", True, "theirs holds magnitudes")],
)
def test_scores_that_cannot_be_merged_are_refused(method, magnitudes, words):
    ours = ScoreFile("ours", random_scores(GROUPED.n_edges, 2), GROUPED, "eap")
    theirs = ScoreFile("theirs", random_scores(WHOLE.n_edges, 1).abs(), WHOLE, method, magnitudes)
    with pytest.raises(GraphError, match=words):
        align(ours, theirs)
    align(theirs, theirs)


@pytest.mark.parametrize("signed", [True, False])
def test_a_circuit_file_of_a_run_has_its_folders_scores(tmp_path, signed):
    """Those of its edges; a file of old has the ranking alone, which may be of magnitudes."""
    scores = random_scores(GROUPED.n_edges, 5)
    run = save(tmp_path / "run" / "scores.safetensors", scores, GROUPED, method="eap").parent
    circuit = tmp_path / "circuit.json"
    save_circuit(circuit, scores.abs(), scores if signed else None, "eap", learner=None)
    text = comparison([run, circuit])
    assert shown(text) == ["1.0000"] * 4 if signed else ["-", "1.0000", "1.0000", "-"]
    assert f"1  {run}: attribution by eap\n" in text
    assert f"2  {circuit}: {'scores' if signed else 'magnitudes'} by eap\n" in text


@pytest.mark.parametrize("method", ["ifr", "magnitude", "ugs"])
def test_scores_without_signs_are_not_compared_by_sign(tmp_path, method):
    a, b = random_scores(GROUPED.n_edges, 0), random_scores(GROUPED.n_edges, 1).abs()
    paths = [
        save(tmp_path / "a.safetensors", a, GROUPED, method="eap"),
        save(tmp_path / "b.safetensors", b, GROUPED, method=method),
    ]
    found = shown(comparison(paths))
    assert found[0] == found[3] == "-"
    assert float(found[1]) == pytest.approx(spearmanr(a.abs(), b).statistic, abs=1e-4)
    signed = comparison([*paths, paths[0]]).split("\n\n")[1]
    assert [row.split()[1:] for row in signed.splitlines()[2:]] == [
        ["1.0000", "-", "1.0000"],
        ["-", "-", "-"],
        ["1.0000", "-", "1.0000"],
    ]


def test_of_a_training_run_the_folder_is_the_attribution_the_gates_what_was_learned(tmp_path):
    scores, learned = random_scores(GROUPED.n_edges, 0), random_scores(GROUPED.n_edges, 1)
    run = save(tmp_path / "run" / "scores.safetensors", scores, GROUPED, method="gate_ig").parent
    gates, notes = run / "gates.safetensors", {"learner": "topk", "graph": graph_note(GROUPED)}
    write_tensors(gates, {"ranking": learned}, notes)
    text = comparison([run, gates])
    assert "attribution by gate_ig, from which training started" in text
    assert f"2  {gates}: the learned order\n" in text
    signed, magnitude, _, same = shown(text)
    assert signed == same == "-"  # a low gate is no sign of harm
    expected = spearmanr(scores.abs(), learned).statistic
    assert float(magnitude) == pytest.approx(expected, abs=1e-4)
    assert load_scores(gates).values.min() == 0 and load_scores(gates).graph == GROUPED
    circuit = load_scores(save_circuit(run / "circuit.json", learned, init="eap", learner="topk"))
    assert circuit.method == "learned" and known(circuit)[1].min() == 0
    torch.testing.assert_close(
        known(circuit)[1] - known(circuit)[1].max(), learned[known(circuit)[0]] - learned.max()
    )


@pytest.mark.parametrize("said", [["eap"], "\x1b[2J", 3])
def test_a_method_that_we_do_not_know_is_not_named(tmp_path, said):
    scores = random_scores(GROUPED.n_edges, 0)
    about = {"init": said, "ranking": "signed", "selection": "top_n"}
    Circuit(GROUPED, scores > 0, scores, about).save(tmp_path / "odd.json", "mib")
    value = json.loads((tmp_path / "odd.json").read_text())
    value["circuitprune"]["schema"] = 1  # when the name of the method stood there alone
    (tmp_path / "odd.json").write_text(json.dumps(value))
    found = load_scores(tmp_path / "odd.json")
    assert found.method is None and "does not say their method" in found.read


def test_a_file_of_mib_is_read(tmp_path):
    """By query head, without our own key."""
    scores = random_scores(WHOLE.n_edges, 3)
    Circuit(WHOLE, scores > 0, scores).save(tmp_path / "mib.json", "mib")
    assert "circuitprune" not in json.loads((tmp_path / "mib.json").read_text())
    save(tmp_path / "ours.safetensors", random_scores(GROUPED.n_edges, 4), GROUPED)
    text = comparison([tmp_path / "mib.json", tmp_path / "ours.safetensors"])
    assert f"{GROUPED.n_edges} of {GROUPED.n_edges}" in text


def test_three_files_make_matrices(tmp_path):
    scores = [random_scores(GROUPED.n_edges, seed) for seed in range(3)]
    paths = [save(tmp_path / f"{i}.safetensors", s, GROUPED) for i, s in enumerate(scores)]
    text = comparison(paths, 0.1)
    assert all(str(path) in text for path in paths)
    signed = next(part for part in text.split("\n\n") if part.startswith("Spearman, signed"))
    rows = [list(map(float, re.findall(r"-?\d\.\d+", row))) for row in signed.splitlines()[2:]]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            expected = spearmanr(scores[i], scores[j]).statistic
            assert value == pytest.approx(expected, abs=1e-4)
    assert len(text.split("\n\n")) == 5


def test_what_is_undefined_is_a_dash(tmp_path):
    a = save(tmp_path / "a.safetensors", torch.ones(6))
    b = save(tmp_path / "b.safetensors", torch.arange(6.0))
    signed, magnitude, _, same = shown(comparison([a, b]))
    assert signed == magnitude == "-" and same == "1.0000"


@pytest.mark.parametrize("with_graph", [True, False])
def test_different_graphs_are_refused(tmp_path, with_graph):
    other = Graph(3, 4, 4)
    a = save(tmp_path / "a.safetensors", random_scores(GROUPED.n_edges, 0), GROUPED)
    b = save(
        tmp_path / "b.safetensors", random_scores(other.n_edges, 1), other if with_graph else None
    )
    with pytest.raises(GraphError) as caught:
        comparison([a, b])
    assert str(a) in str(caught.value) and str(b) in str(caught.value)
    assert "82 edges" in str(caught.value) and f"{other.n_edges} edges" in str(caught.value)


@pytest.mark.parametrize("graph", STANDING, ids=lambda graph: graph.describe())
def test_scores_of_parts_and_at_spans_are_compared(tmp_path, graph):
    """Those of a run of that level, and what it learned, with the numbers that scipy gives."""
    a, b = random_scores(graph.n_edges, 0), random_scores(graph.n_edges, 1)
    files = [save(tmp_path / f"{n}.safetensors", s, graph) for n, s in (("a", a), ("b", b))]
    assert load_scores(files[0]).graph == graph
    text = comparison(files)
    unit = "edge" if type(graph) is SpanGraph else "node" if graph is NODES else "part"
    assert re.search(rf"^{unit}s compared +{len(a)} of {len(a)}$", text, re.MULTILINE)
    signed, magnitude, _, same = numbers(text)
    assert signed == pytest.approx(spearmanr(a, b).statistic, abs=1e-4)
    assert magnitude == pytest.approx(spearmanr(a.abs(), b.abs()).statistic, abs=1e-4)
    assert same == pytest.approx(((a > 0) == (b > 0)).double().mean().item(), abs=1e-4)
    notes = {"learner": "topk", "graph": graph_note(graph)}
    write_tensors(tmp_path / "gates.safetensors", {"ranking": a}, notes)
    assert load_scores(tmp_path / "gates.safetensors").graph == graph


@pytest.mark.parametrize("theirs", STANDING, ids=lambda graph: graph.describe())
def test_scores_of_other_things_are_refused_by_what_they_are(tmp_path, theirs):
    a = save(tmp_path / "a.safetensors", random_scores(GROUPED.n_edges, 0), GROUPED)
    b = save(tmp_path / "b.safetensors", random_scores(theirs.n_edges, 1), theirs)
    with pytest.raises(GraphError, match="only scores of the same edges, or of the same") as caught:
        comparison([a, b])
    assert f"{a} scores {GROUPED.describe()}, {b} {theirs.describe()};" in str(caught.value)


def test_scores_that_are_alike_in_number_alone_are_refused(tmp_path):
    graphs = [
        part_graph(GROUPED, "neuron", (*CUTS[:2], Cut(f"m{i}", 5, "neuron", 4))) for i in (0, 1)
    ]
    a, b = (
        save(tmp_path / f"{i}.safetensors", random_scores(one.n_edges, i), one)
        for i, one in enumerate(graphs)
    )
    with pytest.raises(GraphError, match="alike in number alone"):
        comparison([a, b])


@pytest.mark.parametrize("graph", [NODES, at_spans(NODES, SPANS)], ids=["nodes", "at spans"])
def test_nodes_are_the_same_however_keys_and_values_are_counted(graph):
    other = replace(graph, n_kv_readers=4)
    assert other != graph and other.same_edges(graph) and graph.same_edges(other)
    scores = [
        ScoreFile(str(i), random_scores(graph.n_edges, i), g) for i, g in enumerate((graph, other))
    ]
    for found, one in zip(align(*scores), scores, strict=True):
        assert torch.equal(found, one.values)


@pytest.mark.parametrize(
    "damage",
    [
        {"cuts": 3},
        {"level": "edge"},
        {"cuts": [{"of": "m0", "writer": 99}]},
        {"spans": []},
        {"x": 1},
    ],
)
def test_a_graph_that_cannot_be_is_damaged(tmp_path, damage):
    said = json.dumps({**asdict(NEURONS), **damage})
    write_tensors(tmp_path / "odd.safetensors", {"scores": torch.zeros(6)}, {"graph": said})
    with pytest.raises(RunError, match="its graph, is damaged"):
        load_scores(tmp_path / "odd.safetensors")


def test_files_without_scores_are_refused(tmp_path):
    Circuit.from_names(GROUPED, ["input->m0"]).save(tmp_path / "bare.json")
    with pytest.raises(GraphError, match="without scores"):
        load_scores(tmp_path / "bare.json")
    write_tensors(tmp_path / "gates.safetensors", {"ranking": torch.zeros(3)})
    with pytest.raises(RunError, match="holds no 'scores', only ranking"):
        load_scores(tmp_path / "gates.safetensors")
    write_tensors(tmp_path / "odd.safetensors", {"scores": torch.zeros(3)}, {"graph": "[1]"})
    with pytest.raises(RunError, match="its graph, is damaged"):
        load_scores(tmp_path / "odd.safetensors")
    with pytest.raises(RunError, match="absent"):
        load_scores(tmp_path / "absent")


@pytest.mark.parametrize("top", [0.0, 1.5, -1.0])
def test_a_bad_fraction_is_refused(tmp_path, top):
    a = save(tmp_path / "a.safetensors", torch.arange(6.0))
    with pytest.raises(MetricError, match="fraction"):
        comparison([a, a], top)


def test_one_file_is_not_enough(tmp_path):
    with pytest.raises(MetricError, match="two or more"):
        comparison([tmp_path / "a.safetensors"])
