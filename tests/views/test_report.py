"""The report holds what the run's files say, asks for nothing and runs its own script alone."""

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from report_evidence import interval, minimality_of, verification
from report_runs import GROUPED, HOSTILE, SIZES, make_run

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.cli import main
from circuitprune.errors import RunError
from circuitprune.evidence.minimality import EdgeRemoved
from circuitprune.evidence.results import Sections
from circuitprune.files.records import to_json
from circuitprune.files.whole import write_json
from circuitprune.lens.predictions import ExamplePairs, NextTokens, TokenPair
from circuitprune.views.report import data as report_module
from circuitprune.views.report import page, report_data, report_page, write_report
from circuitprune.views.report.records import Incomparable


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return make_run(tmp_path / "run")


def named(folder):
    (folder).mkdir()
    return folder


def plain(path):
    return json.loads(path.read_text())


def kept(circuit):
    """Positions of a circuit's edges; its spans say by turns how many it leaves out and keeps."""
    flags = [i % 2 for i, length in enumerate(circuit.spans) for _ in range(length)]
    return [position for position, flag in enumerate(flags) if flag]


def edge_names(data, positions, edges=None):
    graph, edges = data.graph, edges or data.edges
    return [
        f"{graph.writers[edges.writer[e]]}->{graph.readers[edges.reader[e]]}" for e in positions
    ]


class Page(HTMLParser):
    """What a browser would find: elements with attributes, and the text of styles and scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag in ("style", "script"):
            self.texts.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("style", "script"):
            tag, attributes, text = self.texts[-1]
            self.texts[-1] = (tag, attributes, text + data)

    def code(self, tag):
        """Texts of elements that a browser applies or runs."""
        return [t for name, a, t in self.texts if name == tag and "type" not in a]

    @property
    def data(self):
        (text,) = [t for _, a, t in self.texts if a.get("type") == "application/json"]
        return json.loads(text)


# ---------------------------------------------------------------- the data


def test_points_are_those_of_the_frontier(run):
    (found,), frontier = report_data([run]).runs, plain(run / "frontier.json")
    written = to_json(found)
    assert written["about"] | {k: written[k] for k in ("full", "empty", "points")} == frontier


def three_digits(number):
    """As the page spells what a file holds in full."""
    return float(f"{number:.3g}")


def test_circuits_are_those_of_the_files(run):
    data = report_data([run])
    assert [c.n_edges for c in data.circuits] == list(SIZES)
    for circuit in data.circuits:
        file = plain(run / "circuits" / f"{circuit.n_edges}.json")
        inside = {name for name, edge in file["edges"].items() if edge["in_graph"]}
        names = edge_names(data, kept(circuit))
        assert len(names) == len(inside) and set(names) == inside
        assert circuit.n_nodes == sum(node["in_graph"] for node in file["nodes"].values())
        entries = [file["edges"][name] for name in names]
        scores = [entry.get("ranking", abs(entry["score"])) for entry in entries]
        assert scores == sorted(scores, reverse=True)
        assert [data.edges.score[e] for e in kept(circuit)] == list(map(three_digits, scores))


def test_attribution_scores_are_those_of_the_table(run):
    data = report_data([run])
    with (run / "edges.csv").open() as file:
        rows = {f"{r['writer']}->{r['reader']}": r for r in csv.DictReader(file)}
    positions = kept(data.circuits[-1])
    names = edge_names(data, positions)
    theirs = [float(rows[name]["initial_score"]) for name in names]
    ours = [data.edges.attribution[e] for e in positions]
    assert ours == list(map(three_digits, theirs)) and min(ours) < 0 < max(ours)
    for name, edge in zip(names, positions, strict=True):
        assert data.graph.reader_kind[data.edges.reader[edge]] == rows[name]["kind"]


def test_grouped_readers_keep_their_names_and_feed_their_group(tmp_path):
    data = report_data([make_run(named(tmp_path / "run"), GROUPED)])
    for circuit in data.circuits:
        names = edge_names(data, kept(circuit))
        path = tmp_path / "run" / "circuits" / f"{circuit.n_edges}.json"
        assert set(names) == set(Circuit.load(path).edges)
    feeds = dict(zip(data.graph.readers, data.graph.feeds, strict=True))
    fed = [data.graph.writers[w] for w in feeds["a1.kv1<k>"]]
    assert fed == ["a1.h2", "a1.h3"] and feeds["logits"] == ()


def test_the_chosen_circuit_is_the_smallest_within_a_tenth(run):
    data = report_data([run])
    assert data.circuits[data.runs[0].chosen].n_edges == 40  # KL 2/7 and 2/40


def test_of_a_large_circuit_the_strongest_edges_are_kept(run, monkeypatch):
    whole = report_data([run])
    monkeypatch.setattr(report_module, "MOST_DRAWN", 20)
    cut = report_data([run])
    assert [c.n_edges for c in cut.circuits] == list(SIZES)
    for before, after in zip(whole.circuits, cut.circuits, strict=True):
        assert edge_names(cut, kept(after)) == edge_names(whole, kept(before))[:20]


def test_the_exact_effect_is_that_of_the_evidence(run):
    before = report_data([run])
    assert before.edges.exact is None
    one, other = edge_names(before, kept(before.circuits[0]))[:2]
    rows = [EdgeRemoved(n, interval(x), interval(0)) for n, x in ((one, 0.25), (other, -0.5))]
    circuit = Circuit.load(run / "circuits/7.json")
    found = verification(Sections(minimality=minimality_of(rows)), circuit)
    write_json(run / "verification.json", found)
    data = report_data([run])
    positions = map(int, data.edges.exact)
    known = zip(edge_names(data, positions), data.edges.exact.values(), strict=True)
    assert dict(known) == {one: 0.25, other: -0.5}
    assert data.evidence == plain(run / "verification.json")


def test_other_files_are_taken_as_they_are(run):
    data = report_data([run])
    assert data.config == (run / "config.yaml").read_text()
    assert data.versions == plain(run / "versions.json")
    assert data.command == "python scripts/attribute.py configs/ioi.yaml"
    assert data.evidence is None and data.pairs is None
    for name in ("config.yaml", "versions.json", "command.json", "scores.safetensors"):
        (run / name).unlink()
    data = report_data([run])
    assert not any(getattr(data, key) for key in ("config", "versions", "command", "signed"))


def test_several_runs_lay_their_frontiers_over_the_first(run, tmp_path):
    other = make_run(named(tmp_path / "other"), GROUPED, seed=1)
    data = report_data([run, other])
    assert [r.name for r in data.runs] == ["run", "other"]
    assert to_json(data.runs[1].points) == plain(other / "frontier.json")["points"]
    assert data.graph == report_data([run]).graph
    assert Page(report_page(data)).data == to_json(data)


def test_circuits_of_another_run_are_those_of_its_files(run, tmp_path):
    other = make_run(named(tmp_path / "other"), seed=1)
    data = report_data([run, other])
    (found,) = data.others
    for circuit in found.circuits:
        file = Circuit.load(other / "circuits" / f"{circuit.n_edges}.json")
        names = edge_names(data, kept(circuit), found.edges)
        assert len(names) == len(file.edges) and set(names) == set(file.edges)
        scores = [file.ranking[file.graph.edge_index(name)].item() for name in names]
        assert [found.edges.score[e] for e in kept(circuit)] == list(map(three_digits, scores))
    assert data.circuits == report_data([run]).circuits


def test_a_run_of_a_model_with_other_sizes_has_no_circuits_to_compare(run, tmp_path):
    other = make_run(named(tmp_path / "other"), GROUPED)
    assert report_data([run, other]).others == (Incomparable(GROUPED.describe()),)


def test_circuits_that_are_not_cuts_of_one_ranking_keep_their_edges(run):
    path = run / "circuits" / "7.json"
    circuit = Circuit.load(path)
    worst = circuit.ranking.argsort()[[0, 1, 5, 6, 200, 300, 400]]
    mask = torch.zeros_like(circuit.mask)
    mask[worst] = True
    replace(circuit, mask=mask, as_read=None).save(path)
    data = report_data([run])
    names = edge_names(data, kept(data.circuits[0]))
    assert set(names) == set(Circuit.load(path).edges) and len(names) == 7
    ours = [data.edges.score[e] for e in kept(data.circuits[0])]
    assert ours == sorted(ours, reverse=True)


def test_a_report_of_twenty_thousand_edges_holds_them_all_and_stays_small(tmp_path):
    run = make_run(named(tmp_path / "run"), Graph(12, 12, 12), sizes=(50, 20_000))
    data = report_data([run])
    text = report_page(data)
    assert [len(kept(circuit)) for circuit in data.circuits] == [50, 20_000]
    assert len(text) < 1_200_000


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(RunError, match="at least one run folder"):
        report_data([])
    with pytest.raises(RunError, match=r"no frontier\.json"):
        report_data([tmp_path])
    write_json(run / "frontier.json", {"full": {}, "empty": {}, "points": [{"size": 1}]})
    with pytest.raises(RunError, match=r"frontier\.json.* is damaged .*kl"):
        report_data([run])


# ---------------------------------------------------------------- the page


def test_the_policy_allows_this_style_and_this_script_alone(run):
    found = Page(report_page(report_data([run])))
    (style,), (script,) = found.code("style"), found.code("script")
    (policy,) = [a["content"] for tag, a in found.elements if "http-equiv" in a]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for rule, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert len(rules) == 5


def test_nothing_is_asked_of_the_network_and_nothing_is_inline(run):
    text = report_page(report_data([run]))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    for tag, attributes in Page(text).elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "style", "srcdoc", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")


def test_the_script_makes_no_markup_out_of_text():
    script = "".join(map(page._asset, page.SCRIPTS))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser"):
        assert word not in script
    assert not re.search(
        r"\beval\b|\bFunction\(|\bfetch\b|XMLHttpRequest|import\(|</script", script
    )


def test_hostile_text_adds_nothing_to_the_page(run, tmp_path):
    usual = Page(report_page(report_data([run])))
    hostile = make_run(named(tmp_path / "hostile"), task=HOSTILE[0])
    pair = TokenPair(HOSTILE, HOSTILE, (), (), NextTokens((), (), ()))
    write_json(hostile / "pairs.json", ExamplePairs("test", 1, 7, (pair,)))
    (hostile / "config.yaml").write_text(HOSTILE[1])
    section = {name: {"sentence": name, "verdict": name} for name in HOSTILE}
    write_json(hostile / "verification.json", {"sections": section})
    text = report_page(report_data([hostile]))
    found = Page(text)
    assert found.elements == usual.elements
    assert found.code("script") == usual.code("script")
    (raw,) = [t for _, a, t in found.texts if a.get("type") == "application/json"]
    assert raw.isascii() and raw.isprintable() and not set("<>&") & set(raw)
    assert found.data["pairs"]["pairs"][0]["clean"] == list(HOSTILE)
    assert found.data["runs"][0]["about"]["task"] == HOSTILE[0]
    assert list(found.data["evidence"]["sections"]) == list(HOSTILE)


def test_the_page_carries_its_data(run):
    data = report_data([run])
    assert Page(report_page(data)).data == to_json(data)


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(RunError, match="not written"):
        page.inert_json({"kl": float("nan")})


def test_the_ids_that_the_script_wants_are_in_the_page(run):
    found = Page(report_page(report_data([run])))
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    (script,) = found.code("script")
    assert set(re.findall(r'byId\("([^"]+)"\)', script)) <= set(ids)


def test_controls_have_names(run):
    elements = Page(report_page(report_data([run]))).elements
    inside = [tag for tag, _ in elements]
    for at, (tag, attributes) in enumerate(elements):
        if tag in ("input", "select"):
            assert "label" in inside[at - 1 : at] or "aria-label" in attributes


def test_the_file_is_small_and_the_same_each_time(run):
    path = write_report([run])
    assert path == run / "report.html" and path.stat().st_size < 2_000_000
    before = path.read_bytes()
    assert write_report([run]).read_bytes() == before


def test_the_command_writes_where_it_is_told(run, tmp_path, capsys):
    assert main(["report", str(run), str(run), "-o", str(tmp_path / "two.html")]) == 0
    assert str(tmp_path / "two.html") in capsys.readouterr().out
    assert len(Page((tmp_path / "two.html").read_text()).data["runs"]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == RunError.exit_code
    assert "no frontier.json" in capsys.readouterr().err
