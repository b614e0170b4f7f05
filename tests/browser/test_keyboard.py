"""All that the mouse can do, the keyboard can: every control is reached, named and visibly so."""

import pytest
from report_runs import SIZES

INTERACTIVE = """() => [...document.querySelectorAll(
        "a[href], button, input, select, summary, [tabindex], [role=button]")]
    .filter((x) => x.checkVisibility() && !x.disabled && x.getAttribute("tabindex") !== "-1")
    .map((x) => ROAD.get(x) ?? (ROAD.set(x, ROAD.size), ROAD.get(x)))"""
FOCUSED = """() => {
    const x = document.activeElement;
    if (x === document.body) return null;
    const ring = [x, ...x.querySelectorAll("rect, circle")].some((part) => {
        const look = getComputedStyle(part);
        const drawn = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2;
        return drawn || (part !== x && parseFloat(look.strokeWidth) >= 3);
    });
    const label = x.labels?.length ? x.labels[0].innerText : "";
    const name = x.ariaLabel || label || x.innerText || x.textContent || "";
    return { id: ROAD.get(x) ?? -1, name: name.trim(), ring, what: x.outerHTML.slice(0, 120) };
}"""


@pytest.fixture
def opened(view, run):
    view.open(run / "report.html")
    view.page.evaluate("() => { window.ROAD = new Map(); }")
    return view


def road(opened, most=600):
    """What Tab visits from the top of the page until it leaves it."""
    found = []
    for _ in range(most):
        opened.page.keyboard.press("Tab")
        stop = opened.page.evaluate(FOCUSED)
        if stop is None or (found and stop["what"] == found[0]["what"]):
            return found
        found.append(stop)
    raise AssertionError("Tab does not come to an end")


def tab_to(opened, selector, most=200):
    for _ in range(most):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_tab_reaches_every_interactive_element(opened):
    wanted = set(opened.page.evaluate(INTERACTIVE))
    stops = road(opened)
    assert len(wanted) > 40
    assert wanted <= {stop["id"] for stop in stops}
    assert [stop["what"] for stop in stops if not stop["name"] and stop["id"] >= 0] == []
    assert [stop["what"] for stop in stops if not stop["ring"]] == []


def test_tab_passes_by_nodes_that_are_not_in_the_circuit(opened):
    opened.page.locator("#all").check()
    assert opened.page.locator("#drawing .node.cut").count() > 0
    stops = "(found) => found.filter((x) => x.tabIndex >= 0).length"
    assert opened.page.locator("#drawing .node.cut").evaluate_all(stops) == 0


def test_enter_selects_a_node_and_escape_lets_go(opened):
    tab_to(opened, "#drawing .node")
    name = opened.page.evaluate("document.activeElement.dataset.node")
    assert opened.text("#node h3").startswith(name) and "node=" not in opened.fragment
    opened.page.keyboard.press("Enter")
    assert f"node={name}" in opened.fragment
    assert opened.node(name).get_attribute("aria-pressed") == "true"
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Escape")
    assert "node=" not in opened.fragment
    assert opened.node(name).get_attribute("aria-pressed") == "false"


def test_the_list_of_a_node_is_walked_by_keyboard(opened):
    tab_to(opened, '#drawing .node[data-node="logits"]')
    tab_to(opened, "#node li button")
    assert opened.text("#node h3").startswith("logits")
    first = opened.listed()[0][0]
    opened.page.keyboard.press("Enter")
    assert opened.text("#node h3").startswith(first)
    assert opened.page.evaluate("document.activeElement.closest('#node') !== null")
    opened.page.keyboard.press("Enter")
    assert not opened.text("#node h3").startswith(first)


def test_the_card_of_an_edge_is_reached_by_keyboard(opened):
    tab_to(opened, '#drawing .node[data-node="logits"]')
    opened.page.keyboard.press("Enter")
    name = opened.page.evaluate(
        "edgeName(circuit().edges.find((e) => edgeName(e).endsWith('logits')))"
    )
    tab_to(opened, f'#node [aria-label="card of {name}"]')
    opened.page.keyboard.press("Enter")
    assert opened.text("#node h3").startswith(name) and "edge=" in opened.fragment
    opened.page.keyboard.press("Escape")
    assert "edge=" not in opened.fragment


def test_arrows_move_the_slider(opened):
    tab_to(opened, "#size")
    assert opened.text("#size-text").startswith("40 edges")
    opened.page.keyboard.press("ArrowRight")
    assert len(opened.edges()) == SIZES[2]
    opened.page.keyboard.press("ArrowLeft")
    opened.page.keyboard.press("ArrowLeft")
    assert len(opened.edges()) == SIZES[0] and f"size={SIZES[0]}" in opened.fragment


def test_enter_folds_a_layer_and_keeps_the_place(opened):
    tab_to(opened, "[data-layer]")
    layer = opened.page.evaluate("document.activeElement.dataset.layer")
    opened.page.keyboard.press("Enter")
    assert opened.node(f"a{layer}").count() == 1
    assert opened.page.evaluate("document.activeElement.dataset.layer") == layer
    opened.page.keyboard.press(" ")
    assert opened.node(f"a{layer}").count() == 0


def test_enter_in_the_search_selects_what_it_found(opened):
    tab_to(opened, "#search")
    opened.page.keyboard.type("logits")
    opened.page.keyboard.press("Enter")
    assert "node=logits" in opened.fragment


def test_enter_on_a_point_of_the_frontier_shows_its_circuit(opened):
    opened.page.locator('#plots [data-point="3"]').first.focus()
    opened.page.keyboard.press("Enter")
    assert len(opened.edges()) == SIZES[3]
