"""A finished run is what it was when it was finished, or is refused by name."""

import json

import pytest
from report_runs import make_run

from circuitprune.errors import RunError
from circuitprune.pipelines.compare_scores import load_scores
from circuitprune.pipelines.convert import converted
from circuitprune.pipelines.export import export
from circuitprune.pipelines.part_edges import edges_of_run
from circuitprune.runs.finished import load_run
from circuitprune.runs.manifest import check_seal, seal
from circuitprune.runs.results import output_file
from circuitprune.views.figures import write_figure
from circuitprune.views.report.page import write_report


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


@pytest.mark.parametrize("pattern", ["COMPLETE", "config.yaml", "circuits/*.json", "circuits"])
def test_what_a_user_writes_never_takes_a_results_place(run, pattern, monkeypatch):
    path = next(run.glob(pattern))
    before = path.read_bytes() if path.is_file() else None
    monkeypatch.chdir(path.parent)
    words = "is a folder" if before is None else "result of a finished run"
    for write in (
        output_file,
        lambda path: export(run, path, "circuitprune"),
        lambda path: edges_of_run(run, output=path),
        lambda path: write_figure("circuit", [run], path),
        lambda path: write_report([run], path),
        lambda path: converted(run / "pairs.json", path),
    ):
        with pytest.raises(RunError, match=words):
            write(path.name)
    assert before is None or path.read_bytes() == before
    assert output_file("mine.csv").name == "mine.csv"
    assert output_file(run / "report.html") == run / "report.html"  # each command's own, anew


def test_a_changed_result_is_shown_nowhere(run, tmp_path):
    text = (run / "frontier.json").read_text()
    (run / "frontier.json").write_text(text.replace('"kl": ', '"kl": 1', 1))
    for show in (
        lambda: write_report([run], tmp_path / "r.html"),
        lambda: write_figure("frontier", [run], tmp_path / "f.svg"),
        lambda: load_scores(run),
    ):
        with pytest.raises(RunError, match=r"not as it was finished: frontier\.json"):
            show()


@pytest.mark.parametrize("name", ["refined", "gates"])
def test_a_ranking_that_was_put_there_later_is_not_taken(run, name):
    (run / f"{name}.safetensors").write_bytes((run / "scores.safetensors").read_bytes())
    with pytest.raises(RunError, match=f"not as it was finished: {name}.safetensors .* came since"):
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


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"a file is where its folder would be: '.*file'; give"):
        output_file(tmp_path / "file" / "a" / "x.csv")
    assert output_file(tmp_path / "new" / "a" / "x.csv").name == "x.csv"
    assert output_file("/dev/null").name == "null"
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RunError, match=r"x.csv' cannot be written: you may not write to"):
        output_file(tmp_path / "new" / "x.csv")
    assert output_file("/dev/null").name == "null"
