"""Trimming against networkx, set algebra, and files that come back as they were."""

import builtins
import json
import os
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import reference_graph
import torch

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import write_edges_csv
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.reachability import live_edges
from circuitprune.errors import GraphError, RunError
from circuitprune.files import whole as files
from circuitprune.files.limits import BESIDE, LIMITS, PER_EDGE

MIB = Path(__file__).parents[3] / "shared" / "exchange" / "mib_gpt2_ioi_eap-ig.json"
needs_mib = pytest.mark.skipif(not MIB.exists(), reason=f"{MIB} is absent")
each_graph = pytest.mark.parametrize("graph", reference_graph.GRAPHS, ids=Graph.describe)
HOSTILE = '</script><img onerror=x>&"\x1b[2J\u202e\ud800'


def random_mask(graph, seed, density=None):
    gen = torch.Generator().manual_seed(seed)
    density = torch.rand((), generator=gen) if density is None else density
    return torch.rand(graph.n_edges, generator=gen) < density


def random_circuit(graph, seed, **provenance):
    gen = torch.Generator().manual_seed(100 + seed)
    scores = torch.randn(graph.n_edges, generator=gen)
    return Circuit(graph, random_mask(graph, seed), scores, provenance)


def scores_of(circuit):
    assert circuit.scores is not None
    return circuit.scores


# ------------------------------------------------------------------------ trimming


@each_graph
@pytest.mark.parametrize("seed", range(12))
def test_trim_agrees_with_networkx(graph, seed):
    circuit = Circuit(graph, random_mask(graph, seed))
    expected = reference_graph.trim(graph, circuit.edges)
    assert set(circuit.trim().edges) == expected


@each_graph
def test_trim_of_sparse_circuits_agrees_and_is_not_always_empty(graph):
    sizes = []
    for seed in range(30):
        circuit = Circuit(graph, random_mask(graph, seed, density=0.25))
        assert set(circuit.trim().edges) == reference_graph.trim(graph, circuit.edges)
        sizes.append((circuit.trim().n_edges, circuit.n_edges))
    assert any(0 < live < kept for live, kept in sizes)


@each_graph
@pytest.mark.parametrize("seed", range(3))
def test_trim_is_idempotent_and_monotone(graph, seed):
    mask, more = random_mask(graph, seed), random_mask(graph, seed + 50)
    live = live_edges(graph, mask)
    assert torch.equal(live_edges(graph, live), live)
    assert not (live & ~mask).any()
    assert not (live & ~live_edges(graph, mask | more)).any()


@each_graph
def test_trim_keeps_the_whole_graph_and_nothing_of_nothing(graph):
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    assert live_edges(graph, every).all()
    assert not live_edges(graph, ~every).any()


def test_one_query_head_keeps_a_shared_key_reader_alive():
    graph = Graph(1, 4, 2)
    circuit = Circuit.from_names(graph, ["input->a0.h3<k>", "a0.h3->logits", "input->a0.h0<k>"])
    assert circuit.trim().edges == ("input->a0.kv1<k>", "a0.h3->logits")


def test_trim_keeps_facts_and_drops_evidence_of_another_mask():
    facts = {"model": "gpt2", "evidence": {"kl": 0.1}}
    graph = Graph(1, 1, 1)
    whole = Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool), provenance=facts)
    assert whole.trim() == whole
    dangling = Circuit(graph, graph.mask_of(["input->m0", "input->logits"]), provenance=facts)
    assert dangling.trim().edges == ("input->logits",)
    assert dangling.trim().provenance == {"model": "gpt2"}


# ------------------------------------------------------------------------ sizes, names, sets


@each_graph
def test_counts_and_names(graph):
    circuit = random_circuit(graph, 3)
    names = [name for name, kept in zip(graph.edges, circuit.mask, strict=True) if kept]
    assert list(circuit.edges) == names and circuit.n_edges == len(names)
    assert circuit.density == len(names) / graph.n_edges
    whole = circuit.ungrouped()
    by_head = [name for name in whole.graph.edges if circuit.mask[graph.edge_index(name)]]
    assert list(whole.edges) == by_head
    assert circuit.n_edges_ungrouped == whole.n_edges == len(by_head)
    assert Circuit.from_names(graph, names) == Circuit(graph, circuit.mask)


@each_graph
def test_nodes_of_a_trimmed_circuit_are_those_on_its_paths(graph):
    circuit = Circuit(graph, random_mask(graph, 5, density=0.4)).trim()
    on_paths = {name.split("->")[0] for name in circuit.edges} | {"logits"}
    order = (*graph.writers, "logits")
    assert circuit.n_edges and circuit.nodes == tuple(n for n in order if n in on_paths)


def test_nodes_include_dangling_ones():
    graph = Graph(2, 2, 2)
    assert Circuit.from_names(graph, ["a0.h1->a1.h0<k>"]).nodes == ("a0.h1", "a1.h0")
    assert Circuit.from_names(graph, ["input->logits"]).nodes == ("input", "logits")
    assert Circuit.from_names(graph, []).nodes == ()


@each_graph
def test_set_operations_are_those_of_sets_of_names(graph):
    a, b = random_circuit(graph, 1, name="a"), random_circuit(graph, 2, name="b")
    left, right = set(a.edges), set(b.edges)
    assert set((a | b).edges) == left | right
    assert set((a & b).edges) == left & right
    assert set((a - b).edges) == left - right
    assert set((a ^ b).edges) == left ^ right
    assert set(a.complement.edges) == set(graph.edges) - left
    assert a.jaccard(b) == b.jaccard(a) == len(left & right) / len(left | right)
    assert a.jaccard(a) == 1.0 and a.jaccard(a.complement) == 0.0


def test_set_operations_say_where_they_come_from_and_keep_scores():
    graph = Graph(1, 2, 2)
    a, b = (
        random_circuit(graph, 1, name="a", evidence={"kl": 1}),
        random_circuit(graph, 2, name="b"),
    )
    assert (a - b).provenance == {"operation": "difference", "of": [a.provenance, b.provenance]}
    assert torch.equal(scores_of(a | b), scores_of(a))
    assert torch.equal(scores_of(replace(a, scores=None, ranking=None) | b), scores_of(b))
    assert torch.equal((replace(a, ranking=-scores_of(a)) | b).ranking, -scores_of(a))
    empty = Circuit.from_names(graph, [])
    assert empty.jaccard(empty) == 1.0


def test_circuits_of_different_graphs_do_not_mix():
    a, b = random_circuit(Graph(2, 4, 4), 0), random_circuit(Graph(2, 4, 2), 0)
    for operation in ("__or__", "__and__", "__sub__", "__xor__", "jaccard"):
        with pytest.raises(GraphError, match="different graphs"):
            getattr(a, operation)(b)
    same = random_circuit(Graph(2, 4, 4, d_model=64), 0)
    assert (a & same).edges == a.edges


def test_equality_sees_every_part():
    graph = Graph(1, 2, 2)
    circuit = random_circuit(graph, 0, model="m")
    nan = replace(
        circuit, scores=scores_of(circuit).clone().index_fill_(0, torch.tensor([3]), torch.nan)
    )
    assert circuit == replace(circuit) and nan == replace(nan, scores=scores_of(nan).clone())
    others = [
        replace(circuit, mask=~circuit.mask),
        replace(circuit, scores=None),
        replace(circuit, scores=scores_of(circuit) + 1),
        replace(circuit, scores=scores_of(circuit).double()),
        replace(circuit, ranking=scores_of(circuit)),
        replace(circuit, method="eap"),
        replace(circuit, provenance={}),
        Circuit(replace(graph, d_model=1), circuit.mask, circuit.scores, circuit.provenance),
        nan,
    ]
    assert all(circuit != other for other in others) and circuit != "circuit"


def test_tensors_that_do_not_fit_are_refused():
    graph = Graph(1, 2, 2)
    good = torch.zeros(graph.n_edges, dtype=torch.bool)
    with pytest.raises(GraphError, match=r"shape \(4,\), expected torch\.bool"):
        Circuit(graph, good[:4])
    jaxtyping.config.update("jaxtyping_disable", True)  # users have no shape checks
    try:
        with pytest.raises(GraphError, match=r"mask is torch\.float32"):
            Circuit(graph, good.float())
        with pytest.raises(GraphError, match=r"scores have shape \(4,\)"):
            Circuit(graph, good, torch.zeros(4))
        with pytest.raises(GraphError, match=r"ranking has shape \(4,\)"):
            Circuit(graph, good, ranking=torch.zeros(4))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_provenance_must_be_json():
    good = torch.zeros(Graph(1, 2, 2).n_edges, dtype=torch.bool)
    for bad in (float("nan"), object(), torch.zeros(1)):
        with pytest.raises(GraphError, match="cannot be written as JSON"):
            Circuit(Graph(1, 2, 2), good, provenance={"evidence": bad})
    facts: dict = {"sizes": (1, 2)}
    circuit = Circuit(Graph(1, 2, 2), good, provenance=facts)
    facts["sizes"] = ()
    assert circuit.provenance == {"sizes": [1, 2]}


# ------------------------------------------------------------------------ our files


def documented(language):
    """The code blocks of the format description, in order."""
    text = (Path(__file__).parents[2] / "docs" / "file_formats.md").read_text()
    return [block.split("```")[0] for block in text.split(f"```{language}\n")[1:]]


def test_the_documented_files_are_true(tmp_path):
    graph = Graph(1, 2, 1, d_model=8)
    names, scores = ["input->a0.kv0<k>", "a0.h1->logits"], torch.zeros(graph.n_edges)
    for name, score in zip(names, [0.5, -0.25], strict=True):
        scores[graph.edge_index(name)] = score
    facts = {"model": "tiny", "task": "ioi", "evidence": {"kl": 0.12}}
    circuit = Circuit(graph, graph.mask_of(names), scores, facts, scores + 1, "eap")
    circuit.save(tmp_path / "c.json")
    whole, pairs, _ = documented("json")
    assert (tmp_path / "c.json").read_text() == json.dumps(json.loads(whole))
    write_edges_csv(tmp_path / "e.csv", circuit, {"score": scores})
    assert [(tmp_path / "e.csv").read_text()] == documented("text")
    read = load_list(tmp_path, json.loads(pairs), Graph(1, 2, 2))
    assert read.edges == ("input->a0.h1<k>", "a0.h1->m0", "m0->logits")
    read.save(tmp_path / "p.json", format="edge_pruning_gpt2")
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(pairs)


@each_graph
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_circuit_comes_back_equal(graph, dtype, tmp_path):
    circuit = random_circuit(
        replace(graph, d_model=24), 4, model="m", evidence={"kl": 0.1, "n": [1]}
    )
    scores = None if dtype is None else scores_of(circuit).to(dtype)
    circuit = Circuit(circuit.graph, circuit.mask, scores, circuit.provenance, method="eap")
    circuit.save(tmp_path / "1.json", "mib")
    again = Circuit.load(tmp_path / "1.json")
    assert again == circuit and again.as_read is None
    again.save(tmp_path / "2.json", "mib")
    assert (tmp_path / "2.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def kept(values, mask):
    return None if values is None else values.where(mask, torch.nan)


@each_graph
@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("ranked", [None, torch.float32, torch.bfloat16])
def test_our_file_holds_what_is_known_of_the_kept_edges(graph, scored, ranked, tmp_path):
    drawn = random_circuit(replace(graph, d_model=24), 4, evidence={"kl": 0.1})
    ranking = None if ranked is None else random_circuit(graph, 5).scores.to(ranked)
    scores = drawn.scores if scored else None
    circuit = replace(drawn, scores=scores, ranking=ranking, method="eap")
    circuit.save(tmp_path / "1.json")
    again = Circuit.load(tmp_path / "1.json")
    known = {name: kept(getattr(circuit, name), circuit.mask) for name in ("scores", "ranking")}
    assert again == replace(circuit, **known) and again.as_read is None
    again.save(tmp_path / "2.json")
    assert (tmp_path / "2.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    listed = json.loads((tmp_path / "1.json").read_text())["edges"]
    assert list(listed) == [
        name
        for name in reference_graph.mib_edge_names(graph)
        if circuit.mask[graph.edge_index(name)]
    ]


def test_a_file_of_a_large_graph_stays_small(tmp_path):
    """30 layers of 9 heads have 100,000 edges and more; 70 of them take no megabytes."""
    graph = Graph(30, 9, 3, d_model=576)
    scores = torch.linspace(-1, 1, graph.n_edges)
    Circuit(graph, scores > scores[-71], scores, {"model": "m"}).save(tmp_path / "c.json")
    assert graph.n_edges_ungrouped > 100_000
    assert (tmp_path / "c.json").stat().st_size < 25_000


def test_what_is_never_kept_is_not_a_number_in_the_ranking():
    graph = Graph(1, 1, 1)
    circuit = Circuit(graph, graph.no_edges(), ranking=torch.full((8,), -torch.inf))
    assert circuit.ranking.isnan().all() and circuit.scores is None


def first_schema(numbers, **provenance):
    """A file as it was before ranking and scores were told apart."""
    value = small_mib()
    for entry, number in zip(value["edges"].values(), numbers, strict=True):
        entry["score"] = number
    own = {"schema": 1, "graph": {"n_kv_readers": 2}, "score_dtype": "float64"}
    return {**value, "circuitprune": {**own, "provenance": provenance}}


@pytest.mark.parametrize(
    ("provenance", "signs", "method"),
    [
        ({"selection": "top_n", "init": "eap", "ranking": "signed"}, -1, "eap"),
        ({"selection": "top_n", "init": "eap", "ranking": "absolute"}, None, "eap"),
        ({"selection": "top_n", "init": "eap", "learner": "topk"}, None, None),
    ],
)
def test_a_runs_old_file_held_its_ranking(provenance, signs, method, tmp_path):
    numbers = [float(n) for n in range(-6, 7)]
    (tmp_path / "a.json").write_text(json.dumps(first_schema(numbers, **provenance)))
    circuit = Circuit.load(tmp_path / "a.json")
    order = [circuit.graph.edge_index(n) for n in reference_graph.mib_edge_names(circuit.graph)]
    assert circuit.ranking[order].tolist() == numbers and circuit.method == method
    assert (circuit.scores is None) == (signs is None)
    assert signs is None or circuit.scores[order].tolist() == [-n for n in numbers]


def test_another_old_file_held_scores(tmp_path):
    numbers = [float(n) for n in range(-6, 7)]
    (tmp_path / "a.json").write_text(json.dumps(first_schema(numbers, elected="majority")))
    circuit = Circuit.load(tmp_path / "a.json")
    assert circuit.method is None and torch.equal(circuit.ranking, circuit.scores.abs())
    assert sorted(circuit.scores.tolist()) == numbers


@each_graph
def test_an_export_has_the_three_keys_of_eap_ig_in_its_order(graph, tmp_path):
    circuit = random_circuit(replace(graph, d_model=24), 4, task="t")
    circuit.save(tmp_path / "c.json", "mib")
    value = json.loads((tmp_path / "c.json").read_text())
    whole = circuit.ungrouped()
    assert list(value) == ["cfg", "nodes", "edges", "circuitprune"]
    assert value["cfg"] == {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": 24,
    }
    assert list(value["nodes"]) == [*graph.writers, "logits"]
    assert {n for n, node in value["nodes"].items() if node["in_graph"]} == set(whole.nodes)
    assert list(value["edges"]) == reference_graph.mib_edge_names(graph)
    for name, edge in value["edges"].items():
        position = graph.edge_index(name)
        assert edge["in_graph"] is bool(circuit.mask[position])
        assert edge["score"] == scores_of(circuit)[position].item()


def test_without_scores_the_file_has_numbers_that_eap_ig_can_rank(tmp_path):
    circuit = Circuit.from_names(Graph(1, 1, 1), ["input->m0"])
    circuit.save(tmp_path / "c.json", "mib")
    edges = json.loads((tmp_path / "c.json").read_text())["edges"]
    assert {name: edge["score"] for name, edge in edges.items() if edge["score"]} == {
        "input->m0": 1.0
    }
    assert Circuit.load(tmp_path / "c.json").scores is None
    ranked = replace(circuit, ranking=torch.arange(8.0))
    ranked.save(tmp_path / "r.json", "mib")
    assert Circuit.load(tmp_path / "r.json") == ranked
    edges = json.loads((tmp_path / "r.json").read_text())["edges"]
    assert sorted(edge["score"] for edge in edges.values()) == list(range(8))


def test_edges_without_a_score_survive_grouping(tmp_path):
    circuit = random_circuit(Graph(2, 4, 2), 1, task="t")
    scores = scores_of(circuit).clone()
    scores[::3] = torch.nan
    circuit = replace(circuit, scores=scores, ranking=None)
    circuit.save(tmp_path / "c.json", "mib")
    assert Circuit.load(tmp_path / "c.json") == circuit


def test_hostile_provenance_survives_files_and_stays_inert_on_screen(tmp_path):
    circuit = random_circuit(Graph(1, 1, 1), 0, model=HOSTILE, **{HOSTILE: [HOSTILE]})
    circuit.save(tmp_path / "c.json", "mib")
    assert Circuit.load(tmp_path / "c.json") == circuit
    page = circuit._repr_html_()
    assert "<img" not in page and "</script" not in page and "&lt;img" in page
    assert "\x1b" not in circuit.summary() and "\u202e" not in circuit.summary()


def test_infinite_scores_are_not_written(tmp_path):
    circuit = random_circuit(Graph(1, 1, 1), 0)
    with pytest.raises(GraphError, match="infinite scores"):
        replace(circuit, scores=scores_of(circuit) / 0).save(tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_an_unknown_format_is_refused(tmp_path):
    jaxtyping.config.update("jaxtyping_disable", True)  # users have no checks of literals
    try:
        with pytest.raises(GraphError, match="unknown circuit format 'pickle'"):
            random_circuit(Graph(1, 1, 1), 0).save(tmp_path / "c", format="pickle")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# ------------------------------------------------------------------------ EAP-IG and MIB


def test_a_file_of_a_whole_model_is_read_and_written_back_byte_for_byte(tmp_path):
    """Written here in the words of EAP-IG, scores to the last digit."""
    graph, generator = Graph(4, 12, 12, d_model=768), torch.Generator().manual_seed(0)
    scores = torch.randn(graph.n_edges, generator=generator, dtype=torch.float64) / 1000
    kept = live_edges(graph, scores > 0.0005)
    nodes, at = Circuit(graph, kept).nodes, {name: i for i, name in enumerate(graph.edges)}
    value = {
        "cfg": {"n_layers": 4, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768},
        "nodes": {n: {"in_graph": n in nodes} for n in (*graph.writers, "logits")},
        "edges": {
            name: {"score": scores[at[name]].item(), "in_graph": bool(kept[at[name]])}
            for name in reference_graph.mib_edge_names(graph)
        },
    }
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(value))
    found = Circuit.load(path)
    assert found.graph == graph and found.n_edges > 50
    assert torch.equal(found.mask, kept) and torch.equal(scores_of(found), scores)
    found.save(tmp_path / "back.json", "mib")
    assert (tmp_path / "back.json").read_bytes() == path.read_bytes()


@needs_mib
def test_the_published_circuit_is_read_and_written_back_byte_for_byte(tmp_path):
    circuit = Circuit.load(MIB)
    assert circuit.graph == Graph(12, 12, 12, d_model=768)
    assert len(circuit.graph.writers) + 1 == 158 and circuit.graph.n_edges == 32_491
    assert circuit.n_edges == circuit.n_edges_ungrouped == circuit.trim().n_edges == 756
    assert "a9.h9->logits" in circuit.edges
    assert scores_of(circuit)[circuit.graph.edge_index("a11.h5->logits")] == -0.0034679502714425325
    circuit.save(tmp_path / "back.json", "mib")
    assert (tmp_path / "back.json").read_bytes() == MIB.read_bytes()


def small_mib():
    """An EAP-IG file as a value, in its own words: a circuit of two edges, all edges scored."""
    graph = Graph(1, 2, 2)
    kept = {"input->a0.h1<v>", "a0.h1->logits"}
    edges = enumerate(reference_graph.mib_edge_names(graph))
    return {
        "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {
            n: {"in_graph": n in ("input", "a0.h1", "logits")} for n in (*graph.writers, "logits")
        },
        "edges": {n: {"score": i / 7, "in_graph": n in kept} for i, n in edges},
    }


def odd_values():
    """Files that other programs may have written, each with something we do not model."""
    yield "plain", small_mib()
    value = small_mib()
    value["nodes"]["m0"]["in_graph"] = True
    yield "node flag that no edge implies", value
    value = small_mib()
    value["nodes"]["m0"] |= {"score": 1.5, "neurons": [True] * 8}
    value["extra"], value["cfg"]["model"] = {"a": [HOSTILE]}, "gpt2"
    yield "extra keys", value
    value = small_mib()
    value["edges"]["input->m0"]["score"] = float("nan")
    yield "not scored", value
    value = small_mib()
    value["edges"]["input->m0"]["score"] = None
    del value["edges"]["a0.h0->m0"]["score"]
    yield "null and missing scores", value
    value = small_mib()
    value["edges"] = {name: {"in_graph": e["in_graph"]} for name, e in value["edges"].items()}
    yield "no scores", value
    value = small_mib()
    value["edges"] = {n: e for n, e in value["edges"].items() if e["in_graph"]}
    yield "kept edges only", value
    value = small_mib()
    value["edges"] = dict(reversed(value["edges"].items()))
    yield "another order", value
    value = small_mib()
    value["edges"]["input->m0"]["score"] = 3
    yield "whole number", value
    value = small_mib()
    value["nodes"] = {name: node["in_graph"] for name, node in value["nodes"].items()}
    yield "nodes as plain flags", value


@pytest.mark.parametrize("value", [pytest.param(v, id=name) for name, v in odd_values()])
def test_foreign_files_are_written_back_equal(value, tmp_path):
    path, back = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text(json.dumps(value))
    circuit = Circuit.load(path)
    assert circuit.edges == ("input->a0.h1<v>", "a0.h1->logits") and circuit.provenance == {}
    circuit.save(back, "mib")
    assert back.read_text() == path.read_text()
    assert circuit.trim() is circuit


def test_missing_scores_are_nan_and_no_scores_are_none(tmp_path):
    for name, value in odd_values():
        (tmp_path / "a.json").write_text(json.dumps(value))
        scores = Circuit.load(tmp_path / "a.json").scores
        missing = {"not scored": 1, "null and missing scores": 2, "kept edges only": 11}
        if name == "no scores":
            assert scores is None
        else:
            assert (
                scores is not None
                and scores.dtype == torch.float64
                and scores.isnan().sum() == missing.get(name, 0)
            )


def test_a_changed_circuit_is_written_anew(tmp_path):
    value = dict(odd_values())["extra keys"]
    (tmp_path / "a.json").write_text(json.dumps(value))
    circuit = Circuit.load(tmp_path / "a.json")
    changed = replace(circuit, mask=circuit.mask & circuit.graph.mask_of(["a0.h1->logits"]))
    changed.save(tmp_path / "b.json", "mib")
    written = json.loads((tmp_path / "b.json").read_text())
    assert "extra" not in written and written["nodes"]["input"] == {"in_graph": False}
    assert Circuit.load(tmp_path / "b.json").edges == ("a0.h1->logits",)
    with_facts = replace(circuit, provenance={"model": "gpt2"})
    with_facts.save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json").provenance == {"model": "gpt2"}


def damaged_values():
    def damaged(*path, to):
        value = small_mib()
        value["circuitprune"] = {
            "schema": 1,
            "graph": {"n_kv_readers": 2},
            "score_dtype": "float64",
            "provenance": {},
        }
        place = value
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return value

    edge = ("edges", "input->m0")
    yield damaged("cfg", to=[]), "'cfg' and 'nodes' must be objects"
    yield damaged("nodes", to=[]), "'cfg' and 'nodes' must be objects"
    yield damaged("edges", to=[]), "'edges' must be an object"
    yield damaged("cfg", "n_layers", to=0), "n_layers must be a whole number from 1, got 0"
    yield damaged("cfg", "n_heads", to="2"), "n_heads must be a whole number from 1, got '2'"
    yield damaged("cfg", "n_heads", to=True), "n_heads must be a whole number"
    yield damaged("cfg", "n_layers", to=10**12), "sizes must be at least 1 and at most 1,000"
    yield damaged("cfg", "n_layers", to=1000), "so 3,002 nodes, but 5 are listed"
    yield damaged("cfg", "d_model", to="8"), "d_model='8'"
    yield damaged("nodes", "m9", to={}), "so 5 nodes, but 6 are listed"
    yield damaged("edges", "m0->m0", to={"in_graph": True}), "m0 is not upstream of m0"
    yield damaged("edges", HOSTILE, to={"in_graph": True}), "an edge is written"
    yield damaged(*edge, to=True), "needs in_graph true or false, got True"
    yield damaged(*edge, "in_graph", to=1), "needs in_graph true or false"
    yield damaged(*edge, "score", to="1"), "has score '1', expected a finite number"
    yield damaged(*edge, "score", to=True), "has score True"
    yield damaged("circuitprune", to=None), "no schema number"
    yield damaged("circuitprune", "schema", to=3), "newer circuitprune .schema 3.*upgrade"
    yield damaged("circuitprune", "graph", to=None), "damaged"
    yield damaged("circuitprune", "graph", to={"n_kv_readers": 7}), "7 must divide n_heads 2"
    yield damaged("circuitprune", "graph", to={"n_kv_readers": 1}), "different k or v edges"
    yield damaged("circuitprune", "score_dtype", to="load"), "damaged"
    yield damaged("circuitprune", "score_dtype", to=[]), "damaged"
    yield damaged("circuitprune", "provenance", to=3), "provenance"
    yield {"cfg": {}}, "not a circuit"
    yield "text", "not a circuit"
    yield 3, "not a circuit"


@pytest.mark.parametrize(("value", "message"), list(damaged_values()))
def test_a_damaged_file_is_named_with_its_fault(value, message, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(value))
    with pytest.raises(GraphError, match=message) as caught:
        Circuit.load(tmp_path / "bad.json")
    assert str(tmp_path / "bad.json") in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("change", ["add", "drop", "deny"])
def test_a_file_whose_number_of_edges_does_not_fit_is_refused(change, tmp_path):
    """A file by itself, of which nobody keeps a hash."""
    circuit = Circuit.from_names(Graph(1, 2, 2), ["input->m0", "m0->logits"])
    circuit.save(tmp_path / "a.json")
    value = json.loads((tmp_path / "a.json").read_text())
    assert value["circuitprune"]["n_edges"] == 2
    if change == "add":
        value["edges"]["input->logits"] = {"score": 1.0, "in_graph": True}
    elif change == "drop":
        del value["edges"]["m0->logits"]
    else:
        value["edges"]["m0->logits"]["in_graph"] = False
    (tmp_path / "a.json").write_text(json.dumps(value))
    n_edges = 3 if change == "add" else 1
    with pytest.raises(GraphError, match=rf"says n_edges 2, and lists {n_edges} kept edges?:"):
        Circuit.load(tmp_path / "a.json")
    del value["circuitprune"]["n_edges"]  # as 0.1 wrote it
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert Circuit.load(tmp_path / "a.json").n_edges == n_edges


@pytest.mark.parametrize("score", ["Infinity", "-Infinity", "1e999", "9" * 400, "9" * 20])
def test_numbers_that_are_none_are_refused(tmp_path, score):
    value = small_mib()
    value["edges"]["input->m0"]["score"] = "here"
    (tmp_path / "bad.json").write_text(json.dumps(value).replace('"here"', score))
    with pytest.raises(RunError, match=rf"bad\.json is not a JSON file: {score[:9]}"):
        Circuit.load(tmp_path / "bad.json")


def test_files_that_are_no_json_are_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "gone.json"):
        with pytest.raises(RunError, match=name):
            Circuit.load(tmp_path / name)


def test_a_given_graph_is_held_against_the_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(small_mib()))
    assert Circuit.load(tmp_path / "a.json", Graph(1, 2, 2)).graph.d_model == 8
    with pytest.raises(
        GraphError, match=r"holds a graph of 1 layer, 2 heads, .* expected .* 3 layers"
    ):
        Circuit.load(tmp_path / "a.json", Graph(3, 2, 2))


def test_a_file_in_the_other_convention_says_what_to_set(tmp_path):
    """MIB counts by query head; a model with fewer KV heads is read by these as it comes."""
    grouped, whole = Graph(1, 2, 1), Graph(1, 2, 2)
    for theirs, ours, kv_readers in ((whole, grouped, "query_head"), (grouped, whole, "kv_head")):
        Circuit.from_names(theirs, ["input->m0", "m0->logits"]).save(tmp_path / "a.json")
        with pytest.raises(GraphError, match=f"set model.kv_readers={kv_readers}"):
            Circuit.load(tmp_path / "a.json", ours)


def test_a_file_too_large_for_its_graph_is_refused_unread(tmp_path):
    graph, path = Graph(1, 2, 2), tmp_path / "a.json"
    path.touch()
    os.truncate(path, BESIDE + PER_EDGE * graph.n_edges + 1)
    with pytest.raises(RunError, match=f"at most {BESIDE + PER_EDGE * graph.n_edges:,} here"):
        Circuit.load(path, graph)
    os.truncate(path, LIMITS["circuit"] + 1)
    with pytest.raises(RunError, match=f"at most {LIMITS['circuit']:,} here"):
        Circuit.load(path)


@pytest.mark.parametrize("form", ["circuitprune", "mib", "edge_pruning"])
def test_a_whole_circuit_of_a_real_model_is_within_its_limit(tmp_path, form):
    graph = Graph(12, 12, 12, d_model=768)
    scores = torch.randn(graph.n_edges, dtype=torch.float64) * 1e-5
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    whole = Circuit(graph, every, scores, ranking=scores.neg())
    whole.save(tmp_path / "a.json", format=form)
    assert (tmp_path / "a.json").stat().st_size < PER_EDGE * graph.n_edges / 2


# ------------------------------------------------------------------------ Edge-Pruning


GPT2_LIST = [
    ["tok_embeds", "a0.h0.q"],
    ["tok_embeds", "a0.h1.k"],
    ["pos_embeds", "a0.h0.q"],
    ["pos_embeds", "a0.h0.v"],
    ["tok_embeds", "m0"],
    ["a0.h1", "m0"],
    ["a0.h0", "a1.h1.v"],
    ["m0", "m1"],
    ["pos_embeds", "resid_post"],
    ["m1", "resid_post"],
]


def load_list(tmp_path, pairs, graph, **style):
    (tmp_path / "edges.json").write_text(json.dumps(pairs, **style))
    return Circuit.load(tmp_path / "edges.json", graph=graph)


def test_a_list_of_kv_heads_is_not_read_as_one_of_query_heads(tmp_path):
    """Edge-Pruning's Llama lists name KV heads: on a graph by query head these are other heads."""
    (tmp_path / "edges.json").write_text(json.dumps([["embeds", "a0.h1.k"]]))
    by_kv_head = Circuit.load(tmp_path / "edges.json", Graph(1, 4, 2), n_kv_heads=2)
    assert by_kv_head.edges == ("input->a0.kv1<k>",)
    with pytest.raises(GraphError, match=r"edges\.json: is an Edge-Pruning .*kv_readers=kv_head"):
        Circuit.load(tmp_path / "edges.json", Graph(1, 4, 4), n_kv_heads=2)
    every_head = Circuit.load(tmp_path / "edges.json", Graph(1, 4, 4), n_kv_heads=4)
    assert every_head.edges == ("input->a0.h1<k>",)
    with pytest.raises(GraphError, match=r"are not said: .*model\.kv_readers=kv_head"):
        Circuit.load(tmp_path / "edges.json", Graph(1, 4, 4))
    for pairs in ([["tok_embeds", "a0.h1.k"]], [["embeds", "a0.h3.q"], ["m0", "resid_post"]]):
        circuit = load_list(tmp_path, pairs, Graph(1, 4, 4))  # nothing of it is ambiguous
        circuit.save(tmp_path / "back.json", format="edge_pruning")
        assert json.loads((tmp_path / "back.json").read_text()) == pairs


def test_keys_of_query_heads_are_not_written_as_those_of_kv_heads(tmp_path):
    graph, about = Graph(1, 4, 4), {"kv_readers": "query_head"}
    keys = Circuit(graph, graph.mask_of(["input->a0.h3<k>"]), provenance=about)
    with pytest.raises(GraphError, match=r"model\.kv_readers=kv_head"):
        keys.save(tmp_path / "a.json", format="edge_pruning")
    assert not (tmp_path / "a.json").exists()
    queries = replace(keys, mask=graph.mask_of(["input->a0.h3<q>"]))
    queries.save(tmp_path / "a.json", format="edge_pruning")  # a query head is a query head
    keys.save(tmp_path / "b.json", format="edge_pruning_gpt2")  # which has as many KV heads
    assert json.loads((tmp_path / "a.json").read_text()) == [["embeds", "a0.h3.q"]]


def test_an_edge_list_is_read_and_written_back_byte_for_byte(tmp_path):
    circuit = load_list(tmp_path, GPT2_LIST, Graph(2, 2, 2), indent=4)
    assert set(circuit.edges) == {
        "input->a0.h0<q>",
        "input->a0.h1<k>",
        "input->a0.h0<v>",
        "input->m0",
        "a0.h1->m0",
        "a0.h0->a1.h1<v>",
        "m0->m1",
        "input->logits",
        "m1->logits",
    }
    circuit.save(tmp_path / "back.json", format="edge_pruning")
    assert (tmp_path / "back.json").read_bytes() == (tmp_path / "edges.json").read_bytes()


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        GPT2_LIST[::-1],
        GPT2_LIST + GPT2_LIST[:2],
        [*GPT2_LIST, ["a0.h1.k", "a0.h1"], ["a1.h1.v", "a1.h1"]],
        [["embeds", "m0"], ["m0", "resid_post"]],
        [["a0.h1", "m0"]],
    ],
)
def test_edge_lists_of_any_order_come_back_equal(pairs, tmp_path):
    circuit = load_list(tmp_path, pairs, Graph(2, 2, 2))
    circuit.save(tmp_path / "back.json", format="edge_pruning")
    assert json.loads((tmp_path / "back.json").read_text()) == pairs


def test_a_changed_edge_list_keeps_its_words_for_the_embeddings(tmp_path):
    circuit = load_list(tmp_path, GPT2_LIST, Graph(2, 2, 2))
    changed = replace(circuit, mask=circuit.mask & ~circuit.graph.mask_of(["m0->m1"]))
    changed.save(tmp_path / "back.json", format="edge_pruning")
    pairs = json.loads((tmp_path / "back.json").read_text())
    assert ["m0", "m1"] not in pairs and ["tok_embeds", "a0.h0.v"] in pairs
    assert Circuit.load(tmp_path / "back.json", circuit.graph).edges == changed.edges


def test_a_list_without_embeddings_can_gain_input_edges(tmp_path):
    circuit = load_list(tmp_path, [["m0", "resid_post"]] * 2, Graph(1, 1, 1))
    more = circuit.mask | circuit.graph.mask_of(["input->m0"])
    replace(circuit, mask=more).save(tmp_path / "back.json", format="edge_pruning")
    pairs = json.loads((tmp_path / "back.json").read_text())
    assert pairs == [["embeds", "m0"], ["m0", "resid_post"]]


@each_graph
@pytest.mark.parametrize("format", ["edge_pruning", "edge_pruning_gpt2"])
def test_every_circuit_survives_as_an_edge_list(graph, format, tmp_path):
    circuit = random_circuit(graph, 6)
    circuit.save(tmp_path / "edges.json", format=format)
    again = Circuit.load(tmp_path / "edges.json", graph, n_kv_heads=graph.n_kv_readers)
    assert again.edges == circuit.edges and again.scores is None


def test_edge_lists_are_in_the_order_of_get_edges(tmp_path):
    graph = Graph(1, 2, 2)
    Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool)).save(
        tmp_path / "e.json", format="edge_pruning_gpt2"
    )
    embeddings = ["tok_embeds", "pos_embeds"]
    ports = [f"a0.h{head}.{port}" for port in "qkv" for head in (0, 1)]
    expected = [[writer, port] for writer in embeddings for port in ports]
    expected += [[writer, "m0"] for writer in [*embeddings, "a0.h0", "a0.h1"]]
    expected += [[writer, "resid_post"] for writer in [*embeddings, "a0.h0", "a0.h1", "m0"]]
    assert json.loads((tmp_path / "e.json").read_text()) == expected


def test_in_a_grouped_graph_a_key_port_is_a_kv_head(tmp_path):
    pairs = [["embeds", "a0.h1.k"], ["a0.h3", "resid_post"]]
    assert load_list(tmp_path, pairs, Graph(1, 4, 2)).edges[0] == "input->a0.kv1<k>"
    with pytest.raises(GraphError, match="pass n_kv_heads, or count by KV head"):
        load_list(tmp_path, pairs, Graph(1, 4, 4))
    with pytest.raises(GraphError, match=r"a0\.h3\.k"):
        load_list(tmp_path, [["embeds", "a0.h3.k"]], Graph(1, 4, 2))


def test_an_edge_list_needs_a_graph(tmp_path):
    with pytest.raises(GraphError, match=r"edges\.json: .*does not say the model's sizes.*graph="):
        load_list(tmp_path, GPT2_LIST, None)


NO_PAIRS = ["m0", ["m0"], ["m0", "m1", "m1"], ["m0", 3], {"a": 1}, None]
NO_EDGES = [
    "m1 m0",
    "m0 a0.h0.q",
    "m0 m7",
    "m0 embeds",
    "resid_post m0",
    "a0.h0.q a0.h1",
    "a7.h0.q a7.h0",
    "x\x1b m0",
]


@pytest.mark.parametrize("pair", [*NO_PAIRS, *(pair.split(" ") for pair in NO_EDGES)])
def test_entries_that_are_no_edges_are_refused(pair, tmp_path):
    with pytest.raises(GraphError, match=r"edges\.json"):
        load_list(tmp_path, [*GPT2_LIST, pair], Graph(2, 2, 2))


# ------------------------------------------------------------------------ to look at


@each_graph
def test_networkx_has_the_same_edges_by_query_head(graph):
    circuit = random_circuit(graph, 7)
    result = circuit.to_networkx()
    whole = circuit.ungrouped()
    attributes = {data["name"]: data["score"] for _, _, data in result.edges(data=True)}
    scores = scores_of(whole).tolist()
    assert attributes == {n: scores[whole.graph.edge_index(n)] for n in whole.edges}
    assert result.number_of_edges() == circuit.n_edges_ungrouped
    for writer, node, port in result.edges(keys=True):
        assert f"{writer}->{node}" + (f"<{port}>" if port in "qkv" else "") in attributes
    assert set(result.nodes) >= {name.split("->")[0] for name in whole.edges}


def test_without_networkx_the_error_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "networkx":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(GraphError, match=r"pip install 'circuitprune\[graph\]'"):
        random_circuit(Graph(1, 1, 1), 0).to_networkx()


def test_summary_and_html_show_both_counts_and_the_strongest_edges():
    graph = Graph(2, 4, 2)
    names = ["input->a0.kv0<k>", "a0.h1->m1", "m1->logits"]
    scores = torch.zeros(graph.n_edges)
    for name, score in zip(names, [0.5, -2.0, float("nan")], strict=True):
        scores[graph.edge_index(name)] = score
    circuit = Circuit(graph, graph.mask_of(names), scores, {"model": "m"})
    text = circuit.summary()
    assert text.splitlines()[0].startswith(f"edges: 3 of {graph.n_edges} (")
    assert f"4 of {graph.n_edges_ungrouped} by query head" in text and "model: m" in text
    assert repr(circuit) == f"Circuit(3 of {graph.n_edges} edges)"
    page = circuit._repr_html_()
    table = page.partition("</svg>")[2]
    order = [table.index(s) for s in ("a0.h1-&gt;m1", "input-&gt;a0.kv0&lt;k&gt;", "m1-&gt;logits")]
    assert order == sorted(order) and "<td>-2</td>" in page
    assert "http" not in table and "<script" not in page


def test_saving_is_atomic(tmp_path, monkeypatch):
    circuit = random_circuit(Graph(1, 1, 1), 0)
    circuit.save(tmp_path / "c.json", "mib")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(RunError, match="No space left"):
        circuit.complement.save(tmp_path / "c.json")
    assert Circuit.load(tmp_path / "c.json") == circuit
