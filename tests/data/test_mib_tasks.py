"""MIB's tasks: what each counterfactual changes, and which answer is right after it."""

from itertools import islice
from random import Random

import pytest
from pairs import make_bpe

from circuitprune.data.encoding import Encoder
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import TASKS
from circuitprune.data.tasks.arithmetic import Arithmetic, Form
from circuitprune.data.tasks.mcqa import Mcqa
from circuitprune.data.tasks.mib_ioi import MibIoi
from circuitprune.data.tasks.pair import CHOICES
from circuitprune.errors import DataError

ROLES = {
    "s2_io_flip": "IO S IO",
    "abc": "IO S third",
    "s1_io_flip": "S IO S",
    "s1_ioi_flip_s2_ioi_flip": "S IO IO",
    "random_names": "new-IO new-S new-S",
    "random_names_s1_ioi_flip": "new-S new-IO new-S",
    "random_names_s2_ioi_flip": "new-IO new-S new-IO",
    "random_names_s1_ioi_flip_s2_ioi_flip": "new-S new-IO new-IO",
}
"""Who stands at the three places of the corrupt prompt, where the clean one has IO, S, S."""


def take(task, corruption="", number=60):
    return list(islice(task.pairs(Random(1), corruption), number))


# ---------------------------------------------------------------- IOI


@pytest.mark.parametrize("kind", ROLES)
def test_each_counterfactual_puts_the_names_where_it_says(kind):
    task = MibIoi()
    assert task.corruptions[0] == "s2_io_flip" and {*task.corruptions} == {*ROLES}
    for pair in take(task, kind):
        receiver, subject = pair.meta["io"], pair.meta["s"]
        before, after = (
            [word.strip(",.") for word in text.split() if word.strip(",.") in task.names]
            for text in (pair.clean, pair.corrupt)
        )
        roles = {"IO": receiver, "S": subject}
        wanted = ROLES[kind].split()
        if pair.meta["order"] == "BABA":  # the first two change places in both prompts
            assert before == [subject, receiver, subject]
            wanted = [wanted[1], wanted[0], wanted[2]]
        else:
            assert before == [receiver, subject, subject]
        for role, name in zip(wanted, after, strict=True):
            assert roles.setdefault(role, name) == name
        assert len({*roles.values()}) == len(roles)  # a role that is new has a name of its own
        assert (pair.answers, pair.wrong) == ((f" {receiver}",), (f" {subject}",))


def test_an_object_that_begins_with_a_vowel_has_its_article():
    pairs = take(MibIoi(objects=("apple", "pen")))
    assert {"gave an apple to" in p.clean or "gave a pen to" in p.clean for p in pairs} == {True}
    with pytest.raises(DataError, match="at least 5 different names"):
        MibIoi(names=("Ann", "Bob", "Cy", "Di"))


# ---------------------------------------------------------------- multiple choice


def read(text):
    """The colour that a prompt states, and its choices by label."""
    first, *rest = text.split("\n")
    assert rest.pop() == "Answer:"
    stated = first.partition(" are ")[2].partition(".")[0]
    return stated, dict(line.split(". ") for line in rest)


@pytest.mark.parametrize("kind", Mcqa().corruptions)
def test_the_right_label_is_that_of_the_colour_stated(kind):
    seen = set()
    for pair in take(Mcqa(), kind):
        stated, choices = read(pair.clean)
        same, others = read(pair.corrupt)
        assert stated == same == choices[pair.answers[0]] == others[pair.wrong[0]] == pair.group
        assert "".join(choices) == "ABCD" and pair.meta[CHOICES] == "A|B|C|D"
        assert (list(choices.values()) == list(others.values())) == ("position" not in kind)
        if kind == "symbol":
            assert "".join(others) == "1234"
        elif "letter" in kind:
            assert not {*choices} & {*others}
        else:
            assert {*choices} == {*others}
        seen.add(pair.answers[0])
    assert seen == {*"ABCD"}
    with pytest.raises(DataError, match="2 to 9 choices and as many colours, got 4 and 1"):
        Mcqa(colors=("red",))


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(("name", "sign"), [("mib_addition", 1), ("mib_subtraction", -1)])
def test_results_are_right_and_those_of_the_counterfactual_wrong(name, sign):
    for pair in take(TASKS[name]):
        for text, (result,) in ((pair.clean, pair.answers), (pair.corrupt, pair.wrong)):
            words = text.removesuffix("? A: ").split()
            assert text.endswith("? A: ") and words[:4] == ["Q:", "How", "much", "is"]
            assert words[5] == {1: "plus", -1: "minus"}[sign]
            a, b = int(words[4]), int(words[6])
            assert min(a, b) >= 10 and max(a, b) < 100 and a + sign * b == int(result) >= 0


def cut(pieces):
    """A tokenizer's `one_token` that keeps these texts whole."""
    return lambda prompt, texts: [text for text in texts if text in pieces]


@pytest.mark.parametrize(
    ("pieces", "form"),
    [
        (map(str, range(200)), Form(2, True)),
        ((f" {n}" for n in range(200)), Form(2, False)),
        (map(str, range(10)), Form(1, True)),
        ((f" {n}" for n in range(10)), Form(1, False)),
    ],
)
def test_the_form_is_the_first_whose_results_a_tokenizer_keeps_whole(pieces, form):
    """Such as Llama 3's, GPT-2's, and those that cut numbers into digits."""
    pieces = {*pieces}
    task = Arithmetic("plus").fitted(cut(pieces))
    assert task.form == form
    for pair in take(task):
        assert {*pair.answers, *pair.wrong} <= pieces
        assert pair.clean.endswith(" ") == form.at_end


def test_a_tokenizer_that_splits_all_numbers_is_told():
    with pytest.raises(DataError, match="mib_subtraction has no two results that are one token"):
        Arithmetic("minus").fitted(cut(()))
    with pytest.raises(DataError, match="plus or minus, got 'times'"):
        Arithmetic("times")


def test_choices_have_tokens_after_the_prompt():
    tokenizer = make_bpe(["Answer"])
    (pair,) = take(Mcqa(), number=1)
    found = Encoder(tokenizer, (), None).next_tokens(pair.clean, ["A", "B", "AB"])
    assert found == {text: tokenizer.convert_tokens_to_ids(text) for text in "AB"}


def test_pairs_of_every_task_of_mibs_are_drawn_by_its_name():
    """Not for every tokenizer: here one that knows every character."""
    names = [f" {name}" for name in MibIoi().names]
    tokenizer = make_bpe([*names, *(f" {number}" for number in range(200))])
    for name in MIB:
        data = prepare(TASKS[name], tokenizer, n_train=4, n_val=0, n_test=4, seed=0)
        assert len(data.splits["train"]) == 4


MIB = [name for name in TASKS if name.startswith("mib_")]
