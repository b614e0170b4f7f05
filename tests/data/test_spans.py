"""Tokens dealt to spans, by tags and by difference, and what of it travels with a batch."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from tiny import tokenizer

from circuitprune.attribution.base import single_examples
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.span_graph import Span, span_graph, spans_of
from circuitprune.data.batches import Batch, Dealt, Prefix, collate, few_pairs
from circuitprune.data.encoding import Example, encode
from circuitprune.data.spans import BY_DIFFERENCE, deal, span_names
from circuitprune.data.tasks import Pair, Task
from circuitprune.data.tasks.ioi import Ioi
from circuitprune.data.tasks.jsonl import read_pairs
from circuitprune.data.tasks.mib_ioi import MibIoi
from circuitprune.errors import DataError

CLEAN, CORRUPT = (1, 2, 3, 4, 5, 6, 7), (1, 2, 8, 9, 5, 8, 7)


def example(clean=CLEAN, corrupt=CORRUPT, tagged=()) -> Example:
    return Example(Pair("x", "", "", (), ()), clean, corrupt, (11,), (12,), tagged)


def dealt(spans: str, *examples: Example) -> list[list[str]]:
    names = span_names(spans, {"train": examples})
    found = deal({"train": [*examples]}, spans)["train"]
    return [[names[span] for span in one.spans] for one in found]


def test_by_difference() -> None:
    (row,) = dealt("difference", example())
    assert row == ["before", "before", "difference", "difference", "after", "after", "end"]
    (row,) = dealt("difference", example((1, 2), (1, 3)))
    assert row == ["before", "end"], "the last token is where the answer is read"


def test_by_tags() -> None:
    one = example(tagged=("", "S2", "S2", "", "IO", "", "S2"))
    other = example((1, 2, 3), (1, 2, 4), ("", "S1", ""))
    rows = dealt("tags", one, other, example((1, 2), (2, 2)))
    assert rows == [
        ["rest", "S2", "S2", "rest", "IO", "rest", "end"],
        ["rest", "S1", "end"],
        ["rest", "end"],
    ]
    assert span_names("tags", {"a": [one], "b": [other]}) == ("IO", "S1", "S2", "rest", "end")
    with pytest.raises(DataError, match="these have none; take spans=difference"):
        dealt("tags", example())
    with pytest.raises(DataError, match="cannot be called 'end'"):
        dealt("tags", example(tagged=("end", *[""] * 6)))


@pytest.mark.parametrize("task", [Ioi(), MibIoi(), Ioi(names=("Ann", "Anna", "Annabel"))])
def test_names_of_ioi_are_tagged_where_they_stand(task: Task) -> None:
    for pair in islice(task.pairs(Random(0)), 20):
        found = {tag: pair.clean[a:b] for tag, (a, b) in pair.tags.items()}
        io, s = pair.meta["io"], pair.meta["s"]
        assert found == {"IO": io, "S1": s, "S2": s} and pair.tags["S1"] < pair.tags["S2"]
        ends = [pair.clean[b : b + 1] for _, b in pair.tags.values()]
        assert not any(map(str.isalpha, ends))


def test_characters_become_tokens() -> None:
    words = tokenizer()
    clean = "the cat saw the dog and then the"
    place = clean.index("dog"), clean.index("dog") + 3
    corrupt = clean.replace("dog", "cat")
    pair = Pair("x", clean, corrupt, (" cat",), (" dog",), tags={"OBJ": place})
    (found,), dropped = encode([pair], words, 1)
    assert not dropped
    tokens = words.convert_ids_to_tokens(list(found.clean))
    assert [t for t, tag in zip(tokens, found.tagged, strict=True) if tag] == [" dog"]


def test_tags_of_a_file(tmp_path: Path) -> None:
    row = {"clean": "the cat sat", "corrupt": "the dog sat", "answers": [" a"], "wrong": [" b"]}

    def read(tags: object) -> list[Pair]:
        (tmp_path / "pairs.jsonl").write_text(json.dumps({**row, "tags": tags}))
        return read_pairs(tmp_path / "pairs.jsonl")

    assert read({"noun": [4, 7]})[0].tags == {"noun": (4, 7)}
    for tags, says in (
        ({"noun": [4, 70]}, "ends at 70, and 'clean' at 11"),
        ({"noun": [4]}, "must be .first character, behind the last"),
        ({"noun": [7, 4]}, "must be .first character, behind the last"),
        ({"a noun": [4, 7]}, "letters, digits"),
        ([4, 7], "must map names to places"),
    ):
        with pytest.raises(DataError, match=says):
            read(tags)


def test_spans_travel_with_the_tokens() -> None:
    examples = deal({"train": [example(), example((1, 2, 3), (1, 4, 3))]}, "difference")["train"]
    batch = collate(examples, [5, 6], 0)
    assert isinstance(batch, Dealt)
    assert batch.spans.tolist() == [[0, 0, 1, 1, 2, 2, 3], [0, 1, 3, 0, 0, 0, 0]]
    assert batch.to("cpu").spans.equal(batch.spans)
    assert few_pairs([batch], 1)[0].spans.tolist() == [[0, 0, 1, 1, 2, 2, 3]]
    alone = [one.spans.tolist() for one in single_examples(batch)]
    assert alone == [[[0, 0, 1, 1, 2, 2, 3]], [[0, 1, 3]]]
    rest = batch.behind(Prefix(torch.tensor([2, 1]), torch.zeros(2, 2, 1, 2, 4)))
    assert [row[: last + 1] for row, last in zip(rest.spans.tolist(), rest.last, strict=True)] == [
        [1, 1, 2, 2, 3],
        [1, 3],
    ]
    plain = collate([example()], [0], 0)
    assert type(plain) is Batch and plain.spans is None


def test_what_pairs_show_of_spans() -> None:
    (one,) = deal({"x": [example()]}, "difference")["x"]
    rows = [(one.spans, one.clean, one.corrupt)]
    assert spans_of(BY_DIFFERENCE, rows, everywhere=False) == (
        Span("before", (), False, False),
        Span("difference", (1,), True, False),
        Span("after", (1, 2), True, False),
        Span("end", (1, 2, 3), False, True),
    )
    means = spans_of(BY_DIFFERENCE, rows, everywhere=True)
    assert all(span.differs for span in means) and means[0].sees == (0,)


def test_a_span_on_both_sides_of_the_difference_does_not_bring_it_to_what_is_in_front() -> None:
    """`rest` stands in front of the indirect object and behind the difference."""
    one = example((1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 5, 6), ("", "IO", "", "S2", "", ""))
    names = span_names("tags", {"x": [one]})
    (dealt_one,) = deal({"x": [one]}, "tags")["x"]
    spans = spans_of(names, [(dealt_one.spans, one.clean, one.corrupt)], everywhere=False)
    assert [(span.name, span.sees) for span in spans] == [
        ("IO", ()),
        ("S2", (1,)),
        ("rest", (1, 2)),
        ("end", (1, 2, 3)),
    ]
    graph = span_graph(Graph(2, 2, 2), spans)
    assert (graph.exists.sum(dim=0) > 0).tolist() == [False, True, True, True]
