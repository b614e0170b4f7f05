"""JSON has one meaning, or none."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitprune.errors import RunError
from circuitprune.files.decoding import decode
from circuitprune.files.whole import read_json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' stands twice in one object"),
        ('[{"b": {"a": 1, "c": 2, "a": 3}}]', "the key 'a' stands twice"),
        ("1e999", "1e999 is infinite"),
        ("-1e999", "is infinite"),
        ("[Infinity]", "Infinity is no JSON"),
        ("-Infinity", "is no JSON"),
        ("NaN", "NaN is no JSON"),
        ("9223372036854775808", "expected a number of 64 bits"),
        ("-9223372036854775809", "expected a number of 64 bits"),
        ("1" * 5000, "has 5,000 digits"),
        ("01", "Extra data"),
        ("", "Expecting value"),
        ("[" * 50_000, "nested deeper than 400"),
    ],
)
def test_what_has_no_one_meaning_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        decode(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=rf"a\.json is not a JSON file: .*{words}"):
        read_json(tmp_path / "a.json")


def test_numbers_of_64_bits_and_the_nan_of_eap_ig_are_read():
    assert decode("[9223372036854775807, -9223372036854775808]") == [2**63 - 1, -(2**63)]
    assert math.isnan(decode(b"NaN", nan=True))
    with pytest.raises(ValueError, match="Infinity"):
        decode("Infinity", nan=True)
    assert decode(b'\xef\xbb\xbf{"\xc3\xa9": "\\ud800"}') == {"é": "\ud800"}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(PLAIN)
def test_what_python_writes_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    assert decode(text) == value == decode(text.encode())
