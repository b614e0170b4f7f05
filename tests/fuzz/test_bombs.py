"""Small files that ask for much: refused before the memory is taken."""

import json
import tracemalloc

import pytest
import torch
from safetensors.torch import save

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.data.tasks.jsonl import read_pairs
from circuitprune.errors import CircuitPruneError, DataError, GraphError, RunError
from circuitprune.files import decoding
from circuitprune.files.limits import EDGES, PAIRS, VALUES
from circuitprune.files.whole import read_json, read_tensors, write_tensors
from circuitprune.pipelines.compare_scores import load_scores


def refused(read, path, kind=CircuitPruneError) -> tuple[str, int]:
    """What is said, and the most bytes that Python held at a time."""
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            read(path)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def edges(n: int) -> bytes:
    row = b'"a%d.h0->m%d": {"score": 0.1, "in_graph": true}'
    return b", ".join(row % (i, i) for i in range(n))


SIZES = b'"cfg": {"n_layers": 2, "n_heads": 2}, "nodes": {}'


@pytest.mark.parametrize(
    ("front", "back", "said"),
    [
        (b"{%b, " % SIZES, b"}", "by the sizes in its first lines, has"),
        (b"{", b", %b}" % SIZES, "by the sizes in its first lines, has"),
    ],
)
def test_a_circuit_of_more_edges_than_its_sizes_have_is_not_parsed(tmp_path, front, back, said):
    path = tmp_path / "a.json"
    path.write_bytes(front + b'"edges": {%b}' % edges(120_000) + back)
    size = path.stat().st_size
    message, peak = refused(Circuit.load, path, RunError)
    assert said in message and f"{size:,} bytes" in message
    assert peak < 1.5 * size  # parsed, it is twelve times as much


def test_an_edge_list_without_a_graph_is_not_parsed(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b" \n[%b]" % b", ".join([b'["m0", "a1.h1.q"]'] * 300_000))
    message, peak = refused(Circuit.load, path, GraphError)
    assert "does not say the model's sizes" in message and peak < 1.5 * path.stat().st_size


def test_sizes_of_more_edges_than_memory_are_refused_though_all_nodes_are_listed(tmp_path):
    n_layers, n_heads = 60, 400
    names = [f"a{layer}.h{head}" for layer in range(n_layers) for head in range(n_heads)]
    names += ["input", "logits", *(f"m{layer}" for layer in range(n_layers))]
    cfg = {"n_layers": n_layers, "n_heads": n_heads}
    value = {"cfg": cfg, "nodes": {name: {} for name in names}, "edges": {}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    message, peak = refused(Circuit.load, tmp_path / "a.json", GraphError)
    assert f"at most {EDGES:,} here" in message and peak < 50_000_000


@pytest.mark.parametrize("sizes", [(10**9, 1, 1), (1, 10**12, 1), (1001, 4, 4), (2, 2000, 1)])
def test_no_graph_is_larger_than_any_model(sizes):
    with pytest.raises(GraphError, match="at most 1,000"):
        Graph(*sizes)


def test_more_values_than_memory_are_counted_before_they_are_made(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b"[]," * (VALUES // 2 + 1) + b"0]")
    message, peak = refused(read_json, path, RunError)
    assert f"expected at most {VALUES:,}" in message and peak < 1.5 * path.stat().st_size


@pytest.mark.parametrize("shape", [[10**12], [10**6, 10**6], [2**63, 2], [10**12, 0]])
@pytest.mark.parametrize("end", [16, 4 * 10**12])
def test_a_header_of_more_numbers_than_the_file_is_refused(tmp_path, shape, end):
    data = save({"scores": torch.zeros(4)})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["scores"] |= {"shape": shape, "data_offsets": [0, end]}
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    _, peak = refused(read_tensors, path, RunError)
    assert peak < 2_000_000


def test_scores_that_say_a_graph_of_another_size_are_refused(tmp_path):
    path = tmp_path / "scores.safetensors"
    for sizes, said in [((10**9, 1, 1), "at most 1,000"), ((900, 900, 900), "expected float")]:
        about = dict(zip(("n_layers", "n_heads", "n_kv_readers"), sizes, strict=True))
        write_tensors(path, {"scores": torch.zeros(4)}, {"graph": json.dumps(about)})
        message, peak = refused(load_scores, path)
        assert said in message and peak < 5_000_000


def test_blank_lines_and_long_lines_of_pairs_take_no_memory(tmp_path):
    blank = tmp_path / "a.jsonl"
    blank.write_bytes(b"\n" * 300_000)
    assert refused(read_pairs, blank, DataError)[1] < 2_000_000
    for name in ("long.csv", "long.jsonl"):
        (tmp_path / name).write_bytes(b"clean,corrupt,answers,wrong\n" + b"," * 1_500_000)
        message, peak = refused(read_pairs, tmp_path / name, DataError)
        line = "line 2: it has 1,500,000 bytes" if name == "long.csv" else "line 1: not valid JSON"
        assert f"{name}, {line}" in message
        assert peak < 4 * 1_500_000


def test_a_table_of_very_many_columns_is_refused_at_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"c{i}" for i in range(120_000)))
    message, _ = refused(read_pairs, path, DataError)
    assert "missing column" in message and len(message) < 300


def test_more_pairs_than_a_file_may_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("circuitprune.data.tasks.jsonl.PAIRS", 2)
    row = {"clean": "a", "corrupt": "b", "answers": ["c"], "wrong": ["d"]}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    with pytest.raises(DataError, match="line 3: more than 2 pairs"):
        read_pairs(tmp_path / "a.jsonl")
    assert PAIRS == 1_000_000


def test_brackets_are_counted_deep_and_wide():
    """Also those that Python's own decoder takes; what is wide is not deep."""
    deep = "[" * (decoding.DEPTH + 1) + "]" * (decoding.DEPTH + 1)
    for text in (deep, '{"a": ' * 401 + "1" + "}" * 401, "[" * 100_000):
        with pytest.raises(ValueError, match="nested deeper than 400"):
            decoding.decode(text)
    assert decoding.decode(deep[1:-1]) is not None
    assert len(decoding.decode("[" + "[[1]]," * 1000 + "2]")) == 1001
