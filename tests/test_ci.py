"""What the checks of a submission make of a report of vulnerabilities."""

import importlib.util
import json
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

FOUND = {"id": "PYSEC-2026-1", "aliases": ["GHSA-aaaa-bbbb-cccc"], "fix_versions": ["2.0"]}


def report(*packages):
    return json.dumps({"dependencies": list(packages), "fixes": []})


SOUND = {"name": "a", "version": "1.0", "vulns": []}
WEAK = {"name": "b", "version": "1.0", "vulns": [FOUND]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


def test_a_vulnerability_fails_unless_it_is_explained():
    code, lines = audit.judge(report(SOUND, WEAK), "", set())
    assert code == 1 and "b 1.0: PYSEC-2026-1, fixed in 2.0" in lines
    for known in ({"PYSEC-2026-1"}, {"GHSA-aaaa-bbbb-cccc"}):
        code, lines = audit.judge(report(SOUND, WEAK, SKIPPED), "", known)
        assert code == 0 and "2 of 3 packages audited, 1 findings" in lines[0]
    assert audit.judge(report(SOUND), "", set()).code == 0


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        (report(SKIPPED, SKIPPED), ""),
        ("", "Traceback\nrequests.exceptions.ConnectionError: api.osv.dev"),
    ],
)
def test_what_cannot_be_asked_is_said_and_passes(output, errors):
    code, lines = audit.judge(output, errors, set())
    assert code == 0 and lines[0].startswith("NOT AUDITED: the advisory database could not be")


def test_an_audit_that_fails_otherwise_fails():
    code, lines = audit.judge("", "/bin/python: No module named pip_audit", set())
    assert code == 1 and "No module named pip_audit" in lines[0]


def test_an_explanation_is_an_item_that_begins_with_its_advisory():
    text = "* `PYSEC-2026-1` a: why\n\n    * `PYSEC-2026-2` an example\n* see `PYSEC-2026-3`\n"
    assert audit.explained(text) == {"PYSEC-2026-1"}
    assert audit.explained((ROOT / ".ci" / "advisories.md").read_text()) == set()


def test_every_kind_of_finding_that_is_passed_over_has_its_reason():
    """In `[tool.bandit]` each skipped rule has a comment behind it."""
    text = (ROOT / "pyproject.toml").read_text()
    for rule in tomllib.loads(text)["tool"]["bandit"]["skips"]:
        line = next(line for line in text.splitlines() if f'"{rule}"' in line)
        assert len(line.partition("#")[2]) > 30


def test_what_runs_side_by_side_is_shown_whole_and_each_failure_counts(tmp_path):
    """The two functions of `.ci/run` that begin steps and wait for them."""
    text = (ROOT / ".ci" / "run").read_text()
    functions = text[text.index("step() {") : text.index("install() {")]
    steps = f"""
        set -euo pipefail; started=0 work={tmp_path}
        {functions}
        good() {{ echo one; sleep 0.1; echo two; }}
        bad() {{ echo three; false; echo never; }}
        beside first good; together; echo between
        beside second bad; beside third good; together; echo never
    """
    done = subprocess.run(["bash", "-c", steps], capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line and not line.startswith("==")]
    assert said == ["one", "two", "between", "three", "one", "two", "failed: second"]
    assert done.returncode == 1
