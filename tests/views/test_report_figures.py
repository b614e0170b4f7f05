"""What the figures of a report are drawn from: studies beside the runs, predictions, evidence."""

import json

import pytest
from report_evidence import compared, stability
from report_runs import GROUPED
from report_runs import make_run as make_any_run

from circuitprune.cli import main
from circuitprune.errors import RunError
from circuitprune.files.records import to_json
from circuitprune.files.whole import write_json
from circuitprune.lens.predictions import ExamplePairs, NextTokens, TokenPair
from circuitprune.views.report import report_data, write_report

COMPARE = to_json(compared(["one", "two"]))


def named(folder):
    folder.mkdir()
    return folder


def make_run(folder, seed=0):
    return make_any_run(folder, GROUPED, seed=seed)


def make_study(folder, runs):
    """A `stability.json` with these runs below its folder."""
    write_json(folder / "stability.json", stability(runs))


@pytest.fixture
def study(tmp_path):
    """A folder as `stability` leaves it."""
    folder = named(tmp_path / "study")
    for i in range(2):
        make_run(named(folder / f"seed{i}"), seed=i)
    make_study(folder, ["seed0", "seed1"])
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(named(tmp_path / "run"))


def kinds(data):
    return sorted(to_json(data.studies))


def test_a_run_alone_has_no_study(run):
    assert kinds(report_data([run])) == []


def test_a_study_stands_for_its_runs(study):
    data = report_data([study])
    assert [one.name for one in data.runs] == ["seed0", "seed1"]
    assert data.studies.stability == json.loads((study / "stability.json").read_text())
    assert data.circuits == report_data([study / "seed0"]).circuits


def test_runs_given_with_a_study_are_the_ones_reported_on(study, run):
    for given in ([run, study], [study, run]):
        data = report_data(given)
        assert [one.name for one in data.runs] == ["run"] and kinds(data) == ["stability"]


def test_a_run_of_a_study_brings_it_and_another_beside_it_does_not(study):
    assert kinds(report_data([study / "seed1"])) == ["stability"]
    assert kinds(report_data([make_run(named(study / "other"))])) == []


def test_a_study_that_is_given_goes_before_the_one_that_a_run_is_of(study, tmp_path):
    other = named(tmp_path / "other")
    make_study(other, ["elsewhere"])
    data = report_data([study / "seed1", other])
    assert data.studies.stability == json.loads((other / "stability.json").read_text())


def test_a_study_that_was_changed_is_refused(study):
    path = study / "stability.json"
    write_json(path, stability(["seed0", "seed1"]), checked=True)
    path.write_text(path.read_text().replace("seed1", "seed9"))
    for given in (study, path, study / "seed0"):
        with pytest.raises(RunError, match=r"stability\.json"):
            report_data([given])


@pytest.mark.parametrize("name", ["compare.json", "of_another_name.json"])
def test_a_comparison_is_given_as_a_folder_or_as_a_file(run, tmp_path, name):
    folder = named(tmp_path / "compared")
    write_json(folder / name, COMPARE)
    given = [folder / name] if name != "compare.json" else [folder / name, folder]
    for one in given:
        assert to_json(report_data([run, one]).studies) == {"compare": COMPARE}


def test_a_folder_with_a_run_and_a_study_is_both(run):
    write_json(run / "compare.json", COMPARE)
    data = report_data([run])
    assert kinds(data) == ["compare"] and len(data.runs) == 1


def test_what_is_no_study_or_one_too_many_is_refused(run, study, tmp_path):
    write_json(tmp_path / "compare.json", COMPARE)
    write_json(tmp_path / "list.json", [1])
    refused = {
        "no run to report on": [tmp_path / "compare.json"],
        "is no study": [run, tmp_path / "list.json"],
        "one stability study": [run, study, study / "stability.json"],
        "has no 'groups'": [run, tmp_path],
    }
    write_json(tmp_path / "stability.json", {"schema": 1})
    for message, given in refused.items():
        with pytest.raises(RunError, match=message):
            report_data(given)


def test_a_study_whose_runs_are_gone_asks_for_a_run(tmp_path):
    make_study(tmp_path, ["seed0"])
    with pytest.raises(RunError, match="give at least one run folder"):
        report_data([tmp_path])


def test_the_report_lies_where_the_first_thing_given_lies(study, run, tmp_path, capsys):
    assert write_report([study]) == study / "report.html"
    write_json(tmp_path / "compare.json", COMPARE)
    assert write_report([tmp_path / "compare.json", run]) == tmp_path / "report.html"
    assert main(["report", str(run), str(study)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out


def test_predictions_of_pairs_reach_the_report_unchanged(run):
    likely = (("Ġa", 0.5), ("b", 0.25))
    pair = TokenPair(("x",), ("y",), ("b",), (), NextTokens(likely, likely, (("b", 0.9),)))
    pairs = ExamplePairs("test", 1, 40, (pair,))
    write_json(run / "pairs.json", pairs)
    assert report_data([run]).pairs == to_json(pairs)
