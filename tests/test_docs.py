"""The documents hold what they say: links, commands, settings and examples are real."""

import ast
import contextlib
import io
import re
import sys
from functools import partial
from importlib import import_module
from random import Random
from types import SimpleNamespace

import pytest
import torch
from documents import DOCS, PAGES, ROOT, anchors, blocks, code, commands, links

import circuitprune
from circuitprune import cli, errors, metrics
from circuitprune.config import RunConfig
from circuitprune.pipelines.sentiment import read_sentiment
from circuitprune.pipelines.tracking import read_tracking
from circuitprune.pipelines.tune_config import load_tune_config
from circuitprune.pipelines.verify_config import load_options
from circuitprune.runs.settings import flatten, load_config
from circuitprune.views import failure

sys.path.insert(0, str(DOCS / "_ext"))
PACKAGE = ROOT / "circuitprune"
SCRIPTS = {"train_mask": "train", "compare_scores": "compare-scores"}
"""Scripts that are called otherwise than their command."""
OF_SCRIPTS = {"train-zoo", "train-dictionary", "get-real-model", "run-notebooks"}
"""Scripts that are no command."""
SECTIONS = {name.split(".")[0] for name in flatten(RunConfig()) if "." in name}
PATHS = {"model.layers", "model.norm"}
"""Defaults of a `Family`, which look like settings and are none."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# ---------------------------------------------------------------- links


@every_page
def test_links_lead_somewhere(page):
    for link in links(page.read_text()):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_link_checker_sees_links_and_headings():
    text = "# A `b`: c, d\n\n[x](y.md#z) `[no](no.md)` ![i](i.png)\n\n```sh\n# no heading\n```\n"
    assert links(text) == ["y.md#z", "i.png"]
    assert anchors(text) == {"a-b-c-d"}


def test_every_page_is_in_the_site():
    listed = set()
    for index in (DOCS / "index.md", DOCS / "api" / "index.md"):
        trees = [b.text for b in blocks(index.read_text()) if b.language == "{toctree}"]
        names = re.findall(r"^([\w/-]+)$", "\n".join(trees), re.MULTILINE)
        listed |= {(index.parent / f"{name}.md").resolve() for name in names}
    pages = {page for page in PAGES if page.is_relative_to(DOCS)}
    assert pages - listed == {DOCS / "index.md"}


def test_the_tree_in_the_readme_is_the_real_one():
    """Every folder and file at the top of the package, by the first line of its docstring."""
    (tree,) = [
        b.text for b in blocks((ROOT / "README.md").read_text()) if "circuitprune/\n" in b.text
    ]
    shown = dict(line.split(maxsplit=1) for line in tree.splitlines() if line.startswith("  "))
    real = {f"{path.parent.name}/": path for path in PACKAGE.glob("*/__init__.py")}
    real |= {path.name: path for path in PACKAGE.glob("[a-z]*.py")}
    assert shown == {name: first_line(path).rstrip(".") for name, path in real.items()}


def first_line(path):
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_every_module_is_on_the_api_page_of_its_room(room):
    text = (DOCS / "api" / f"{room}.md").read_text()
    shown = set(re.findall(r"automodule:: circuitprune\.([\w.]+)", text))
    modules = {path.relative_to(PACKAGE).with_suffix("") for path in (PACKAGE / room).rglob("*.py")}
    names = {".".join(path.parts) for path in modules if path.name != "__init__"}
    assert {name for name in shown if name.rpartition(".")[0]} >= names
    assert all(name.split(".")[0] == room for name in shown)


def test_the_public_names_are_on_the_api_pages():
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"automodule:: ([\w.]+)", text))
    for name in circuitprune.__all__:
        assert getattr(circuitprune, name).__module__ in shown, name


# ---------------------------------------------------------------- commands and settings


@every_page
def test_commands_exist_and_take_what_is_written(page):
    for name, script, arguments in commands(page.read_text()):
        if script:
            assert (ROOT / "scripts" / f"{name}.py").exists(), name
            name = SCRIPTS.get(name, name.replace("_", "-"))
            if name in OF_SCRIPTS:
                continue
        assert name in cli.COMMANDS, name
        check_arguments(name, arguments)


READERS = {
    "verify": load_options,
    "finetune": partial(load_tune_config, None),
    "tracking": read_tracking,
    "sentiment": read_sentiment,
}
"""Who reads the settings of a command that takes others than a run's."""


def check_arguments(name, arguments):
    """Raises if a flag is unknown, or a setting that no run takes; words in capitals stand in."""
    parser = cli.argparse.ArgumentParser()
    cli.COMMANDS[name][1](parser)
    known = {flag for action in parser._actions for flag in action.option_strings}
    for word in arguments:
        flag = word.strip("[].,:").partition("=")[0]
        assert not flag.startswith("-") or flag in known, f"{name} {flag}"
    settings = [word.rstrip(".,:)") for word in arguments if re.match(r"[a-z_.]+=", word)]
    settings = [re.sub(r"=[A-Z]+\b[^,\]]*", "=placeholder", setting) for setting in settings]
    READERS.get(name, partial(load_config, None))(settings)


@every_page
def test_settings_in_code_exist(page):
    pattern = re.compile(rf"(?<![\w./])((?:{'|'.join(sorted(SECTIONS))})\.[a-z_][\w.]*)(=\S+)?")
    known = set(flatten(RunConfig())) | {"train.trainer"}
    for line in code(page.read_text()):
        for key, value in pattern.findall(line):
            key = key.rstrip(".")
            if key in PATHS or re.search(r"\.(py|json|md|safetensors|ckpt)$|\.\w+\(", key):
                continue
            assert key in known or key.startswith("train.trainer."), f"{key}{value} in {line!r}"


def test_the_checkers_see_what_is_wrong():
    text = "`circuitprune trian x`\n\n    circuitprune train c.yaml task.nmae=ioi --dry\n"
    assert [command.name for command in commands(text)] == ["train", "trian"]
    with pytest.raises(AssertionError):
        check_arguments("train", ["--dry"])
    with pytest.raises(circuitprune.CircuitPruneError):
        check_arguments("train", ["x.yaml", "task.nmae=ioi"])
    with pytest.raises(circuitprune.CircuitPruneError):
        check_arguments("verify", ["runs/x", "n_bootstraps=10"])


# ---------------------------------------------------------------- examples


@every_page
def test_imports_in_examples_exist(page):
    for language, text in blocks(page.read_text()):
        if language != "python":
            continue
        for line in re.findall(r"^from (circuitprune[\w.]*) import \(?([^)]*?)\)?$", text, re.M):
            module = import_module(line[0])
            for name in filter(None, re.split(r"[,\s]+", line[1])):
                assert hasattr(module, name), f"from {line[0]} import {name}"


def run_examples(page, monkeypatch, tmp_path, namespace):
    """Runs a page's Python in one namespace; what is shown below a block must be what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    found = [b for b in blocks((DOCS / page).read_text()) if b.language in ("python", "text")]
    printed = ""
    for language, text in found:
        if language == "text":
            assert printed.endswith(text), f"{page} shows\n{text}but it prints\n{printed}"
            continue
        if "    ...,\n" in text:  # an excerpt
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, page, "exec"), namespace)
        printed = out.getvalue()
    return namespace


def test_a_model_in_memory_is_given_back_as_the_page_says():
    page = (DOCS / "loading.md").read_text()
    (text,) = [b.text for b in blocks(page) if b.language == "python" and "release" in b.text]
    exec(compile(text, "loading.md", "exec"), {})


def test_the_quick_start_runs(monkeypatch, tmp_path):
    found = run_examples("quickstart.md", monkeypatch, tmp_path, {})
    assert found["circuit"].n_edges > 0
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_the_pairs_of_the_quick_start_are_enough_for_its_commands(tmp_path):
    text = (DOCS / "quickstart.md").read_text()
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(next(block.text for block in blocks(text) if block.language == "json"))
    assert cli.main(["check", str(pairs)]) == 0


def test_the_example_of_pairs_runs(monkeypatch, tmp_path):
    found = run_examples("data.md", monkeypatch, tmp_path, {})
    assert found["data"].report.summary() == "kept 200 train, 50 val, 100 test"


def test_the_answers_of_howto_run(monkeypatch, tmp_path):
    found = run_examples("howto.md", monkeypatch, tmp_path, {})
    assert 0 < found["circuit"].n_edges < 100


def test_the_examples_of_extending_run(monkeypatch, tmp_path):
    found = run_examples("extending.md", monkeypatch, tmp_path, dict(vars(metrics)))
    pairs = found["Capital"]().pairs(Random(0))
    assert next(pairs).clean.endswith("and lives in")
    logits = torch.tensor([[1.0, 5.0, 2.0]])
    answers = torch.tensor([[0, 2, -1]])
    assert found["answer_logit"](
        logits, SimpleNamespace(answers=answers, wrong=answers)
    ).tolist() == [2.0]
    check_one_by_one(found["one_by_one"])


def check_one_by_one(method):
    """The method that the page writes out gives what exact patching gives."""
    from circuitprune import GatedModel, References
    from circuitprune.attribution import METHODS
    from circuitprune.data.pairs import prepare
    from circuitprune.engine.ablation import make_ablation
    from circuitprune.models.zoo.induction import Induction, induction_model, induction_tokenizer

    gated = GatedModel(induction_model())
    sides = dict(n_train=4, n_val=0, n_test=0, seed=0)
    batches = prepare(Induction(), induction_tokenizer(), **sides).batches("train")
    references = References(gated, make_ablation("patch", gated.ports, []))

    def metric(logits, batch):
        return metrics.logit_diff(logits, batch)

    expected = METHODS["exact"].score(references, batches, metric, 1)
    found = method(references, batches, metric).to(expected.dtype)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- the site


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/a.css">'),
        ("a.html", '<img src="http://example.org/a.png">'),
        ("a.html", '<p style="background: url(https://example.org/a.png)">'),
        ("a.html", "<style>@import 'https://example.org/a.css';</style>"),
        ("a.css", '@font-face { src: url("https://example.org/a.woff2") }'),
    ],
)
def test_a_page_that_would_load_something_is_refused(name, text):
    from offline import remote_loads

    assert len(remote_loads(name, text)) == 1


def test_links_and_local_files_are_no_loads():
    from offline import remote_loads

    page = (
        '<a href="https://example.org">x</a><img src="_static/a.png"><script src="a.js"></script>'
    )
    assert remote_loads("a.html", page) == []
    assert remote_loads("a.css", "a { background: url(data:image/png;base64,AA) }") == []


def test_docstrings_keep_bars_and_have_no_types_in_values():
    from docstrings import as_written

    lines = ["Readers of a block: `a|b`, mean |gap|."]
    as_written(None, "property", "x", None, None, lines)
    assert lines == ["", r"Readers of a block: `a|b`, mean \|gap\|."]


def test_every_formula_is_understood():
    """Both delimiters of `dollarmath`; a formula that is left out would only warn in a build."""
    from docutils.utils.math.latex2mathml import tex2mathml

    text = (DOCS / "method.md").read_text()
    shown = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))
    assert len(shown) > 10 and len(inline) > 20
    for formula in shown + inline:
        assert tex2mathml(formula).startswith("<math")


# ---------------------------------------------------------------- promises


def test_the_table_of_exit_codes_is_the_codes():
    text = (DOCS / "running.md").read_text()
    table = text[text.index("## Exit codes") :].split("\n## ")[0]
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    classes = [errors.CircuitPruneError, *errors.CircuitPruneError.__subclasses__()]
    ours = {one.exit_code for one in classes}
    assert shown == ours | {0, failure.BUG, failure.PREEMPTED, failure.INTERRUPTED}


def test_every_promise_is_held_by_a_test_that_is_there():
    text = (DOCS / "promises.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(), (path, test)
    rows = [row for row in text.splitlines() if row.startswith("| ") and "---" not in row][1:]
    assert all("`tests/" in row.split(" | ")[1] for row in rows)
