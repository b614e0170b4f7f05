"""Edges run around boxes, have cards with the numbers of the files, and signs only by evidence."""

import re
from dataclasses import replace

import pytest
import torch
from report_evidence import judge
from report_runs import GROUPED, make_run

from browser.cases import loaded
from browser.view import View
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import drawn_nodes
from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

DEEP = Graph(30, 9, 3, d_model=576)
"""The sizes of SmolLM2-135M."""
DRAWN = """() => {
    const number = (x, name) => Number(x.getAttribute(name));
    const all = (kind) => [...document.querySelectorAll(`#drawing .${kind}`)];
    return [
        all("edge").map((x) => [x.dataset.from, x.dataset.to, x.getAttribute("d")]),
        all("node").map((x) => [x.dataset.node, ...["x", "y", "width", "height"].map(
            (name) => number(x.querySelector("rect"), name))]),
    ];
}"""
HARMFUL = 5


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """A verified run some of whose edges surely do harm."""
    run = judge(make_run(tmp_path_factory.mktemp("verified")))
    evidence = read_json(run / "verification.json", checked=True)
    for row in evidence["sections"]["minimality"]["edges"][-HARMFUL:]:
        row["kl"] = {"value": -0.1, "low": -0.12, "high": -0.08}
    write_json(run / "verification.json", evidence)
    write_report([run])
    return run


@pytest.fixture(scope="module")
def shown(browser, verified):
    """Its report in a tab that the tests here share."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    view = View(context).open(verified / "report.html")
    yield view
    context.close()
    assert view.said == [] and view.asked == []


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("deep"), DEEP, sizes=(7, 300))
    return write_report([run])


# ---------------------------------------------------------------- ways


def crossings(opened):
    """Edges that touch the inside of a box that is not theirs: `(writer, reader, box)`."""
    edges, boxes = opened.page.evaluate(DRAWN)
    places = torch.tensor([box[1:] for box in boxes], dtype=torch.float64)
    names = [box[0] for box in boxes]
    found = []
    for start, end, d in edges:
        xy = points(d)
        inside = (xy[:, None] > places[:, :2]) & (xy[:, None] < places[:, :2] + places[:, 2:])
        for at in inside.all(2).any(0).nonzero().flatten().tolist():
            if names[at] not in (start, end, *group_of(end)):
                found.append((start, end, names[at]))
    return found


def points(d, n=150):
    """Places along a path of Bezier curves, `[point, xy]`."""
    numbers = torch.tensor([float(x) for x in re.findall(r"-?[\d.]+", d)], dtype=torch.float64)
    corners, t = numbers.view(-1, 2), torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    pieces = [
        (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * e
        for a, b, c, e in (corners[i : i + 4] for i in range(0, len(corners) - 1, 3))
    ]
    return torch.cat(pieces)


def group_of(node, graphs=(GROUPED, DEEP)):
    """The bar under a head, which its queries have to cross."""
    found = re.fullmatch(r"a(\d+)\.h(\d+)((?:@\w+)?)", node)
    sizes = {graph.n_heads // graph.n_kv_readers for graph in graphs}
    return [f"a{found[1]}.kv{int(found[2]) // size}{found[3]}" for size in sizes] if found else []


@pytest.mark.parametrize("graph", [None, GROUPED], ids=["heads", "groups"])
def test_no_edge_runs_through_a_box(view, tmp_path, graph):
    run = make_run(tmp_path, *([graph] if graph else []), sizes=(40, 80))
    view.open(write_report([run]))
    for size in (40, 80):
        view.open(run / "report.html", f"#size={size}")
        assert view.page.locator("#drawing .edge").count() == size
        assert crossings(view) == []


def test_thirty_layers_and_300_edges_open_at_a_readable_size(view, deep):
    view.open(deep, "#size=300")
    assert deep.stat().st_size < 1_000_000
    width = view.page.evaluate("document.documentElement.scrollWidth")
    box = view.page.locator("#drawing").bounding_box()
    assert width <= 1400 and box["x"] + box["width"] <= 1400
    scale = view.page.evaluate("document.querySelector('#drawing').getScreenCTM().a")
    assert scale == pytest.approx(1, abs=0.01)
    assert crossings(view) == []


def test_layers_without_a_node_are_folded_into_a_line_that_names_them(view, deep):
    view.open(deep, "#size=7")
    circuit = loaded(deep.parent, 7)
    names = drawn_nodes(circuit.graph, circuit.mask)
    kept = {int(name[1:].split(".")[0]) for name in names if name[0] in "am"}
    gaps = view.page.locator("#drawing .gap").evaluate_all("(all) => all.map((x) => x.dataset.gap)")
    left = set()
    for text in gaps:
        first, _, last = text.partition("\u2013")
        left |= set(range(int(first), int(last or first) + 1))
    assert left == set(range(30)) - kept and left
    assert view.page.locator("#drawing .band").count() == len(kept)


def test_every_edge_ends_in_an_arrow(shown):
    heads = {
        (to, kind.split()[1])
        for to, kind in shown.page.locator("#drawing .port").evaluate_all(
            "(all) => all.map((x) => [x.dataset.to, x.getAttribute('class')])"
        )
    }
    assert heads == {(to, kind) for _, to, kind in shown.edges()}


# ---------------------------------------------------------------- cards


def test_cards_hold_the_numbers_of_the_files(shown, verified):
    rows = {
        row["edge"]: row
        for row in read_json(verified / "verification.json", checked=True)["sections"][
            "minimality"
        ]["edges"]
    }
    cards = shown.page.evaluate("circuit().edges.map((edge) => [edgeName(edge), facts(edge)])")
    circuit = loaded(verified)
    assert sorted(name for name, _ in cards) == sorted(circuit.edges)
    for name, found in cards:
        score, attribution, kl, metric = found
        ranking = circuit.ranking[circuit.graph.edge_index(name)].item()
        assert number(score[1]) == abs(number(attribution[1])) == three_digits(ranking)
        effect = rows[name]["kl"]
        assert number(kl[1].split()[0]) == three_digits(effect["value"])
        ends = [number(x) for x in kl[2].removeprefix("95 %: ").split(" to ")]
        assert ends == [three_digits(effect["low"]), three_digits(effect["high"])]
        assert number(metric[1]) == three_digits(rows[name]["metric"]["value"])


def number(text):
    return float(text.replace("\u2212", "-").replace("+", ""))


def three_digits(number):
    """As the page spells what a file holds in full."""
    return float(f"{number:.3g}")


def test_a_click_on_an_edge_opens_its_card(shown, verified):
    shown.page.locator("#drawing").scroll_into_view_if_needed()
    place = shown.page.evaluate(
        """() => {
            const edge = [...document.querySelectorAll("#drawing .edge")].at(-1);
            const middle = edge.getPointAtLength(edge.getTotalLength() / 2);
            const at = new DOMPoint(middle.x, middle.y).matrixTransform(edge.getScreenCTM());
            return [at.x, at.y, edge.querySelector("title").textContent];
        }"""
    )
    x, y, name = place
    shown.page.mouse.click(x, y)
    assert shown.text("#node h3").startswith(name)
    assert shown.page.locator("#drawing .edge.on title").text_content() == name
    assert {"Writes", "Reads"} <= set(shown.page.locator("#node h4").all_inner_texts())
    fragment = shown.fragment
    shown.open(verified / "report.html", fragment)
    assert shown.text("#node h3").startswith(name)
    shown.page.keyboard.press("Escape")
    assert shown.page.locator("#node h3").count() == 0


# ---------------------------------------------------------------- signs, widths


def test_dashed_are_the_edges_that_surely_do_harm(shown, verified):
    rows = read_json(verified / "verification.json", checked=True)["sections"]["minimality"][
        "edges"
    ]
    harmful = {row["edge"] for row in rows if row["kl"]["high"] < 0}
    dashed = shown.page.locator("#drawing .edge[stroke-dasharray] title").all_text_contents()
    assert set(dashed) == harmful and len(harmful) == HARMFUL
    assert "the KL surely falls" in shown.text("#sign-key")


def test_without_evidence_no_edge_has_a_sign(view, run):
    view.open(run / "report.html")
    assert view.page.locator("#drawing .edge[stroke-dasharray]").count() == 0
    assert view.page.locator("#shared-key").count() == 0
    assert "not verified" in view.text("#sign-key") and "Attributed: eap" in view.text("#sign-key")


def test_edges_of_this_task_alone_are_dotted_where_several_were_learned(view, tmp_path):
    run = make_run(tmp_path)
    for path in (run / "circuits").glob("*.json"):
        circuit = Circuit.load(path)
        told = {**circuit.provenance, "shared": circuit.edges[::2]}
        replace(circuit, provenance=told).save(path)
    write_report([run])
    view.open(run / "report.html")
    edges, own = loaded(run).edges, loaded(run).edges[1::2]
    dotted = view.page.locator("#drawing .edge.own title").all_text_contents()
    assert set(dotted) == set(own) and 0 < len(own) < len(edges)
    assert f"own ({len(own)})" in view.text("#shared-key")


def test_the_key_of_widths_has_the_ends_of_the_scores_and_a_unit(shown, verified):
    circuit = loaded(verified)
    scores = circuit.ranking[circuit.mask]
    said = shown.page.locator("#width-key .number").all_inner_texts()
    assert [float(said[0]), float(said[-1])] == pytest.approx(
        [scores.min().item(), scores.max().item()], rel=0.05
    )
    shown.page.locator("#width").select_option("exact")
    assert "nats" in shown.text("#width-key")
    shown.page.locator("#width").select_option("score")


# ---------------------------------------------------------------- names and groups


def test_roles_stand_in_the_boxes(shown):
    head = shown.page.evaluate("READINGS.heads[0].head")
    label = shown.node(head).get_attribute("aria-label")
    assert "previous-token" in label
    assert shown.node(head).locator(".tag").text_content()


def test_names_and_groups_are_kept_in_the_address_and_in_the_json(view, verified, tmp_path):
    view.open(verified / "report.html").node("m2").click()
    view.page.get_by_label("name of m2").fill("adder & <b>")
    view.page.get_by_label("name of m2").press("Tab")
    view.page.get_by_label("group of m2").fill("late")
    view.page.get_by_label("group of m2").press("Tab")
    view.node("m1").click()
    view.page.get_by_label("group of m1").fill("late")
    view.page.get_by_label("group of m1").press("Tab")
    assert view.node("m2").locator(".tag").text_content().startswith("adder & <b")
    assert view.page.locator(".group-key").inner_text() == "late (2)"
    view.open(verified / "report.html", view.fragment)
    assert view.node("m2").locator(".tag").text_content().startswith("adder & <b")
    view.page.locator(".group-key").click()
    assert view.page.locator("#drawing .pinned").count() == 2
    saved = tmp_path / "saved.json"
    saved.write_text(view.saved("#save-json"))
    circuit = Circuit.load(saved)
    assert circuit.mask.equal(loaded(verified).mask)
    assert circuit.provenance["names"] == {"m2": "adder & <b>"}
    assert circuit.provenance["groups"] == {"late": ["m2", "m1"]}
