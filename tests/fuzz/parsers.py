"""Every reader of bytes from a disk: a valid file, its mutations, and how it is read."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import strategies as st
from report_evidence import judge, stability, transfer
from report_runs import GROUPED, make_run

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.part_graph import Cut, part_graph
from circuitprune.circuits.part_spans import at_spans
from circuitprune.circuits.span_graph import Span
from circuitprune.config import RunConfig
from circuitprune.data.foreign import Wanted, convert_pairs
from circuitprune.data.tasks.jsonl import read_pairs
from circuitprune.errors import RunError
from circuitprune.evidence.minimality import Minimality
from circuitprune.files.records import to_json
from circuitprune.files.whole import write_json, write_tensors
from circuitprune.models.adapters import base_of
from circuitprune.patching.acdc_state import AcdcState
from circuitprune.pipelines import scoring
from circuitprune.pipelines.compare_scores import load_scores
from circuitprune.pipelines.gathering import kept
from circuitprune.pipelines.subject import check_model
from circuitprune.pipelines.verify_config import load_options
from circuitprune.runs.finished import full_ranking, load_found, run_circuit
from circuitprune.runs.folder import read_checkpoint, read_config
from circuitprune.runs.frontier import read_results
from circuitprune.runs.lock import NAME, locked
from circuitprune.runs.manifest import seal
from circuitprune.runs.settings import load_config, settings
from circuitprune.runs.shards import run_shards
from circuitprune.runs.studies import Comparison, Stability
from circuitprune.views.figures.sources import read_section, read_series, read_study
from circuitprune.views.report import report_data, write_report
from fuzz.mutations import (
    TYPED,
    csv_files,
    damaged,
    damaged_checkpoint,
    damaged_tensors,
    json_files,
    odd_header,
    torn,
    written,
    yaml_files,
)

GRAPH = Graph(2, 2, 2, d_model=8)
SIZES = (5, 12)
ABOUT = {"selection": "top_n", "model_fingerprint": "0" * 16, "pairs_hash": "1" * 16}
PAIRS = [
    {"clean": "So, he", "corrupt": "So, she", "answers": [" his"], "wrong": [" her"], "id": "a"},
    {
        "clean": "Then he",
        "corrupt": "Then she",
        "answers": [" his", " him"],
        "wrong": [" her"],
        "kind": "k",
        "group": "g",
        "meta": {"a": "b"},
    },
]


@dataclass(frozen=True)
class Parser:
    """One kind of file."""

    make: Callable[[Path], Path]
    """Writes a valid one into a folder, and whatever it stands beside; returns it."""
    read: Callable[[Path], object]
    """Reads it as the package does."""
    mutated: Callable[[Path], st.SearchStrategy[bytes]]
    """Files that were valid once."""


def of_json(path: Path) -> st.SearchStrategy[bytes]:
    return json_files(json.loads(path.read_text()))


def of_tensors(path: Path) -> st.SearchStrategy[bytes]:
    """Whole files of wrong contents, with a right checksum, and files with wrong headers."""
    data = path.read_bytes()
    notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    notes.pop("sha256")
    tensors = _tensors(data)

    def sealed(found) -> bytes:
        write_tensors(path.with_suffix(".new"), *found)
        return path.with_suffix(".new").read_bytes()

    def safe(found) -> bool:  # what a file can hold at all
        texts = [*found[1], *found[1].values()]
        return "sha256" not in found[1] and all(map(_is_text, texts))

    whole = damaged_tensors(tensors, notes).filter(safe).map(sealed)
    return st.one_of(whole, whole, odd_header(data), torn(data))


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(data)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


# ---------------------------------------------------------------- what is valid


def run_folder(folder: Path) -> Path:
    make_run(folder, GRAPH, sizes=SIZES)
    frontier = json.loads((folder / "frontier.json").read_text())
    write_json(folder / "frontier.json", {**frontier, **ABOUT})
    scores = torch.linspace(-1, 1, GRAPH.n_edges)
    notes = {"method": "eap", "graph": json.dumps(asdict(GRAPH)), "job": json.dumps({"a": 1})}
    nodes = torch.zeros(GRAPH.n_writers)
    write_tensors(folder / "scores.safetensors", {"scores": scores, "nodes": nodes}, notes)
    return folder


def in_run(name: str) -> Callable[[Path], Path]:
    return lambda folder: run_folder(folder) / name


def own_circuit(folder: Path, format: str = "circuitprune", graph: Graph = GROUPED) -> Path:
    scores = torch.linspace(-1, 1, graph.n_edges)
    mask = torch.arange(graph.n_edges) % 7 == 0
    about = {"model": "tiny", "selection": "top_n", "evidence": {"kl": 0.5}}
    whole = Circuit(graph, mask, scores, about, ranking=-scores, method="eap")
    whole.save(folder / "circuit.json", format=format)
    return folder / "circuit.json"


def edge_list(folder: Path) -> Path:
    return own_circuit(folder, "edge_pruning_gpt2", GRAPH)


def learned(folder: Path) -> Path:
    ranking = torch.linspace(0, 1, GRAPH.n_edges)
    notes = {"learner": "topk", "graph": json.dumps(asdict(GRAPH))}
    write_tensors(run_folder(folder) / "gates.safetensors", {"ranking": ranking}, notes)
    return folder / "gates.safetensors"


def scores_at_spans(folder: Path) -> Path:
    cuts = Cut("input", 0), Cut("m0", 3, "neuron", 2)
    graph = at_spans(part_graph(GRAPH, "neuron", cuts), [Span("end", (0,), True, True)])
    tensors, notes = {"scores": torch.zeros(graph.n_edges)}, {"graph": json.dumps(asdict(graph))}
    write_tensors(folder / "scores.safetensors", tensors, notes)
    return folder / "scores.safetensors"


def acdc_state(folder: Path) -> Path:
    AcdcState.start(GRAPH, 0.1, "kl").save(folder / "acdc.safetensors", "f")
    return folder / "acdc.safetensors"


PLAN, JOB = [torch.arange(3), torch.arange(3, 5)], {"a": 1, "b": "x"}


def shard(folder: Path) -> Path:
    run_shards(PLAN, torch.Tensor.double, folder, JOB)
    return folder / "00000.safetensors"


def scoring_file(folder: Path) -> Path:
    tensors = {
        "scores": torch.zeros(GRAPH.n_edges),
        "nodes": torch.zeros(GRAPH.n_writers),
        "per_example": torch.zeros(2, GRAPH.n_edges),
        "agreement": torch.tensor([[5.0, 10.0, 0.5]]),
        "circuits": torch.zeros(2, GRAPH.n_edges, dtype=torch.bool),
        "thresholds": torch.tensor([0.1, 0.2]),
    }
    notes = {"method": RunConfig().attribution.method, "job": json.dumps(JOB)}
    write_tensors(folder / "scores.safetensors", tensors, notes)
    return folder / "scores.safetensors"


def sealed(folder: Path) -> Path:
    seal(run_folder(folder))
    return folder / "COMPLETE"


def verified(folder: Path) -> Path:
    make_run(folder, Graph(4, 8, 8), sizes=(7, 40))
    judge(folder)
    return folder / "verification.json"


def evidence_file(folder: Path) -> Path:
    sections = json.loads(verified(folder).read_text())["sections"]
    value = {"identity": {"a": 1}, "result": sections["minimality"]}
    write_json(folder / "minimality.json", value)
    return folder / "minimality.json"


def stability_file(folder: Path) -> Path:
    names = ("run0", "run1")
    for name in names:
        (folder / name).mkdir()
        run_folder(folder / name)
    write_json(folder / "stability.json", stability(names))
    return folder / "stability.json"


def comparison_file(folder: Path) -> Path:
    write_json(folder / "compare.json", transfer(("a", "b")))
    run_folder(folder)
    return folder / "compare.json"


def adapter_config(folder: Path) -> Path:
    value = {"base_model_name_or_path": "zoo/small", "revision": None, "peft_type": "LORA", "r": 8}
    write_json(folder / "adapter_config.json", value)
    return folder / "adapter_config.json"


def config_file(folder: Path) -> Path:
    (folder / "run.yaml").write_text(json.dumps(to_json(RunConfig())))
    return folder / "run.yaml"


def pairs_jsonl(folder: Path) -> Path:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    return folder / "pairs.jsonl"


def pairs_csv(folder: Path) -> Path:
    rows = [",".join(row) for row in TABLE]
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


TABLE = [
    ["clean", "corrupt", "answers", "wrong", "id", "meta.x"],
    ["So he", "So she", " his| him", " her", "a", "1"],
    ["But he", "But she", " his", " her", "b", ""],
]


def pairs_of_mib(folder: Path) -> Path:
    (folder / "mib.jsonl").write_text(json.dumps(FOREIGN))
    return folder / "mib.jsonl"


def pairs_of_eap_ig(folder: Path) -> Path:
    (folder / "eap.csv").write_text("\n".join(",".join(row) for row in FOREIGN_TABLE))
    return folder / "eap.csv"


FOREIGN = {
    "prompt": "Q?\nA. red\nB. blue\nAnswer:",
    "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
    "answerKey": 1,
    "symbol_counterfactual": {"prompt": "Q", "choices": {"label": [1, 2]}, "answerKey": 1},
}
FOREIGN_TABLE = [["", "clean", "corrupted", "plural"], ["0", "The boy", "The boys", "0"]]


def lock_file(folder: Path) -> Path:
    (folder / NAME).write_text("99999999 elsewhere\n")
    return folder / NAME


CHECKPOINT = {
    "epoch": 0,
    "global_step": 7,
    "pytorch-lightning_version": "2.6.6",
    "state_dict": {"learner.scores": torch.arange(5.0)},
    "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
    "callbacks": {},
    "optimizer_states": [
        {"state": {0: {"exp_avg": torch.zeros(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    ],
    "lr_schedulers": [{"base_lrs": [0.1], "last_epoch": 7}],
    "job": {"a": 1},
    "lr": 0.1,
}


def checkpoint(folder: Path) -> Path:
    torch.save(CHECKPOINT, folder / "last.ckpt")
    return folder / "last.ckpt"


# ---------------------------------------------------------------- how it is read


def jsonl_files() -> st.SearchStrategy[bytes]:
    lines = st.lists(damaged(PAIRS[1]).map(written), min_size=1, max_size=3)
    return lines.map(b"\n".join).flatmap(torn)


def foreign_files() -> st.SearchStrategy[bytes]:
    lines = st.lists(damaged(FOREIGN).map(written), min_size=1, max_size=3)
    return lines.map(b"\n".join).flatmap(torn)


def convert(path: Path) -> None:
    wanted = Wanted("all", "word {}".format)
    convert_pairs(path, path.with_name("ours.jsonl"), wanted, skip_wrong=True)


def each(*readers: Callable[[Path], object]) -> Callable[[Path], None]:
    """All of them; what one refuses the others may take."""

    def read(path: Path) -> None:
        refused = []
        for reader in readers:
            try:
                reader(path)
            except Exception as error:
                refused.append(error)
        for error in refused:
            if type(error).__module__ != RunError.__module__:
                raise error
        if refused:
            raise refused[0]

    return read


def in_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


def ranked(folder: Path) -> object:
    frontier, circuits = read_results(folder)
    return full_ranking(folder, frontier, circuits)


def report(folder: Path) -> object:
    return report_data([folder])


def report_page(folder: Path) -> object:
    return write_report([folder])


def base_model(folder: Path) -> object:
    with patch("circuitprune.models.adapters.find_spec"):  # whether or not peft is there
        return base_of("it", folder)


def take_lock(path: Path) -> None:
    with locked(path.parent):
        pass


def in_setup(path: Path) -> object:
    with _job():
        setup: Any = SimpleNamespace(config=RunConfig(), gated=SimpleNamespace(graph=GRAPH))
        return scoring.Scoring.load(path, setup)


@contextmanager
def _job():
    before, scoring.job = scoring.job, lambda setup: JOB
    try:
        yield
    finally:
        scoring.job = before


def own_model(folder: Path) -> None:
    identity = SimpleNamespace(model="0")
    check_model(folder, SimpleNamespace(identity=identity, config=RunConfig()))


def shards(folder: Path) -> object:
    return run_shards(PLAN, torch.Tensor.double, folder, JOB)


def typed(path: Path) -> object:
    """The file is one `key=value`."""
    item = path.read_bytes().decode("utf-8", "surrogateescape")  # as Python reads an argument
    each(lambda _: load_config(None, [item]), lambda _: load_options([item]))(path)


def typed_items(path: Path) -> st.SearchStrategy[bytes]:
    keys = st.sampled_from([one.key for one in settings()] + ["", "x", "train", "init.edges"])
    return st.tuples(keys, TYPED).map(lambda item: "=".join(item).encode("utf-8", "surrogatepass"))


def typed_file(folder: Path) -> Path:
    (folder / "typed").write_text("train.steps=3")
    return folder / "typed"


def load_list(path: Path) -> object:
    return Circuit.load(path, GRAPH)


def section(folder: Path) -> object:
    return read_section(folder, "minimality", Minimality)


def study(name: str, kind: type, key: str) -> Callable[[Path], object]:
    return lambda path: read_study(path, name, kind, key)


PARSERS: dict[str, Parser] = {
    "config": Parser(
        config_file, load_config, lambda path: yaml_files(json.loads(path.read_text()))
    ),
    "key=value": Parser(typed_file, typed, typed_items),
    "pairs, JSONL": Parser(pairs_jsonl, read_pairs, lambda path: jsonl_files()),
    "pairs, CSV": Parser(pairs_csv, read_pairs, lambda path: csv_files(TABLE)),
    "pairs of others, JSON": Parser(pairs_of_mib, convert, lambda path: foreign_files()),
    "pairs of others, CSV": Parser(pairs_of_eap_ig, convert, lambda path: csv_files(FOREIGN_TABLE)),
    "circuit": Parser(own_circuit, each(Circuit.load, load_found, load_scores), of_json),
    "circuit, MIB": Parser(
        lambda folder: own_circuit(folder, "mib"), each(Circuit.load, load_found), of_json
    ),
    "circuit, Edge-Pruning": Parser(edge_list, each(load_list, Circuit.load), of_json),
    "frontier": Parser(
        in_run("frontier.json"),
        in_folder(each(ranked, report, read_series)),
        of_json,
    ),
    "circuit of a run": Parser(in_run("circuits/5.json"), lambda p: ranked(p.parents[1]), of_json),
    "scores": Parser(
        in_run("scores.safetensors"), each(load_scores, in_folder(each(ranked, report))), of_tensors
    ),
    "gates": Parser(learned, each(load_scores, in_folder(ranked)), of_tensors),
    "scores of parts at spans": Parser(scores_at_spans, load_scores, of_tensors),
    "scores of a run that goes on": Parser(scoring_file, in_setup, of_tensors),
    "shard": Parser(shard, in_folder(shards), of_tensors),
    "ACDC": Parser(acdc_state, lambda p: AcdcState.load(p, GRAPH, 0.1, "kl", "f"), of_tensors),
    "checkpoint": Parser(checkpoint, read_checkpoint, lambda _: damaged_checkpoint(CHECKPOINT)),
    "COMPLETE": Parser(sealed, in_folder(each(load_found, run_circuit)), of_json),
    "lock": Parser(lock_file, take_lock, lambda path: torn(path.read_bytes())),
    "command": Parser(in_run("command.json"), in_folder(each(read_config, report)), of_json),
    "versions": Parser(in_run("versions.json"), in_folder(each(own_model, report)), of_json),
    "verification": Parser(verified, in_folder(each(section, read_series, report_page)), of_json),
    "evidence": Parser(evidence_file, lambda p: kept(p, Minimality, {"a": 1}), of_json),
    "adapter": Parser(adapter_config, in_folder(base_model), of_json),
    "stability": Parser(
        stability_file,
        each(study("stability", Stability, "groups"), lambda path: report_data([path])),
        of_json,
    ),
    "compare": Parser(
        comparison_file,
        each(study("compare", Comparison, "transfer"), in_folder(report)),
        of_json,
    ),
}
