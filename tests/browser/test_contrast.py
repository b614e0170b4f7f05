"""All text can be read, in light and in dark."""

from pathlib import Path

import pytest

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
LEAST = 4.5
"""WCAG 2.2, 1.4.3 level AA, for text of usual size."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(view, judged, scheme):
    view.page.emulate_media(color_scheme=scheme)
    view.open(judged / "report.html")
    view.page.locator("#compare").scroll_into_view_if_needed()
    view.page.evaluate(
        "() => document.querySelectorAll('details').forEach((x) => { x.open = true; })"
    )
    view.node("a0.h1").click()
    found = view.page.evaluate(CONTRAST)
    assert len(found) > 200
    assert [text for text in found if text["ratio"] < LEAST] == []
    view.page.locator("#search").fill("a1.")
    found = view.page.evaluate(CONTRAST)
    assert [text for text in found if text["ratio"] < LEAST] == []


def test_the_measure_finds_what_cannot_be_read(view, judged):
    view.open(judged / "report.html").page.evaluate(
        """() => {
            byId("title").append(make("b", { id: "faint" }, "faint"), make("b", {}, "plain"));
            const label = document.querySelector(".node.head text");
            byId("faint").style.color = "rgb(128, 128, 128)";
            label.style.opacity = 0.4;
        }"""
    )
    found = [(x["text"], round(x["ratio"], 2)) for x in view.page.evaluate(CONTRAST)]
    assert dict(found)["faint"] == 3.95 and dict(found)["plain"] > 12
    assert min(ratio for text, ratio in found if text.startswith("0.")) < LEAST
