"""The schema and the page's types are those of the dataclasses, and refuse what these do."""

import json
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from json_schema import SCHEMA, fits, misfits
from report_evidence import judge, stability, transfer
from report_runs import make_run

from circuitprune.evidence.hypotheses import Hypotheses
from circuitprune.evidence.results import Sections
from circuitprune.files.records import to_json
from circuitprune.files.whole import read_json, write_json
from circuitprune.runs.frontier import PointRow
from circuitprune.runs.studies import TransferCell
from circuitprune.views.report import report_data
from circuitprune.views.report.schema import json_schema, write

FOLDER = Path(str(files("circuitprune.views.report")))


@pytest.mark.parametrize("name", ["schema.json", "data.d.ts"])
def test_what_is_shipped_is_what_the_dataclasses_say(tmp_path, name):
    write(tmp_path)
    again = "run `python -m circuitprune.views.report.schema`"
    assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), again


@pytest.mark.parametrize("kind", [Sections, Hypotheses, PointRow, TransferCell])
def test_keys_come_in_the_order_of_the_fields_bases_first(kind):
    assert is_dataclass(kind)
    found = SCHEMA["$defs"][kind.__name__]
    assert list(found["properties"]) == [field.name for field in fields(kind)]
    assert found["additionalProperties"] is False


def test_every_field_says_what_it_is():
    for name, record in json_schema()["$defs"].items():
        assert record["description"], name
        for key, part in record["properties"].items():
            assert part["description"].endswith((".", "?")), f"{name}.{key}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = judge(make_run(tmp_path_factory.mktemp("run")))
    write_json(folder / "stability.json", stability(["a", "b"]))
    write_json(folder / "compare.json", transfer(["a", "b"]))
    return folder


def test_a_report_and_its_parts_fit(run):
    assert fits(json.loads(json.dumps(to_json(report_data([run])))), "ReportData")
    assert fits(read_json(run / "frontier.json"), "FrontierFile")


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (["sections", "minimality", "edges", 0, "kl"], "value"),
        (["sections", "completeness", "points", 1], "telling"),
        (["sections", "random_circuits", "families", "uniform"], "kl_of_each"),
        (["circuit"], "n_edges"),
    ],
)
def test_a_misspelt_key_does_not_fit(run, place, key):
    found = read_json(run / "verification.json", checked=True)
    at = found
    for step in place:
        at = at[step]
    at[f"{key}_"] = at.pop(key)
    wrong = " ".join(misfits(found, {"$ref": "#/$defs/Verification"}, ""))
    assert wrong  # a section that fits no kind is told as a whole
    assert key in wrong or "none of its kinds" in wrong
