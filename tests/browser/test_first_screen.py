"""The first screen says what the circuit is and why to believe it, in the numbers of the files."""

import pytest
from report_runs import make_run

from browser.cases import CHOSEN, drawn, loaded
from browser.view import View
from circuitprune.evidence.results import Sections
from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

ASKED = {
    "faithfulness": "faithful",
    "completeness": "complete",
    "minimality": "minimal",
    "random_circuits": "beats random",
    "adversarial": "under attack",
}
"""Verdicts by section; the last is for an evidence that a version may not have."""
KNOWN = [name for name in ASKED if name in Sections.__dataclass_fields__]
WORDS = {"pass": "passes", "fail": "fails", "undecided": "undecided"}
BELOW = "#drawing .node, #plots svg, #tests article, #examples article, #settings *, #width option"
"""Something of each section that lies below it."""
CUT = """([picture, within]) => {
    const frame = document.querySelector(within).getBoundingClientRect();
    return [...document.querySelectorAll(`${picture} .node rect, ${picture} .edge`)].filter((x) => {
        const at = x.getBoundingClientRect();
        return at.left < frame.left - 1 || at.right > frame.right + 1 ||
            at.top < frame.top - 1 || at.bottom > frame.bottom + 1;
    }).length;
}"""


@pytest.fixture(scope="module")
def shown(browser, judged):
    """A verified run's report in a tab that all tests here look at."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    view = View(context).open(judged / "report.html")
    yield view
    context.close()
    assert view.said == [] and view.asked == []


@pytest.fixture
def sections(judged):
    return read_json(judged / "verification.json", checked=True)["sections"]


def test_one_sentence_has_the_numbers_of_the_files(shown, judged, sections):
    circuit, frontier = loaded(judged), read_json(judged / "frontier.json")
    nodes = circuit.nodes
    heads, mlps = sum(".h" in name for name in nodes), sum(name[0] == "m" for name in nodes)
    point = next(p for p in frontier["points"] if p["n_edges"] == CHOSEN)
    means = [f["exact_match"]["mean"] for f in sections["random_circuits"]["families"].values()]
    assert len(set(means)) == 1
    said = shown.text("#sentence")
    assert said.startswith(f"{heads} heads and {mlps} MLPs, {CHOSEN} of {circuit.graph.n_edges:,}")
    assert (
        f"on {100 * point['exact_match']:.0f} % of {frontier['full']['n']} held-out pairs" in said
    )
    assert said.endswith(f"random circuits of that size: {100 * means[0]:.0f} %.")


def test_each_verdict_is_that_of_its_section_and_leads_there(shown, sections):
    before = shown.fragment
    for name, word in ASKED.items():
        if name not in sections:
            continue
        link = shown.page.locator(f'[data-verdict="{name}"] a')
        assert link.inner_text().split("\n")[:3] == [
            {"pass": "✓", "fail": "✗", "undecided": "?"}[sections[name]["verdict"]],
            word,
            WORDS[sections[name]["verdict"]],
        ]
        link.click()
        assert shown.page.evaluate("document.activeElement.dataset.section") == name
    assert shown.fragment == before
    found = sections["minimality"]
    counts = f"{found['n_needed']} of {found['n_edges']} edges"
    assert counts in shown.text('[data-verdict="minimality"]')


def test_the_prompt_has_its_tokens_and_what_follows(shown, judged):
    pair = read_json(judged / "pairs.json")["pairs"][0]
    tokens = shown.page.locator("#example .token > bdi").all_text_contents()
    assert tokens == list(pair["clean"])
    other = shown.page.locator("#example mark small").all_text_contents()
    assert other == [b for a, b in zip(pair["clean"], pair["corrupt"], strict=True) if a != b]
    (right,), (wrong,) = pair["answers"], pair["wrong"]
    (model, chance), (circuit, its) = pair["next"]["model"][0], pair["next"]["circuit"][0]
    assert model == right != circuit  # so the circuit's own chance of it is told as well
    less = dict(pair["next"]["circuit"])[right]
    said = shown.page.locator("#example dd").all_inner_texts()
    assert [text.split() for text in said] == [
        [right.strip(), "not", wrong.strip()],
        [model.strip(), f"{100 * chance:.1f}", "%", "✓"],
        [circuit.strip(), f"{100 * its:.1f}", "%,", right.strip(), f"{100 * less:.2f}", "%", "✓"],
    ]


def test_a_tokenizers_mark_of_a_space_is_read_as_one(view, judged):
    view.open(judged / "report.html")
    read = view.page.evaluate(
        """[["When", "ĠAnn"], ["▁When", "▁Ann"], ["Ġenb", " Ann"]].map(
            (tokens) => tokens.map(spacing(tokens)))"""
    )
    assert read == [["When", " Ann"], [" When", " Ann"], ["Ġenb", " Ann"]]


def test_the_whole_circuit_stands_beside_it(shown, judged):
    shown.page.evaluate("scrollTo(0, 0)")
    box = shown.page.locator("#overview").bounding_box()
    assert box["x"] > 600 and box["y"] + box["height"] < 900
    names = shown.page.locator("#overview .node").evaluate_all(
        "(all) => all.map((x) => x.dataset.node)"
    )
    assert set(names) == set(loaded(judged).nodes)
    assert shown.edges(".edge", "#overview") == drawn(loaded(judged))
    key = shown.page.locator("#overview-note .swatch").evaluate_all(
        "(all) => all.map((x) => x.classList[1])"
    )
    assert set(key) == {kind for _, _, kind in drawn(loaded(judged))}
    assert shown.page.evaluate(CUT, ["#overview", "#overview"]) == 0


def test_a_click_on_it_opens_the_drawing_at_the_node(shown):
    shown.page.locator('#overview [data-node="m2"]').click()
    assert "node=m2" in shown.fragment and shown.text("#node h3").startswith("m2")
    shown.page.keyboard.press("Escape")


def test_what_is_not_verified_says_so_with_the_command(view, run):
    view.open(run / "report.html")
    said = view.page.locator("#strip li").all_inner_texts()
    assert len(said) == len(KNOWN) and all("not verified yet" in text for text in said)
    assert view.text("#strip-note code") == "circuitprune verify RUN"
    assert view.text("#sentence").endswith("is not measured yet.")


def test_evidence_of_another_circuit_says_of_which(view, judged, tmp_path):
    run = make_run(tmp_path)
    evidence = read_json(judged / "verification.json", checked=True)
    evidence["circuit"] |= {"file": "circuits/300.json", "n_edges": 300}
    del evidence["sections"]["completeness"]
    write_json(run / "verification.json", evidence)
    view.open(write_report([run]))
    assert "circuits/300.json, 300 edges" in view.text("#strip-note")
    assert view.text("#strip-note code") == "circuitprune verify RUN"
    assert "not verified yet" in view.text('[data-verdict="completeness"]')
    assert view.text("#sentence").endswith("is not measured yet.")


# ---------------------------------------------------------------- first what is seen first


@pytest.fixture
def unpainted(view, judged):
    """A tab in which nothing is ever painted, so that only the first screen is drawn."""
    view.page.add_init_script("window.requestAnimationFrame = () => 0")
    return view.begin(judged / "report.html")


def test_the_first_screen_is_there_before_what_lies_below_it(unpainted, judged):
    assert unpainted.text("#sentence") and unpainted.page.locator("#strip li").count() == len(KNOWN)
    assert unpainted.edges(".edge", "#overview") == drawn(loaded(judged))
    assert unpainted.page.locator("#example .token").count() and unpainted.text("#cards")
    assert unpainted.page.locator(BELOW).count() == 0
    assert unpainted.page.locator("main[aria-busy=true]").count() == 1


@pytest.mark.parametrize("how", ["print", "verdict", "node"])
def test_what_lies_below_is_drawn_where_it_is_needed_at_once(unpainted, how):
    if how == "print":
        unpainted.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    elif how == "verdict":
        unpainted.page.locator('[data-verdict="minimality"] a').click()
        assert unpainted.page.evaluate("document.activeElement.id") == "evidence-minimality"
    else:
        unpainted.page.locator('#overview [data-node="m2"]').click()
        assert unpainted.text("#node h3").startswith("m2")
    assert unpainted.page.locator("main[aria-busy]").count() == 0
    for part in BELOW.split(", "):
        assert unpainted.page.locator(part).count() > 0, part


def test_a_page_opened_at_a_section_or_loaded_again_stays_there(view, judged):
    top = "document.querySelector('#evidence-minimality').getBoundingClientRect().top"
    view.begin(judged / "report.html", "#evidence-minimality")
    assert view.page.evaluate(top) == pytest.approx(0, abs=60)
    view.open(judged / "report.html")
    view.page.evaluate("document.querySelector('#evidence-minimality').scrollIntoView()")
    view.page.reload()
    assert view.page.evaluate(top) == pytest.approx(0, abs=60)
