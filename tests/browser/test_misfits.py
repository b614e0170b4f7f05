"""What does not fit is said in its place and on the console; no figure goes missing in silence."""

import pytest
from report_evidence import judge, stability, transfer
from report_runs import make_run

from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

SECTIONS = {
    "faithfulness": (["sizes", 0], "mean_of_ratios"),
    "cross_ablation": (["kinds", "patch", "faithfulness"], "low"),
    "mib": (["curves", "edges_absolute", "points", 1], "faithfulness"),
    "function": (["direct", 0], "edge_to_logits_kept"),
    "minimality": (["edges", 0, "kl"], "value"),
    "completeness": (["points", 0], "telling"),
    "random_circuits": (["families", "uniform"], "kl_of_each"),
}
"""Of each section a place, and a key there that is misspelt."""
FILES = {
    "stability": ("stability.json", ["groups", "seed", "overlap"], "chance_edges"),
    "comparison": ("compare.json", ["transfer", "cells", 0], "faithfulness"),
    "pairs.json": ("pairs.json", ["pairs", 0, "next"], "model_corrupt"),
    "verification.json": ("verification.json", ["circuit"], "n_edges"),
}
"""Of each other file the same, by what the page calls it."""
RUNS = ["seed0", "seed1"]


def whole(folder):
    run = judge(make_run(folder))
    write_json(run / "stability.json", stability(RUNS))
    write_json(run / "compare.json", transfer(RUNS))
    return run


def misspell(value, path, key):
    """Adds a letter to the key at the end of a path."""
    for step in path:
        value = value[step]
    value[f"{key}e"] = value.pop(key)


@pytest.fixture(scope="module")
def misspelt(tmp_path_factory):
    """A report with one key misspelt in every section and in every other file."""
    run = whole(tmp_path_factory.mktemp("misspelt"))
    evidence = read_json(run / "verification.json", checked=True)
    for name, (path, key) in SECTIONS.items():
        misspell(evidence["sections"][name], path, key)
    write_json(run / "verification.json", evidence)
    for file, path, key in FILES.values():
        found = read_json(run / file, checked=True)
        misspell(found, path, key)
        write_json(run / file, found)
    return write_report([run])


def said_by(view):
    """What the page has said so far; it may say that much."""
    said, view.said = view.said, []
    return said


def dotted(path):
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def test_a_misspelt_key_of_a_section_is_told_in_the_place_of_its_figure(view, misspelt):
    said = said_by(view.open(misspelt))
    for name, (path, key) in SECTIONS.items():
        told = f'{name}{dotted(path)} has no "{key}"'
        place = f'[data-section="{name}"]'
        assert told in view.text(f"{place} .broken[role=alert]"), name
        assert sum(told in line and line.startswith("error") for line in said) == 1, name
        assert view.page.locator(f"{place} svg.chart").count() == 0
        assert view.page.locator(f"{place} details table").count() > 0  # its numbers are shown
    assert len(said) == len(SECTIONS) + len(FILES)


def test_a_misspelt_key_of_another_file_is_told_in_its_place(view, misspelt):
    said = said_by(view.open(misspelt))
    shown = view.page.locator(".broken").all_inner_texts()
    for name, (_, path, key) in FILES.items():
        told = f'{name}{dotted(path)} has no "{key}"'
        assert sum(told in line for line in said) == sum(told in text for text in shown) == 1, name


def test_the_rest_of_the_page_works(view, misspelt):
    said_by(view.open(misspelt))
    assert view.page.locator("#drawing .edge").count() == 40
    view.node("m2").click()
    assert 'function.direct[0] has no "edge_to_logits_kept"' in view.text("#reading")


def test_an_error_while_drawing_is_told_too(view, judged):
    view.open(judged / "report.html")
    text = view.page.evaluate(
        """() => {
            FIGURES.mib = () => { throw new TypeError("no such thing"); };
            const [shown] = figuresOf("mib", SECTIONS.mib);
            return [shown.textContent, shown.getAttribute("role")];
        }"""
    )
    assert text == ["Not drawn, for an error in this page: no such thing", "alert"]
    (said,) = said_by(view)
    assert said.startswith("error: ") and "no such thing" in said


def test_a_number_that_is_undefined_is_no_error(view, tmp_path):
    """All sizes without faithfulness, and a circuit without: no curve and no ring, no message."""
    run = whole(tmp_path)
    evidence = read_json(run / "verification.json", checked=True)
    curve = evidence["sections"]["faithfulness"]
    for numbers in (curve["circuit"], *curve["sizes"]):
        for name in ("faithfulness", "mean_of_ratios"):
            numbers[name] = dict.fromkeys(("value", "low", "high"))
    write_json(run / "verification.json", evidence)
    view.open(write_report([run]))
    assert view.page.locator(".broken, #figure-faithfulness").count() == 0
    assert view.page.locator("#figure-mib").count() == 1
