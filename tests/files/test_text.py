"""Hostile names at every exit: each page that is written, and the terminal, shows them as text."""

import io
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from report_evidence import compared, interval, judge, stability
from report_runs import make_run
from tiny import save_model, save_pairs, settings

from circuitprune.cli import main
from circuitprune.evidence.cross_ablation import AblationNumbers
from circuitprune.evidence.results import Sections
from circuitprune.files import text
from circuitprune.files.records import from_json
from circuitprune.files.whole import read_json
from circuitprune.pipelines.describe import describe
from circuitprune.runs.studies import CrossSkipped, Measured
from circuitprune.runs.verification import Verification
from circuitprune.views.pages.studies import compare_page, stability_page
from circuitprune.views.pages.summary import summary
from circuitprune.views.pages.verification import page

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice
HOSTILE = "\x1b[31m\u202e<img src=x onerror=alert(1)>|`b`*c*\n# [d](e) &lt; \x07\x9b\ud800_f_ ~~g~~"
"""One name with everything: colours, direction, HTML, cells, code, headings, links."""


def assert_clean(shown: str, markdown: bool = True) -> None:
    """Nothing but what can be seen; in Markdown, nothing of HOSTILE is markup."""
    odd = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(odd) <= {"\n", "\t"}
    if markdown:
        outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", shown)
        assert not re.search(r"(?<!\\)<img|(?<!\\)`|^# \[d|(?<!\\)\]\(|(?<!\\)&lt;", outside, re.M)


# ---------------------------------------------------------------- the one function


@pytest.mark.parametrize(
    ("kl", "form", "shown"),
    [
        (-3e-8, ".3f", "0.000"),
        (-3e-8, ".3g", "0"),
        (-0.0, ".3g", "0"),
        (3e-8, ".3g", "3e-08"),
        (-0.02, ".3f", "-0.020"),
        (-2e-4, ".3f", "0.000"),
    ],
)
def test_a_kl_that_rounding_left_below_zero_is_zero(kl, form, shown):
    assert text.nats(kl, form) == shown


def test_what_has_no_picture_is_written_as_its_code():
    assert text.plain("a\x00\x1b\x7f\x9b\u200d\u202e\u2066\ufeff\ud800") == (
        "a\\u0000\\u001b\\u007f\\u009b\\u200d\\u202e\\u2066\\ufeff\\ud800"
    )
    assert text.plain("Ġthe ▁Once é 日本 'x'\n\ty") == "Ġthe ▁Once é 日本 'x'\n\ty"
    assert text.line("a\n\r\n b\u2028c") == "a b c" and text.line(7) == "7"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("greater_than in zoo/small", "greater_than in zoo/small"),
        ("0.5 [0.1, 0.9], m0->logits", "0.5 [0.1, 0.9], m0->logits"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("> a", "\\> a"),
        ("![a](b)", "![a\\](b)"),
        ("[a]: b", "[a\\]: b"),
        ("a & b &amp; &#60;", "a & b \\&amp; \\&#60;"),
        ("_a_ b_c", "\\_a\\_ b_c"),
        ("a\\", "a\\\\"),
        ("$x$ ~y~ |", "\\$x\\$ \\~y\\~ \\|"),
    ],
)
def test_markdown_shows_names_as_they_are(name, shown):
    assert text.markdown(name) == shown


@pytest.mark.parametrize("name", ["a", "`", "``", "a`b", "a``b`c", "", " ` "])
def test_code_cannot_be_left(name):
    shown = text.code(name)
    fence = re.match("`+", shown)[0]
    inside = shown.removeprefix(fence).removesuffix(fence)
    assert len(inside) + 2 * len(fence) == len(shown)
    assert not re.search(f"(?<!`){fence}(?!`)", inside)


def test_a_table_has_a_line_for_each_row_and_no_cell_leaves_its_own():
    lines = text.table(("name", "n"), [("a|b", 1), ("two\nlines", 2)], n_all=5)
    assert lines == [
        "| name | n |",
        "| --- | --- |",
        "| a\\|b | 1 |",
        "| two lines | 2 |",
        "",
        "And 3 more.",
    ]
    assert text.table(("n",), [(1,)], n_all=1)[-1] == "| 1 |"
    assert text.table(("n",), [(text.markdown("a|b"),)])[-1] == "| a\\|b |"


def test_a_terminal_without_a_letter_shows_its_code(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr("sys.stdout", stream)
    text.show("Ġé\x1b")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u0120\\xe9\\u001b\n"


# ---------------------------------------------------------------- every page


ABOUT = dict.fromkeys(("task", "model", "ablation", "metric", "split"), HOSTILE)


def test_the_page_of_the_evidence(tmp_path):
    judge(make_run(tmp_path), [HOSTILE] * 3)
    found = from_json(Verification, read_json(tmp_path / "verification.json", checked=True))
    whole = {name: replace(section, sentence=HOSTILE) for name, section in found.sections.items()}
    gaps = replace(next(iter(whole["completeness"].summary.values())), worst_nodes=(HOSTILE,))
    whole["completeness"] = replace(whole["completeness"], summary={HOSTILE: gaps})
    kinds = whole["cross_ablation"].kinds
    kinds = {HOSTILE: next(one for one in kinds.values() if isinstance(one, AblationNumbers))}
    whole["cross_ablation"] = replace(whole["cross_ablation"], kinds=kinds)
    edges = tuple(replace(one, edge=HOSTILE) for one in whole["minimality"].edges)
    whole["minimality"] = replace(whole["minimality"], edges=edges)
    circuit = replace(found.circuit, file=HOSTILE)
    found = replace(found, run={**found.run, **ABOUT}, circuit=circuit, sections=Sections(**whole))
    shown = page(found)
    assert_clean(shown)
    assert shown.count("src=x") >= 6 + len(whole) + 3


def test_the_summary_of_a_run(tmp_path):
    from circuitprune.runs.frontier import read_results

    frontier, _ = read_results(make_run(tmp_path))
    for name in ("task", "model", "ablation", "metric", "split"):
        frontier.provenance[name] = HOSTILE
    shown = summary(frontier, HOSTILE)
    assert_clean(shown)
    assert shown.count("src=x") == 6 and shown.startswith("# ")


def test_the_page_of_a_stability():
    found = replace(stability([HOSTILE] * 3), **ABOUT)
    measured = Measured(
        n_edges=1,
        kl=0.1,
        metric=1.0,
        accuracy=1.0,
        exact_match=1.0,
        n=1,
        faithfulness=interval(0.5),
    )
    group = replace(found.groups["seed"], sentence=HOSTILE, measured={"run0": measured})
    shown = stability_page(replace(found, groups={"seed": group}))
    assert_clean(shown)
    assert shown.count("src=x") == 7


def test_what_compare_prints():
    names = [HOSTILE, f"{HOSTILE}2"]
    found = compared(names)
    circuits = tuple(replace(one, task=HOSTILE, model=HOSTILE) for one in found.circuits)
    skipped = CrossSkipped(host=names[0], donor=names[1], n_pairs=1, skipped=HOSTILE)
    shown = compare_page(replace(found, circuits=circuits, cross_model=(skipped,)))
    assert_clean(shown, markdown=False)
    assert len([one for one in shown.splitlines() if "src=x" in one]) == 3


# ---------------------------------------------------------------- the terminal


NAME = "\x1b[31mred\u202e<img src=x>`b`"
"""As a file system takes it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a model, pairs and folder of hostile names; its arguments."""
    home = tmp_path_factory.mktemp("home")
    (home / NAME).mkdir()
    save_model(home / NAME / "model")
    save_pairs(home / NAME / "pairs.jsonl")
    arguments = [*settings(home / NAME), "attribution.method=eap", "train.progress=false"]
    assert main(["attribute", *arguments]) == 0
    return home / NAME / "run", arguments


def test_every_command_prints_clean_text(run, capsys, tmp_path):
    folder, arguments = run
    copy = tmp_path / NAME
    commands = [
        ["attribute", "--dry-run", *arguments, f"output_dir={copy}"],
        ["attribute", *arguments],
        ["train", f"model.name={folder / 'absent'}"],
        ["train", f"{NAME}=1", f"train.steps={NAME}", f"train.{NAME}=1"],
        ["train", NAME],
        [NAME],
        ["verify", str(folder), "sections=[mib]", "n_bootstrap=10", "progress=false"],
        ["verify", str(folder), f"sections=[{NAME!r}]"],
        ["report", str(folder), "-o", str(copy / "r.html")],
        ["report", str(copy / "absent")],
        ["export", str(folder), "-o", str(copy / "c.json")],
        ["compare-scores", str(folder), str(folder)],
        ["compare", str(folder), str(copy / "c.json"), "--output-dir", str(copy / "compare")],
        ["compare", str(folder), "--size", NAME],
        ["check", f"{folder.parent / 'pairs.jsonl'}", f"{folder.parent / 'model'}"],
    ]
    capsys.readouterr()
    for command in commands:
        try:
            code = main(command)
        except SystemExit as stop:  # argparse's
            code = stop.code
        out, err = capsys.readouterr()
        assert code != 70, err
        assert_clean(out + err, markdown=False)
        assert "b[31mred" in out + err, command


def test_pages_of_a_run_are_clean_as_written(run):
    for name in ("summary.md", "verification.md"):
        path = Path(run[0]) / name
        if path.exists():
            assert_clean(path.read_text())
    assert "\\u001b" in (Path(run[0]) / "summary.md").read_text()


def test_the_first_screen_keeps_a_name_on_its_line(run):
    from circuitprune.pipelines.study import Study
    from circuitprune.runs.settings import load_config

    found = Study.from_config(load_config(None, [*run[1]])).setup
    object.__setattr__(found.config.model, "name", HOSTILE)
    shown = describe(found)
    assert_clean(shown, markdown=False)
    assert shown.splitlines()[1].startswith("graph")


def test_nothing_is_said_where_nobody_listens(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    text.show("a run goes on without a screen")


@pytest.mark.parametrize("error", [False, True])
def test_a_reader_that_has_left_stops_nobody(error):
    """`train | head -1`: the pipe is broken, the run goes on and ends well."""
    reading, writing = os.pipe()
    os.close(reading)
    lines = "; ".join(f"text.show('{i}' * 9999, error={error})" for i in range(20))
    code = f"from circuitprune.files import text; {lines}; text.show('done', error={not error})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes["stderr" if error else "stdout"] = writing
    found = subprocess.run([sys.executable, "-c", code], **pipes, text=True, check=False)
    os.close(writing)
    assert found.returncode == 0 and (found.stdout or found.stderr) == "done\n"
