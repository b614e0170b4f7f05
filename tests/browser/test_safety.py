"""Whatever its texts hold, a report shows them as text: nothing runs, nothing is asked for."""

import pytest
from report_evidence import judge, stability, transfer
from report_runs import HOSTILE, make_run

from circuitprune.files.whole import read_json, write_json
from circuitprune.views.report import write_report

UNSEEN = {*range(0x20), *range(0x7F, 0xA1), 0xAD, 0x61C, *range(0x200B, 0x2010), 0xFEFF}
UNSEEN |= {*range(0x2028, 0x202F), *range(0x2060, 0x2070), *range(0xD800, 0xE000)}
"""Code points without a picture, or that turn the line around."""
IMAGE = HOSTILE[1]


def spelt(text):
    """A text as a report shows it: what cannot be seen stands as its code."""
    return "".join(f"\\u{ord(c):04x}" if ord(c) in UNSEEN else c for c in text)


def words(text):
    """A text without its spaces, which the page's layout may change."""
    return "".join(text.split())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with hostile text wherever a run's files hold text; of two runs, one ill-named."""
    run = judge(make_run(tmp_path_factory.mktemp("hostile"), task=HOSTILE[0]), HOSTILE)
    write_json(run / "versions.json", {HOSTILE[1]: HOSTILE[2]})
    (run / "config.yaml").write_text("\n".join(HOSTILE[:4]))
    evidence = read_json(run / "verification.json", checked=True)
    for text in HOSTILE:
        section = {"sentence": text, "verdict": text, text: 1}
        evidence["sections"][text] = section
    evidence["sections"]["completeness"]["points"][1]["name"] = IMAGE
    write_json(run / "verification.json", evidence)
    write_json(run / "stability.json", stability(HOSTILE[:3]))
    write_json(run / "compare.json", transfer(HOSTILE[:3]))
    other = run / IMAGE
    other.mkdir()
    return write_report([run, make_run(other, task=HOSTILE[2], seed=1)])


@pytest.fixture
def hostile(view, report):
    view.page.on("dialog", lambda dialog: view.said.append(dialog.message) or dialog.dismiss())
    view.open(report)
    head = view.page.evaluate("DATA.evidence.sections.function.heads[0].head")
    view.node(head).click()
    view.page.evaluate(
        "() => document.querySelectorAll('details').forEach((x) => { x.open = true; })"
    )
    return view


def test_hostile_text_is_shown_as_it_is_written(hostile):
    shown = words(hostile.text("body"))
    assert [text for text in HOSTILE if words(spelt(text)) not in shown] == []
    assert hostile.page.title().startswith(HOSTILE[0])


def test_hostile_tokens_keep_their_places(hostile):
    rows = hostile.page.locator(".pair tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.querySelectorAll('td')].map((x) => x.textContent))"
    )
    assert rows[:2] == [[spelt(t) for t in HOSTILE], [spelt(t) for t in HOSTILE[::-1]]]


def test_hostile_tokens_are_shown_in_what_a_node_reads(hostile):
    read = hostile.page.locator("#reading code").evaluate_all(
        "(all) => all.map((x) => x.innerText)"
    )
    assert [words(text) for text in read] == [words(spelt(text)) for text in HOSTILE]
    assert hostile.page.locator("#reading [data-query]").count() == 36


def test_nothing_unseen_reaches_the_page(hostile):
    text = hostile.page.evaluate("document.body.innerText") + hostile.page.title()
    assert {ord(c) for c in text} & UNSEEN <= {0x0A, 0x09, 0x0D}


def test_hostile_text_makes_no_element(hostile):
    page = hostile.page
    assert page.locator("img, iframe, object, embed, link, base, form").count() == 0
    assert page.locator("script").count() == 2 and page.locator("style").count() == 1
    handlers = "[...document.querySelectorAll('*')].flatMap((x) => x.getAttributeNames())"
    assert not [name for name in page.evaluate(handlers) if name.startswith("on")]


def test_a_hostile_address_makes_no_element(view, report):
    view.open(report, f"#size=40&node={IMAGE}&folded={IMAGE}&width={IMAGE}")
    assert view.page.locator("img").count() == 0
    assert view.page.locator("#drawing .edge").count() == 40


def test_a_hostile_search_makes_no_element(view, report):
    view.open(report).page.locator("#search").fill(IMAGE)
    view.page.locator("#search").press("Enter")
    assert view.page.locator("img, .found").count() == 0


def test_what_the_policy_forbids_does_not_run(view, report):
    """The silence that these tests rely on is that of a page that could speak."""
    view.open(report).page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'it ran'";
            const image = document.createElement("img");
            image.src = "https://example.invalid/seen";
            document.body.append(script, image);
        }"""
    )
    view.page.wait_for_function("performance.now() > 0")
    assert view.page.title() != "it ran"
    assert any("script-src" in text for text in view.said)
    assert any("img-src" in text or "default-src" in text for text in view.said)
    assert view.asked == ["https://example.invalid/seen"]
    view.said.clear()
    view.asked.clear()
