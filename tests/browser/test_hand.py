"""Nodes can be hidden and pinned, the view moved, and the address brings all of it back."""

import pytest

from browser.cases import CHOSEN, busiest, drawn, loaded, neighbours, touching


@pytest.fixture
def opened(view, run):
    return view.open(run / "report.html")


@pytest.fixture
def node(run):
    return busiest(loaded(run))


def box(opened):
    """The part of the drawing that is in sight: left, top, width, height."""
    found = opened.page.locator("#drawing").get_attribute("viewBox")
    return [float(x) for x in found.split()]


# ---------------------------------------------------------------- hide


def test_h_hides_a_node_with_its_edges(opened, run, node):
    opened.node(node).focus()
    opened.page.keyboard.press("h")
    assert opened.node(node).count() == 0
    left = drawn(loaded(run)) - touching(loaded(run), node)
    assert opened.edges() == left and len(left) < CHOSEN
    assert f"Drawn: {len(left)}, without 1 hidden" in opened.text("#drawn")
    assert opened.text("#said") == f"{node} hidden"


def test_what_is_hidden_stays_hidden_in_another_size(opened, run, node):
    opened.node(node).focus()
    opened.page.keyboard.press("h")
    opened.page.locator("#size").press("End")
    circuit = loaded(run, 1000)
    assert opened.edges() == drawn(circuit) - touching(circuit, node)


def test_the_button_hides_and_show_all_brings_back(opened, run, node):
    for name in (node, "m2"):
        opened.node(name).click()
        opened.page.get_by_role("button", name=f"hide {name}").click()
    left = drawn(loaded(run)) - touching(loaded(run), node) - touching(loaded(run), "m2")
    assert opened.edges() == left
    opened.page.get_by_role("button", name="show m2").click()
    assert opened.edges() == drawn(loaded(run)) - touching(loaded(run), node)
    opened.node("m1").focus()
    opened.page.keyboard.press("h")
    opened.page.locator("#show-all").click()
    assert opened.edges() == drawn(loaded(run)) and "hide=" not in opened.fragment


def test_capital_h_shows_all_again(opened, run, node):
    opened.node(node).focus()
    opened.page.keyboard.press("h")
    opened.page.keyboard.press("Shift+H")
    assert opened.edges() == drawn(loaded(run))


# ---------------------------------------------------------------- pin


def test_p_pins_a_node_whose_edges_stay_lit(opened, run, node):
    opened.node(node).focus()
    opened.page.keyboard.press("p")
    opened.page.locator("#search").focus()
    assert opened.edges(".edge.on") == touching(loaded(run), node)
    opened.node("m2").click()
    both = touching(loaded(run), node) | touching(loaded(run), "m2")
    assert opened.edges(".edge.on") == both > touching(loaded(run), node)
    titles = opened.page.locator("#node h3").all_inner_texts()
    assert [title.split()[0] for title in titles] == ["m2", node]
    pinned = tuple(map(sorted, opened.lists()[2:4]))
    assert pinned == neighbours(loaded(run), node)
    opened.page.get_by_role("button", name=f"unpin {node}").click()
    assert opened.edges(".edge.on") == touching(loaded(run), "m2")


def test_letters_typed_into_the_search_hide_and_pin_nothing(opened, run, node):
    opened.node(node).click()
    opened.page.locator("#search").press_sequentially("hpH")
    assert opened.edges() == drawn(loaded(run))
    assert opened.page.locator("#drawing .pinned").count() == 0


# ---------------------------------------------------------------- filter and view


def test_the_filter_draws_the_strongest(opened, run):
    opened.page.locator("#strongest").press("PageDown")
    n = len(opened.edges())
    assert 1 < n < CHOSEN and opened.text("#strongest-text") == f"strongest {n}"
    strongest = opened.page.evaluate(
        "(n) => DATA.circuits[MAIN.chosen].edges.slice(0, n).map(edgeName)", n
    )
    graph = loaded(run).graph
    assert opened.edges() == drawn(type(loaded(run)).from_names(graph, strongest))
    assert opened.kept_nodes() == set(loaded(run).nodes)
    opened.page.locator("#strongest").press("End")
    assert len(opened.edges()) == CHOSEN


def test_buttons_keys_wheel_and_hand_move_the_view(opened):
    whole = box(opened)
    opened.page.get_by_role("button", name="zoom in").first.click()
    assert box(opened)[2] == pytest.approx(whole[2] / 1.5, abs=0.1)
    opened.node("logits").focus()
    opened.page.keyboard.press("+")
    closer = box(opened)
    assert closer[2] == pytest.approx(whole[2] / 2.25, abs=0.1)
    opened.page.keyboard.press("Shift+ArrowDown")
    assert box(opened)[1] > closer[1]
    opened.page.keyboard.press("0")
    assert box(opened) == whole
    opened.page.locator("#drawing").scroll_into_view_if_needed()
    frame = opened.page.locator("#drawing").bounding_box()
    opened.page.mouse.move(frame["x"] + 300, frame["y"] + 200)
    opened.page.mouse.wheel(0, -300)
    assert box(opened)[2] < whole[2]
    before = box(opened)
    opened.page.mouse.down()
    opened.page.mouse.move(frame["x"] + 200, frame["y"] + 200, steps=3)
    opened.page.mouse.up()
    assert box(opened)[0] > before[0] and "node=" not in opened.fragment


def test_arrows_go_from_node_to_node(opened, run):
    opened.node("input").focus()
    opened.page.keyboard.press("ArrowUp")
    here = opened.page.evaluate("document.activeElement.dataset.node")
    assert here in loaded(run).nodes and here != "input"
    opened.page.keyboard.press("ArrowDown")
    assert opened.page.evaluate("document.activeElement.dataset.node") == "input"


def test_the_address_brings_back_what_the_hand_did(opened, run, node):
    opened.node("m2").focus()
    opened.page.keyboard.press("h")
    opened.node(node).focus()
    opened.page.keyboard.press("p")
    opened.page.keyboard.press("+")
    opened.page.locator("#strongest").press("PageDown")
    opened.page.wait_for_url("**strongest=**")
    fragment, edges, lit, view = (
        opened.fragment,
        opened.edges(),
        opened.edges(".edge.on"),
        box(opened),
    )
    opened.open(run / "report.html", fragment)
    assert opened.edges() == edges and opened.edges(".edge.on") == lit
    assert box(opened) == pytest.approx(view, abs=1)
    assert opened.text("#node h3").split()[0] == node and opened.text("#hidden").count("m2") == 1
