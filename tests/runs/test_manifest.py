"""A finished run is what it was when it was finished, or is refused by name."""

import json

import pytest
from report_runs import make_run

from circuitprune.errors import RunError
from circuitprune.runs.finished import load_run
from circuitprune.runs.manifest import check_seal, seal


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path)
    seal(folder)
    return folder


def test_the_seal_lists_every_result(run):
    found = json.loads((run / "COMPLETE").read_text())["sha256"]
    assert {"frontier.json", "config.yaml"} <= set(found) and any("circuits/" in k for k in found)
    assert all(len(value) == 64 for value in found.values())
    check_seal(run)


@pytest.mark.parametrize("pattern", ["frontier.json", "circuits/*.json", "*.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_changed_result_is_refused_by_name(run, pattern, how):
    path = next(run.glob(pattern))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data) if how == "flipped" else path.unlink()
    with pytest.raises(RunError, match=f"not as it was finished: .*{path.name}"):
        load_run(run)


def test_what_later_commands_write_is_no_change(run):
    (run / "report.html").write_text("anew")
    (run / "verification.json").write_text("{}")
    (run / "circuits" / "minimal.json").write_text("{}")
    check_seal(run)


def test_a_run_of_0_1_has_no_seal_and_is_taken_as_it_is(run):
    (run / "COMPLETE").write_text("")
    next(run.glob("circuits/*.json")).unlink()
    check_seal(run)


@pytest.mark.parametrize("text", ["{}", "[]", '{"sha256": 1}'])
def test_a_damaged_seal_is_refused(run, text):
    (run / "COMPLETE").write_text(text)
    with pytest.raises(RunError, match="COMPLETE is damaged"):
        check_seal(run)
