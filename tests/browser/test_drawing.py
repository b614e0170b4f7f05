"""The drawing shows the circuit's files, and nothing but them."""

import re

import pytest
from report_runs import GROUPED, SIZES, SMALL, make_run

from browser.cases import CHOSEN, busiest, drawn, ends, loaded, neighbours, touching
from circuitprune.circuits.circuit import Circuit
from circuitprune.views.report import write_report


@pytest.fixture
def opened(view, run):
    return view.open(run / "report.html")


def set_size(opened, n_edges):
    """Moves the slider by the keyboard to the circuit of so many edges."""
    slider = opened.page.locator("#size")
    slider.press("Home")
    for _ in range(SIZES.index(n_edges)):
        slider.press("ArrowRight")


# ---------------------------------------------------------------- what is drawn


def test_the_page_holds_the_data_that_was_written(opened, run):
    assert [c["n_edges"] for c in opened.data["circuits"]] == list(SIZES)
    assert opened.page.title() == f"ioi in zoo/small: a circuit of {CHOSEN} edges"


def test_the_chosen_circuit_is_drawn_edge_for_edge(opened, run):
    circuit = loaded(run, CHOSEN)
    assert opened.edges() == drawn(circuit)
    assert opened.page.locator("#drawing .edge").count() == circuit.n_edges == CHOSEN
    assert opened.kept_nodes() == set(circuit.nodes)
    assert f"{CHOSEN} edges among {len(circuit.nodes)} nodes" in opened.text("#drawn")


def test_kept_nodes_alone_have_boxes_unless_all_are_asked_for(opened, run):
    names = [name for (name,) in opened.named(".node", "node")]
    assert sorted(names) == sorted(loaded(run, CHOSEN).nodes)
    opened.page.locator("#all").check()
    names = [name for (name,) in opened.named(".node", "node")]
    heads = [f"a{layer}.h{head}" for layer in range(4) for head in range(8)]
    expected = ["input", *heads, *(f"m{layer}" for layer in range(4)), "logits"]
    assert sorted(names) == sorted(expected)
    assert opened.edges() == drawn(loaded(run, CHOSEN)) and "boxes=all" in opened.fragment


@pytest.mark.parametrize("n_edges", SIZES)
def test_the_slider_shows_each_circuit(opened, run, n_edges):
    set_size(opened, n_edges)
    assert opened.edges() == drawn(loaded(run, n_edges))
    assert opened.text("#size-text").startswith(f"{n_edges:,} edges")


def test_a_point_of_the_frontier_shows_its_circuit(opened, run):
    opened.page.locator('#plots [data-point="2"]').first.click()
    assert opened.edges() == drawn(loaded(run, SIZES[2]))


def test_points_that_are_in_no_order_show_their_own_circuits(view, tmp_path):
    """As sizes may be asked for in any order, and thresholds are in that of falling sizes."""
    sizes = (300, 7, 1000, 40)
    run = make_run(tmp_path, sizes=sizes)
    view.open(write_report([run]))
    chosen = sizes[view.data["runs"][0]["chosen"]]
    curves = ("#plots svg >> nth=0", "#plots svg >> nth=1")
    for curve in curves:
        dots = view.page.locator(f"{curve} >> .dot")
        places = dots.evaluate_all("(dots) => dots.map((dot) => Number(dot.getAttribute('cx')))")
        said = dots.evaluate_all("(dots) => dots.map((dot) => dot.getAttribute('aria-label'))")
        at = {
            int(text.split(" edges")[0].split()[-1].replace(",", "")): place
            for text, place in zip(said, places, strict=True)
        }
        assert sorted(at, key=at.get) == sorted(sizes)
        line = view.page.locator(f"{curve} >> polyline.curve").get_attribute("points")
        drawn_at = [float(pair.split(",")[0]) for pair in line.split()]
        assert drawn_at == sorted(drawn_at) == pytest.approx(sorted(places), abs=0.1)
        ring = float(view.page.locator(f"{curve} >> .ring").get_attribute("cx"))
        assert ring == pytest.approx(at[chosen], abs=0.1)
        for n_edges in sizes:
            view.page.locator(f'{curve} >> [aria-label*=": {n_edges:,} edges"]').click()
            assert view.edges() == drawn(loaded(run, n_edges))
            assert view.text("#size-text").startswith(f"{n_edges:,} edges")
            assert view.page.locator(f"{curve} >> .dot.now").get_attribute("cx") == str(at[n_edges])


def test_the_table_has_a_row_for_each_edge(opened, run):
    opened.page.locator("#table-box > summary").click()
    rows = opened.page.locator("#edges tbody tr").evaluate_all(
        "(rows) => rows.map((row) => `${row.cells[0].innerText}->${row.cells[1].innerText}`)"
    )
    assert sorted(rows) == sorted(loaded(run, CHOSEN).edges)


# ---------------------------------------------------------------- nodes and their neighbours


@pytest.mark.parametrize("n_edges", SIZES[1:])
def test_a_click_lists_and_lights_the_right_neighbours(opened, run, n_edges):
    set_size(opened, n_edges)
    circuit = loaded(run, n_edges)
    for node in (busiest(circuit), "m2", "logits", "input"):
        opened.node(node).click()
        into, out = neighbours(circuit, node)
        listed = opened.listed()
        assert (sorted(listed[0]), sorted(listed[1])) == (into, out)
        lit = touching(circuit, node)
        assert opened.edges(".edge.on") == lit and lit


def test_an_edge_in_the_list_leads_to_its_other_end(opened, run):
    node = busiest(loaded(run, CHOSEN))
    opened.node(node).click()
    into = neighbours(loaded(run, CHOSEN), node)[0]
    first = opened.listed()[0][0]
    assert first in into
    opened.page.locator("#node ul >> nth=0").locator("li > button").first.click()
    assert opened.text("#node h3").split()[0] == first.split(" ")[0]


def test_pointing_shows_a_node_without_selecting_it(opened, run):
    node = busiest(loaded(run, CHOSEN))
    opened.node(node).hover()
    assert opened.text("#node h3").startswith(node)
    opened.page.mouse.move(0, 0)
    assert opened.page.locator("#node h3").count() == 0
    assert "node=" not in opened.fragment


def test_a_head_with_shared_keys_lists_those_of_its_group(view, tmp_path):
    run = make_run(tmp_path, GROUPED)
    view.open(write_report([run]))
    slider = view.page.locator("#size")
    slider.press("End")
    n_edges = max(n for n in SIZES if n <= GROUPED.n_edges)
    names = [name.split("->") for name in loaded(run, n_edges).edges]
    view.node("a1.h3").click()
    own = [f"{w} → q" for w, r in names if r == "a1.h3<q>"]
    shared = [f"{w} → {r[-2]}" for w, r in names if r in ("a1.kv1<k>", "a1.kv1<v>")]
    assert own and shared and sorted(view.listed()[0]) == sorted(own + shared)
    assert sorted(view.listed()[1]) == sorted(r for w, r in names if w == "a1.h3")


# ---------------------------------------------------------------- search, fold, width, address


def test_search_marks_what_it_finds_and_filters_the_table(opened, run):
    opened.page.locator("#table-box > summary").click()
    opened.page.locator("#search").fill("a1.")
    found = {name for (name,) in opened.named(".node.found", "node")}
    assert found == {name for name in loaded(run, CHOSEN).nodes if name.startswith("a1.")}
    rows = opened.page.locator("#edges tbody tr").count()
    assert rows == sum("a1." in name for name in loaded(run, CHOSEN).edges) > 0
    opened.page.locator("#search").fill("nowhere")
    assert opened.page.locator("#drawing .found, #edges tbody tr").count() == 0


def test_folding_a_layer_joins_the_edges_of_its_heads(opened, run):
    opened.page.locator('#drawing [data-layer="1"]').click()

    def fold(name):
        return re.sub(r"^a1\..*", "a1", name)

    folded = {(fold(a), fold(b), kind) for a, b, kind in drawn(loaded(run, CHOSEN))}
    assert opened.edges() == folded and len(folded) < CHOSEN
    assert opened.node("a1.h0").count() == 0 and opened.node("a1").count() == 1
    opened.node("a1").click()
    into, out = opened.listed()
    ends_of = [ends(name) for name in loaded(run, CHOSEN).edges]
    assert len(into) == sum(to.startswith("a1.") for _, to, _ in ends_of)
    assert len(out) == sum(start.startswith("a1.") for start, _, _ in ends_of)


def test_width_follows_the_chosen_score(opened, run):
    before = opened.widths()
    circuit = loaded(run, CHOSEN)
    kept = {ends(n): circuit.ranking[circuit.graph.edge_index(n)].item() for n in circuit.edges}
    ascending = [before[key] for key in sorted(kept, key=kept.get)]
    assert ascending == sorted(ascending) and ascending[0] < ascending[-1]
    opened.page.locator("#width").select_option("attribution")
    assert opened.widths() != before and "width=attribution" in opened.fragment


def test_the_address_brings_the_view_back(opened, run):
    set_size(opened, 300)
    opened.page.locator('#drawing [data-layer="3"]').click()
    opened.page.locator("#width").select_option("attribution")
    node = busiest(loaded(run, 300)) if not busiest(loaded(run, 300)).startswith("a3") else "m1"
    opened.node(node).click()
    fragment, edges, lit = opened.fragment, opened.edges(), opened.edges(".edge.on")
    assert opened.open(run / "report.html").edges() != edges
    opened.open(run / "report.html", fragment)
    assert opened.edges() == edges and opened.edges(".edge.on") == lit
    assert opened.text("#node h3").startswith(node)
    assert opened.page.locator("#width").input_value() == "attribution"


def test_an_address_of_nonsense_shows_the_chosen_circuit(opened, run):
    opened.open(run / "report.html", "#size=12345&node=%22%5D&folded=9-x-1e9&width=constructor")
    assert opened.edges() == drawn(loaded(run, CHOSEN))
    assert opened.page.locator("#node h3").count() == 0


# ---------------------------------------------------------------- files to take away


@pytest.mark.parametrize("graph", [SMALL, GROUPED], ids=["heads", "groups"])
def test_the_saved_json_is_the_circuit(view, tmp_path, graph):
    run, saved = make_run(tmp_path, graph), tmp_path / "saved.json"
    view.open(write_report([run]))
    saved.write_text(view.saved("#save-json"))
    chosen = loaded(run)
    assert Circuit.load(saved).mask.equal(chosen.mask) and chosen.n_edges == CHOSEN


def test_the_saved_drawing_stands_alone(opened):
    text = opened.saved("#save-svg")
    assert text.startswith("<svg") and "<script" not in text and "var(" not in text
    assert text.count('class="edge ') == CHOSEN
