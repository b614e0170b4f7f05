"""docs/models.md has the declarations of the code."""

from pathlib import Path

from circuitprune.models.families import FAMILIES
from circuitprune.models.table import declared_table, refused_table

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_has_every_family_as_declared():
    text = PAGE.read_text()
    assert declared_table() in text
    assert refused_table() in text
    assert len(FAMILIES) >= 44
