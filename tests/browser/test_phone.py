"""A report on a phone, by touch, on paper, and for those who want no motion."""

import re
import zlib
from pathlib import Path

import pytest

from browser.cases import drawn, loaded
from browser.view import View

PHONE = {"width": 420, "height": 900}
SMALLEST = 11
LETTERS = (Path(__file__).parent / "letters.js").read_text()
"""Pixels of a letter's size, whatever its drawing is scaled by."""


@pytest.fixture(scope="module")
def phone(browser, judged):
    """A verified run's report on a small screen with touch."""
    context = browser.new_context(viewport=PHONE, has_touch=True, reduced_motion="reduce")
    view = View(context).open(judged / "report.html")
    yield view
    context.close()
    assert view.said == [] and view.asked == []


def test_nothing_is_wider_than_the_screen_and_the_circuit_is_on_the_first(phone, judged):
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = phone.page.locator("#overview").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert box["y"] + box["height"] <= PHONE["height"]
    assert phone.edges(".edge", "#overview") == drawn(loaded(judged))


def test_no_letter_is_smaller_than_eleven_pixels(phone):
    phone.unfold()
    phone.page.locator("#drawing .node.head").first.click()
    found = phone.page.evaluate(LETTERS)
    assert len(found) > 200
    assert [text for text in found if text["size"] < SMALLEST - 0.05] == []


def test_the_measure_of_letters_finds_small_ones(phone):
    width = phone.page.evaluate("byId('drawing').style.width")
    set_width = "(width) => { byId('drawing').style.width = width; }"
    phone.page.evaluate(set_width, "150px")
    assert any(text["size"] < SMALLEST for text in phone.page.evaluate(LETTERS))
    phone.page.evaluate(set_width, width)


def test_nothing_moves_by_itself_for_those_who_want_no_motion(phone):
    times = phone.page.evaluate(
        "[...document.querySelectorAll('.edge, canvas')].map("
        "(x) => getComputedStyle(x).transitionDuration)"
    )
    assert set(times) == {"0s"}


def test_two_fingers_enlarge_the_drawing(phone):
    phone.page.evaluate("byId('drawing').scrollIntoView({ block: 'center' })")
    box = phone.page.locator("#drawing").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = view_box(phone)
    touch = phone.page.context.new_cdp_session(phone.page)

    def send(kind, apart):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
        )

    send("touchStart", 20)
    for apart in (30, 40, 50, 60):
        send("touchMove", apart)
    send("touchEnd", 60)
    after = view_box(phone)
    assert before[2] / after[2] == pytest.approx(3, rel=0.2)
    middle = [after[0] + after[2] / 2, after[1] + after[3] / 2]
    assert middle == pytest.approx([before[2] / 2, before[3] / 2], rel=0.1)


def view_box(opened):
    return [float(v) for v in opened.page.locator("#drawing").get_attribute("viewBox").split()]


def test_edges_are_printed_as_vectors(browser, run):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    view = View(context).open(run / "report.html", "#size=1000")
    pdf = view.page.pdf(print_background=True)
    context.close()
    assert b"/Subtype /Image" not in pdf
    curves = sum(len(re.findall(rb" c\n", content)) for content in streams(pdf))
    assert curves > 1000


def streams(pdf):
    """What stands in a PDF's compressed parts."""
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            yield zlib.decompress(found[1])
        except zlib.error:
            continue
