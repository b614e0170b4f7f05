"""Copies of training pairs in other words, against the same sentences built by hand."""

import pytest

from circuitprune.data.exchanged import exchangeable, exchanged, with_exchanges
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks.ioi import Ioi
from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import DataError
from circuitprune.models.zoo.training import build_tokenizer

SAID = Pair(
    id="a",
    clean="then Mary and John left, John saw",
    corrupt="then Mary and John left, Anna saw",
    answers=(" Mary",),
    wrong=(" John",),
    meta={"io": "Mary"},
    tags={"IO": (5, 9), "S2": (25, 29)},
)
VERB = Pair(id="b", clean="the key", corrupt="the keys", answers=(" is",), wrong=(" are",))


def test_words_are_those_that_tell_prompts_apart_and_what_is_asked_if_it_is_of_their_kind():
    assert exchangeable([SAID]) == ["Anna", "John", "Mary"]
    assert exchangeable([VERB]) == ["key", "keys"]
    longer = Pair("d", "it isn't the key", "it is now really the key", (" x",), (" y",))
    assert exchangeable([VERB, longer]) == exchangeable([VERB])
    with pytest.raises(DataError, match=r"differ in no words.*leave it at 0"):
        exchangeable([Pair("c", "a b", "a b", (" x",), (" y",))])


def test_a_copy_is_the_pair_under_a_one_to_one_exchange_of_all_that_it_says():
    words, seen = exchangeable([SAID]), set()
    for copy in exchanged([SAID], 20, seed=3):
        before, after = SAID.clean.split(), copy.clean.split()
        to = {a: b for a, b in zip(before, after, strict=True) if a in words}
        to["Anna"] = copy.corrupt.split()[5]
        assert sorted(to) == sorted(to.values()) == words
        assert copy.clean == f"then {to['Mary']} and {to['John']} left, {to['John']} saw"
        assert copy.corrupt == f"then {to['Mary']} and {to['John']} left, {to['Anna']} saw"
        assert (copy.answers, copy.wrong) == ((f" {to['Mary']}",), (f" {to['John']}",))
        assert copy.meta == {"io": to["Mary"]}
        tagged = {tag: copy.clean[first:end] for tag, (first, end) in copy.tags.items()}
        assert tagged == {"IO": to["Mary"], "S2": to["John"]}
        seen.add(copy.clean)
    assert len(seen) == 6  # all orders of three names


def test_copies_depend_on_the_seed_and_their_number_on_nothing_before():
    few, many, other = (list(exchanged([SAID], *how)) for how in ((2, 0), (9, 0), (9, 1)))
    assert many[:2] == few and many != other
    assert [one.id for one in few] == ["a~1", "a~2"]


# ------------------------------------------------------------------ on the training side


@pytest.fixture(scope="module")
def ioi():
    """Few names, one place and one thing, so that copies meet what is held out."""
    few, words = Ioi(names=Ioi().names[:6], places=("store",), objects=("ring",)), build_tokenizer()
    return prepare(few, words, n_train=20, n_val=10, n_test=200, seed=1), words


def test_only_the_training_side_grows_and_never_by_what_is_held_out(ioi):
    data, words = ioi
    more = with_exchanges(data, words, 40, seed=0)
    assert more.splits["val"] == data.splits["val"] and more.splits["test"] == data.splits["test"]
    train = more.splits["train"]
    assert train[:20] == data.splits["train"] and more.report.kept["train"] == len(train) > 100
    assert len({(one.clean, one.corrupt) for one in train}) == len(train)
    held_out = {one.clean for name in ("val", "test") for one in data.splits[name]}
    told = exchanged([one.pair for one in data.splits["train"]], 40, seed=0)
    prompts = {tuple(words(one.clean)["input_ids"]) for one in told}
    assert prompts & held_out
    assert not {one.clean for one in train[20:]} & held_out
    for one in train[20:]:
        assert words.decode(one.clean) == one.pair.clean
        assert words.decode(one.answers) == one.pair.answers[0]
    indices = [i for name in more.splits for batch in more.batches(name) for i in batch.index]
    assert len({int(i) for i in indices}) == len(train) + 210
