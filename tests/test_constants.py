"""Numbers that decide results: a change of one is a change of those."""

from tests.defaults import WRITTEN, defaults


def test_defaults_and_constants_are_what_they_were():
    """A change that was meant goes under Numerics in CHANGELOG.md if results change with it.

    Then `python -m tests.defaults` writes the list anew.
    """
    found, written = defaults(), WRITTEN.read_text().splitlines()
    assert sorted(set(found) ^ set(written)) == []
