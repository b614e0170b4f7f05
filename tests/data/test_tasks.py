"""Properties of the generated pairs, and what the reader of the user's own pairs refuses."""

import json
import os
import re
from collections import Counter
from itertools import groupby, islice
from pathlib import Path
from random import Random

import pytest
from pairs import TOKENIZER, make_bpe
from pairs import pair as made
from transformers import AutoTokenizer

from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import TASKS, JsonlTask, get_task, lexicon
from circuitprune.data.tasks.boxes import DESIDERATA, HELD_OUT, OBJECTS, Boxes
from circuitprune.data.tasks.boxes_lesson import NAMES, WORDS
from circuitprune.data.tasks.greater_than import CUTS, Cut, GreaterThan
from circuitprune.data.tasks.ioi import TEMPLATES as IOI_TEMPLATES
from circuitprune.data.tasks.ioi import Ioi
from circuitprune.data.tasks.mood_stories import MoodStories
from circuitprune.data.tasks.pronoun import TEMPLATES as PRONOUN_TEMPLATES
from circuitprune.data.tasks.sentiment import ADJECTIVES, CONCLUSIONS, VERBS
from circuitprune.data.tasks.sva import TEMPLATES as SVA_TEMPLATES
from circuitprune.errors import ConfigError, DataError
from circuitprune.files.limits import LIMITS
from circuitprune.models.zoo import zoo_path

KINDS = [(name, kind) for name, task in TASKS.items() for kind in task.corruptions]


def take(name, number=400, seed=0, corruption=""):
    return list(islice(TASKS[name].pairs(Random(seed), corruption), number))


def words(text):
    return text.replace(",", "").replace(".", "").split()


# -------------------------------------------------------------------- every task


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_pairs_are_a_function_of_the_generator(name, kind):
    assert take(name, seed=3, corruption=kind) == take(name, seed=3, corruption=kind)
    assert take(name, seed=3, corruption=kind) != take(name, seed=4, corruption=kind)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_pairs_are_well_formed(name, kind):
    pairs = take(name, corruption=kind)
    assert len({pair.id for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.kind == kind and pair.group
        assert pair.clean != pair.corrupt
        assert not set(pair.answers) & set(pair.wrong)
        for text in (pair.clean, pair.corrupt):
            assert text.rstrip(" ") == text.strip() and "  " not in text
            assert text[-1] != " " or {*pair.answers, *pair.wrong} <= {*map(str, range(200))}
            assert "{" not in text and text[0].isupper()


BOXES = ("boxes", "boxes_held_out", "boxes_labels", "boxes_lesson")
CHANGED = {
    "sentiment": {2},
    ("colored_objects", "other_colors"): {2, 4},
    "mib_addition": {1, 2},
    "mib_subtraction": {1, 2},
    ("mib_ioi", "s1_io_flip"): {2},
    ("mib_ioi", "s1_ioi_flip_s2_ioi_flip"): {3},
    ("mib_mcqa", "symbol"): {4},
    ("mib_mcqa", "answer_position"): {2},
    ("mib_mcqa", "random_letter"): {4},
    ("mib_mcqa", "answer_position_random_letter"): {6},
    **{("mib_ioi", kind): {3} for kind in TASKS["mib_ioi"].corruptions if "random" in kind},
    **{(of, kind): {3} for of in BOXES for kind in ("objects", "labels")},
    **{(of, "random"): {*range(3, 8)} for of in BOXES},
}
"""Words that a corruption changes, where it is not one."""


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_few_words_change(name, kind):
    for pair in take(name, corruption=kind):
        clean, corrupt = words(pair.clean), words(pair.corrupt)
        changed = sum(a != b for a, b in zip(clean, corrupt, strict=True))
        assert changed in CHANGED.get(name, CHANGED.get((name, kind), {1}))


@pytest.mark.parametrize("name", TASKS)
def test_an_unknown_corruption_lists_the_known(name):
    with pytest.raises(DataError, match=TASKS[name].corruptions[0]):
        TASKS[name].pairs(Random(0), "flipp")


def test_a_default_corruption_is_the_first():
    assert take("ioi") == take("ioi", corruption="abc")


@pytest.mark.parametrize("word", lexicon.OBJECTS + lexicon.ROLES + lexicon.ADJECTIVES)
def test_words_after_an_article_start_with_a_consonant(word):
    assert word[0] not in "aeiou"


def test_lexicons_have_no_repeats():
    for value in (lexicon.FEMALE + lexicon.MALE, lexicon.EVENTS, lexicon.PLACES, lexicon.OBJECTS):
        assert [word for word, number in Counter(value).items() if number > 1] == []


# -------------------------------------------------------------------- ioi


def test_ioi_orders_are_balanced():
    orders = Counter()
    for pair in take("ioi"):
        first, second = [word for word in words(pair.clean) if word in TASKS["ioi"].names][:2]
        orders[pair.meta["order"]] += 1
        expected = (pair.meta["io"], pair.meta["s"])
        assert (first, second) == (expected if pair.meta["order"] == "ABBA" else expected[::-1])
    assert orders == {"ABBA": 200, "BABA": 200}


def test_ioi_subject_occurs_twice_and_the_answer_once():
    for pair in take("ioi"):
        count = Counter(words(pair.clean))
        assert (count[pair.meta["s"]], count[pair.meta["io"]]) == (2, 1)
        assert (pair.answers, pair.wrong) == ((f" {pair.meta['io']}",), (f" {pair.meta['s']}",))


def test_ioi_abc_prompt_has_three_names_once_each():
    for pair in take("ioi", corruption="abc"):
        names = [word for word in words(pair.corrupt) if word in TASKS["ioi"].names]
        assert len(names) == len(set(names)) == 3


def test_ioi_flip_swaps_the_roles():
    for pair in take("ioi", corruption="s2_io_flip"):
        count = Counter(words(pair.corrupt))
        assert (count[pair.meta["s"]], count[pair.meta["io"]]) == (1, 2)


def test_ioi_uses_every_template_as_a_group():
    groups = Counter(pair.group for pair in take("ioi", 3000))
    assert len(groups) == len(IOI_TEMPLATES)
    assert min(groups.values()) > 3000 / len(IOI_TEMPLATES) / 2


def test_ioi_needs_three_names():
    with pytest.raises(DataError, match="at least 3"):
        Ioi(names=("Mary", "John", "Mary"))


# -------------------------------------------------------------------- greater-than, sva, pronoun


def test_greater_than_sets_part_the_years_at_the_start_year():
    for pair in take("greater_than"):
        year = int(pair.meta["year"])
        assert 2 <= year <= 98
        assert [int(text) for text in pair.answers] == list(range(year + 1, 100))
        assert [int(text) for text in pair.wrong] == list(range(year + 1))
        assert pair.clean.endswith(pair.meta["century"])
        assert pair.meta["century"] + pair.meta["year"] in pair.clean
        assert pair.meta["century"] + "01" in pair.corrupt


def test_greater_than_refuses_years_without_a_later_or_earlier_one():
    with pytest.raises(DataError, match="02 to 98, got 01, 99"):
        GreaterThan(years=("01", "50", "99"))


def test_greater_than_needs_a_year_with_both_answers():
    with pytest.raises(DataError, match=r"got 05, 95, cut as Cut\(given=0, asked=1\)"):
        GreaterThan(years=("05", "95"), cut=Cut(0, 1))


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_an_answer_is_right_if_all_years_that_begin_so_are_later_and_wrong_if_none_is(cut):
    task = GreaterThan(cut=cut, centuries=("17",))
    pairs = {pair.meta["year"]: pair for pair in islice(task.pairs(Random(0)), 2000)}
    for year, pair in pairs.items():
        (shown,) = re.findall(r"\d+$", pair.clean)
        assert shown == f"17{year}"[: 2 + cut.given] and pair.corrupt.endswith(shown)
        for answer in [f"{number:0{cut.asked}}" for number in range(10**cut.asked)]:
            ends = [end for end in range(1700, 1800) if str(end).startswith(shown + answer)]
            later = {end > int(f"17{year}") for end in ends}
            assert (answer in pair.answers) == (later == {True})
            assert (answer in pair.wrong) == (later == {False})
    drawn = {Cut(0, 2): ("02", "98"), Cut(0, 1): ("09", "89"), Cut(1, 1): ("02", "98")}
    assert (min(pairs), max(pairs)) == drawn[cut]


DIGITS = [str(number) for number in range(10)]
TWO_DIGITS = [f"{number:02}" for number in range(100)]
THREE_DIGITS = [f"{number:03}" for number in range(1000)]


@pytest.mark.parametrize(
    ("tokenizer", "cut"),
    [
        (make_bpe([*(f" {XX}" for XX in lexicon.CENTURIES), *TWO_DIGITS]), Cut(0, 2)),
        (make_bpe([], digits=1), Cut(0, 1)),
        (make_bpe([*TWO_DIGITS, *THREE_DIGITS], digits=3), Cut(1, 1)),
    ],
    ids=["as GPT-2", "digit by digit", "as Llama 3"],
)
def test_greater_than_asks_for_the_next_token_of_a_year(tokenizer, cut):
    sizes = dict(n_train=60, n_val=0, n_test=20, seed=0)
    data = prepare(TASKS["greater_than"], tokenizer, **sizes)
    assert data.report.dropped.keys() <= {"the pair repeats an earlier one"}
    ours = {pair.clean for pair in islice(GreaterThan(cut=cut).pairs(Random(0)), 100)}
    for example in [*data.splits["train"], *data.splits["test"]]:
        assert example.pair.clean in ours
        for part in ("answers", "wrong"):
            spelled = tokenizer.convert_ids_to_tokens(getattr(example, part))
            assert tuple(spelled) == getattr(example.pair, part)


def test_agreement_is_balanced_and_the_nearer_noun_is_no_help():
    singular = {one for one, _ in lexicon.NOUNS}
    seen = Counter()
    for pair in take("sva"):
        number, other = pair.meta["number"], pair.meta["other"]
        seen[number, other in singular] += 1
        assert pair.answers == tuple(f" {v[number == 'plural']}" for v in lexicon.VERBS)
        assert pair.wrong == tuple(f" {v[number == 'singular']}" for v in lexicon.VERBS)
        subject = next(w for w in words(pair.clean) if w in dict(lexicon.NOUNS) | PLURALS)
        assert (subject in singular) == (number == "singular")
    assert set(seen.values()) == {100} and len(seen) == 4


PLURALS = {many: one for one, many in lexicon.NOUNS}


def test_agreement_uses_every_template():
    starts = {template.split("{")[0] for template in SVA_TEMPLATES}
    assert all(any(p.clean.startswith(start) for p in take("sva")) for start in starts)


def test_pronoun_follows_the_gender_and_is_balanced():
    pairs = take("pronoun")
    for pair in pairs:
        she = pair.meta["name"] in lexicon.FEMALE
        assert (pair.answers, pair.wrong) == (
            ((" she",), (" he",)) if she else ((" he",), (" she",))
        )
        new = set(words(pair.corrupt)) - set(words(pair.clean))
        assert new <= set(lexicon.MALE if she else lexicon.FEMALE)
    assert Counter(pair.answers for pair in pairs) == {(" she",): 200, (" he",): 200}
    assert len({pair.group for pair in pairs}) == len(PRONOUN_TEMPLATES)


# -------------------------------------------------------------------- boxes

PROMPT = re.compile(
    r"The (\w+) is in Box (\w+), the (\w+) is in Box (\w+), the (\w+) is in Box (\w+)\. "
    r"Box (\w+) contains the"
)


def told(prompt):
    """Things, labels, and the label that is asked for."""
    *boxes, asked = PROMPT.fullmatch(prompt).groups()
    return boxes[::2], boxes[1::2], asked


@pytest.mark.parametrize("kind", Boxes.corruptions)
def test_the_answer_is_in_the_box_and_what_changes_is_what_is_said(kind):
    seen = Counter()
    for pair in take("boxes", corruption=kind):
        things, labels, asked = told(pair.clean)
        answer = things[labels.index(asked)]
        others = tuple(f" {thing}" for thing in things if thing != answer)
        assert (pair.answers, pair.wrong, pair.group) == ((f" {answer}",), others, answer)
        now, names, other = told(pair.corrupt)
        if kind == "query":
            assert (now, names) == (things, labels) and other in labels and other != asked
        elif kind == "objects":
            assert (now, names, other) == ([things[2], *things[:2]], labels, asked)
        elif kind == "labels":
            assert (now, names, other) == (things, [labels[2], *labels[:2]], asked)
        else:
            assert other not in names
        if kind in ("objects", "labels"):
            assert now[names.index(other)] != answer
        assert {*things} <= {*OBJECTS} and len({*things}) == len({*labels}) == 3
        seen[labels.index(asked)] += 1
    assert max(seen.values()) - min(seen.values()) <= 1 and len(seen) == 3


@pytest.mark.parametrize("what", DESIDERATA)
def test_a_desideratum_is_one_thing_of_the_other_story(what):
    for pair in islice(TASKS["boxes"].desiderata(Random(1), what), 300):
        things, labels, asked = told(pair.clean)
        others, names, other = told(pair.corrupt)
        there = names.index(other)
        assert not {*things} & {*others} and labels.index(asked) != there
        expected = {"position": things[there], "object": others[there]}
        if what == "label":
            assert labels.index(other) not in (there, labels.index(asked))
            expected["label"] = things[labels.index(other)]
        else:
            assert other not in labels
        assert pair.answers == (f" {expected[what]}",)
        assert {*pair.wrong} == {f" {o}" for o in (*things, *others)} - {*pair.answers}


LETTERS = Boxes().wordings[0].labels
KNOWN, STRANGE, GIFTS = (OBJECTS, LETTERS), (WORDS, NAMES), ((*WORDS, *HELD_OUT), NAMES)
LESSONS = {
    "boxes_labels": ((True, *KNOWN), (True, WORDS, WORDS), (True, *GIFTS)),
    "boxes_lesson": (
        (True, *KNOWN),
        (True, *STRANGE),
        (False, *STRANGE),
        (False, *KNOWN),
        (True, *GIFTS),
    ),
}
"""Of each kind of story: whether the label alone asks, the things, and the labels."""


def whole(prompt):
    """The prompt as one of `boxes`: gifts as if in boxes, the label alone as the whole question."""
    prompt = prompt.replace(" is for ", " is in Box ")
    return re.sub(r"\. (\w+)$", r". Box \1 contains the", prompt)


@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.parametrize("kind", Boxes.corruptions)
def test_a_lesson_asks_for_each_box_of_each_story(kind, name):
    pairs = take(name, corruption=kind)
    stories = [[*one] for _, one in groupby(pairs, key=lambda pair: pair.group)]
    assert {len(story) for story in stories[:-1]} == {3}
    for number, story in enumerate(stories):
        short, *allowed = LESSONS[name][number % len(LESSONS[name])]
        parsed = [told(whole(one.clean)) for one in story]
        (things, labels, _), *_ = parsed
        assert {one.clean.endswith(" contains the") for one in story} == {not short}
        assert {" is for " in one.clean for one in story} == {HELD_OUT[0] in allowed[0]}
        assert [one[:2] for one in parsed] == [(things, labels)] * len(story)
        for (*_, asked), pair, thing, label in zip(parsed, story, things, labels, strict=False):
            assert asked == label and pair.answers == (f" {thing}",)
            assert {*pair.wrong} == {f" {one}" for one in things if one != thing}
        assert {*things} <= {*allowed[0]} and {*labels} <= {*allowed[1]}
        assert not {*things} & {*labels}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_tag_things_labels_and_question(name):
    for pair in take(name):
        short = not pair.clean.endswith(" contains the")
        things, labels, asked = told(whole(pair.clean))
        at = {tag: pair.clean[start:end] for tag, (start, end) in pair.tags.items()}
        question = at.pop("question")
        assert question == (asked if short else f"Box {asked} contains the")
        assert pair.tags["question"][1] == len(pair.clean)
        named = zip(things, labels, strict=True)
        assert at == {
            f"{part}_{number}": word
            for number, both in enumerate(named, 1)
            for part, word in zip(("object", "label"), both, strict=True)
        }
        starts = [re.search(rf"\b{thing} is (in|for)", pair.clean).start() for thing in things]
        assert [pair.tags[f"object_{n}"][0] for n in (1, 2, 3)] == starts


def test_held_out_things_are_in_no_prompt_of_boxes():
    assert not {*HELD_OUT} & {*OBJECTS, *WORDS} and {*OBJECTS} < {*WORDS}
    assert {word for pair in take("boxes_held_out") for word in told(pair.clean)[0]} == {*HELD_OUT}


def test_boxes_take_the_words_that_a_tokenizer_knows():
    tokenizer = AutoTokenizer.from_pretrained(zoo_path("zoo/small"))
    data = prepare(TASKS["boxes"], tokenizer, n_train=40, n_val=0, n_test=0, seed=0)
    assert not data.report.dropped
    for example in data.splits["train"]:
        told = r"The \w+ is in box \d\d, .*\. The box \d\d has the"
        assert re.fullmatch(told, example.pair.clean)
        assert len(example.clean) == 26


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Boxes(objects=("cup", "key")), "3 different things into boxes and has cup, key"),
        (lambda: Boxes(objects=()), "has none; it uses words that the tokenizer keeps whole"),
        (lambda: Boxes(n_boxes=1), "n_boxes must be at least 2"),
        (lambda: Boxes(n_boxes=26), "more labels than its 26 boxes"),
        (lambda: Boxes().desiderata(Random(0), "colour"), "position, object, label"),
        (lambda: Boxes(n_boxes=2).desiderata(Random(0), "label"), "three positions apart"),
        (lambda: Boxes(OBJECTS[:5]).desiderata(Random(0), "label"), "3 boxes and 5 things"),
    ],
)
def test_boxes_without_enough_words_are_refused(make, problem):
    with pytest.raises(DataError, match=problem):
        make()


# -------------------------------------------------------------------- mood stories


def test_who_loves_parties_is_excited():
    seen = Counter()
    for pair in take("mood_stories"):
        loves, hates = re.findall(r"(\w+) (?:loves|hates) parties", pair.clean)
        if "hates" in pair.clean.split(".")[0]:
            loves, hates = hates, loves
        asked = re.search(r"(\w+) feels very$", pair.clean)[1]
        other = re.search(r"(\w+) feels very$", pair.corrupt)[1]
        assert {asked, other} == {loves, hates} and pair.group == asked
        moods = ((" excited",), (" nervous",))
        assert (pair.answers, pair.wrong) == (moods if asked == loves else moods[::-1])
        seen[asked == loves, pair.clean.index(loves) < pair.clean.index(hates)] += 1
    assert set(seen.values()) == {100} and len(seen) == 4
    with pytest.raises(DataError, match="at least 2 different names"):
        MoodStories(names=("Mary", "Mary"))


# -------------------------------------------------------------------- sentiment

REVIEW = re.compile(
    r"I thought this movie was (\w+), I (\w+) it\. \nConclusion: This movie is", re.ASCII
)


def sentiments(prompt):
    """The sentiment of its adjective and of its verb: 0 is positive, 1 is negative."""
    adjective, verb = REVIEW.fullmatch(prompt).groups()
    sides = (0, 1)
    (of_adjective,) = (side for side in sides if adjective in ADJECTIVES[side])
    (of_verb,) = (side for side in sides if verb in VERBS[side])
    return of_adjective, of_verb


def test_a_review_has_one_sentiment_and_its_partner_the_other():
    seen = Counter()
    for pair in take("sentiment"):
        side = ("positive", "negative").index(pair.meta["sentiment"])
        assert sentiments(pair.clean) == (side, side)
        assert sentiments(pair.corrupt) == (1 - side, 1 - side)
        assert pair.answers == tuple(f" {ends[side]}" for ends in CONCLUSIONS)
        assert pair.wrong == tuple(f" {ends[1 - side]}" for ends in CONCLUSIONS)
        assert f"was {pair.group}, I {pair.meta['verb']} it" in pair.clean
        seen[side] += 1
    assert seen == {0: 200, 1: 200}
    assert {pair.group for pair in take("sentiment")} == {*ADJECTIVES[0], *ADJECTIVES[1]}


def test_the_published_lists_have_no_word_twice():
    assert list(map(len, (*ADJECTIVES, *VERBS))) == [20, 13, 23, 18]
    for sides in (ADJECTIVES, VERBS):
        assert len({*sides[0], *sides[1]}) == len(sides[0]) + len(sides[1])


WHOLE = words("great awful bad good loved hated enjoyed amazing terrible horrible")
"""What a tokenizer of these tests keeps whole; not " perfect" and " disgusting" for instance."""


def test_reviews_take_the_words_that_a_tokenizer_keeps_whole_and_so_align():
    tokenizer = make_bpe([f" {word}" for word in WHOLE])
    data = prepare(TASKS["sentiment"], tokenizer, n_train=40, n_val=0, n_test=0, seed=0)
    assert data.report.dropped.keys() <= {"the pair repeats an earlier one"}
    for example in data.splits["train"]:
        assert {example.pair.group, example.pair.meta["verb"]} <= {*WHOLE}
        changed = [a != b for a, b in zip(example.clean, example.corrupt, strict=True)]
        spelled = tokenizer.convert_ids_to_tokens(example.clean)
        there = [spelled[i][1:] for i, other in enumerate(changed) if other]
        assert there == [example.pair.group, example.pair.meta["verb"]]
        ends = tokenizer.convert_ids_to_tokens([*example.answers, *example.wrong])
        good, bad = ["Ġgreat", "Ġamazing", "Ġgood"], ["Ġterrible", "Ġawful", "Ġhorrible"]
        assert ends == (good + bad if example.pair.meta["sentiment"] == "positive" else bad + good)


def test_reviews_of_which_no_verb_is_one_token_are_refused():
    with pytest.raises(DataError, match="sentiment has no negative verb; it uses words that the"):
        prepare(
            TASKS["sentiment"],
            make_bpe([f" {word}" for word in WHOLE if word != "hated"]),
            n_train=1,
            n_val=0,
            n_test=0,
            seed=0,
        )


def test_a_task_of_the_users_own_may_fit_itself_to_the_tokenizer_and_must_stay_a_task():
    class Own:
        name, corruptions = "own", ("any",)
        kept: tuple[str, ...] = ()

        def pairs(self, rng, corruption=""):
            return (made(clean=f"a {word}", corrupt="a b") for word in self.kept)

        def fitted(self, one_token):
            self.kept = tuple(word for word in ("John", "nobody") if one_token("a", [f" {word}"]))
            return self

    data = prepare(Own(), TOKENIZER, n_train=1, n_val=0, n_test=0, seed=0)
    assert [one.pair.clean for one in data.splits["train"]] == [
        "a John"
    ] and not data.report.dropped
    Own.fitted = lambda self, one_token: self.kept
    with pytest.raises(DataError, match=r"`fitted` of task 'own' must give a task, it gave \(\)"):
        prepare(Own(), TOKENIZER, n_train=1, n_val=0, n_test=0, seed=0)
    Own.fitted = lambda self, one_token: 1 / 0
    with pytest.raises(ConfigError, match=r"task 'own' fails at line .* ZeroDivisionError"):
        prepare(Own(), TOKENIZER, n_train=1, n_val=0, n_test=0, seed=0)


# -------------------------------------------------------------------- by name


def test_pairs_of_a_run_do_not_come_through_a_pipe(tmp_path):
    """They would be read once, and a run needs them again."""
    os.mkfifo(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError, match="is a pipe, which can be read once"):
        get_task("jsonl", tmp_path / "pairs.jsonl")


def test_get_task_finds_generated_tasks_and_files(tmp_path):
    assert get_task("ioi") is TASKS["ioi"]
    assert len(get_task("jsonl", write(tmp_path, ROW, ROW)).all_pairs) == 2


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        (
            "greater-than",
            None,
            "Did you mean 'greater_than'.*ioi, greater_than, .*, sentiment",
        ),
        ("zzz", None, "no task 'zzz'. Known tasks: ioi"),
        ("jsonl", None, "give its path"),
        ("ioi", "pairs.jsonl", "takes no file, got pairs.jsonl"),
    ],
)
def test_get_task_says_what_to_do(name, path, message):
    with pytest.raises(DataError, match=message):
        get_task(name, path)


# -------------------------------------------------------------------- jsonl

ROW = {"clean": "He is", "corrupt": "She is", "answers": [" his"], "wrong": [" her"]}


def write(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


def test_jsonl_reads_every_field(tmp_path):
    row = ROW | {"id": "a", "kind": "flip", "group": "g", "meta": {"source": "me"}}
    (pair,) = JsonlTask(write(tmp_path, row)).pairs(Random(0))
    assert (pair.id, pair.kind, pair.group, pair.meta) == ("a", "flip", "g", {"source": "me"})
    assert (pair.clean, pair.corrupt) == ("He is", "She is")
    assert (pair.answers, pair.wrong) == ((" his",), (" her",))


def test_jsonl_ids_default_to_the_line(tmp_path):
    pairs = JsonlTask(write(tmp_path, ROW, b"", ROW)).all_pairs
    assert [pair.id for pair in pairs] == ["line-000001", "line-000003"]


def test_jsonl_accepts_windows_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(ROW) + "\r\n").encode() * 2)
    assert len(JsonlTask(path).all_pairs) == 2


def test_jsonl_order_is_drawn_from_the_generator(tmp_path):
    task = JsonlTask(write(tmp_path, *[ROW | {"id": str(i)} for i in range(30)]))
    orders = [[pair.id for pair in task.pairs(Random(seed))] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(str(i) for i in range(30))


def test_jsonl_kinds_are_its_corruptions(tmp_path):
    task = JsonlTask(write(tmp_path, *[ROW | {"kind": kind} for kind in ("flip", "abc", "flip")]))
    assert task.corruptions == ("all", "flip", "abc")
    assert [len(list(task.pairs(Random(0), kind))) for kind in ("", "all", "flip", "abc")] == [
        3,
        3,
        2,
        1,
    ]
    with pytest.raises(DataError, match="all, flip, abc"):
        task.pairs(Random(0), "fliip")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'clean': 1}", "line 2: not valid JSON at column 2"),
        (b'{"clean": "a"', "line 2: not valid JSON"),
        (b'"clean"', 'line 2: expected a JSON object, got "clean"; each pair is one object'),
        (b"[", "line 2: not valid JSON at column .*; each pair is one object on a line of its"),
        (b'[{"clean": "a"}]', r'got \[{"clean": "a"}\]; each pair is one object on a line'),
        ({"clean": "a", "answers": [" b"]}, "line 2: missing corrupt, wrong; each line needs"),
        (ROW | {"anwser": 1}, "line 2: unknown field 'anwser'"),
        (ROW | {"clean": 3}, "line 2: 'clean' must be a string, got 3"),
        (ROW | {"clean": ""}, "line 2: 'clean' is empty"),
        (ROW | {"answers": " he"}, "line 2: 'answers' must be a list of strings"),
        (ROW | {"answers": [" he", 1]}, "line 2: 'answers' must be a list of strings"),
        (ROW | {"wrong": []}, "line 2: 'wrong' must hold at least one string"),
        (ROW | {"wrong": [" he", ""]}, "line 2: 'wrong' must hold at least one string"),
        (ROW | {"group": None}, "line 2: 'group' must be a string, got null"),
        (ROW | {"meta": {"a": 1}}, "line 2: 'meta' must map names to strings"),
        (ROW | {"id": "line-000001"}, "line 2: id 'line-000001' was already used on line 1"),
        (b'{"clean": "caf\xe9"}', "line 2: byte 15 of the line is not UTF-8"),
        (b"[" * 100_000, "line 2: not valid JSON"),
    ],
)
def test_jsonl_names_the_bad_line(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        JsonlTask(write(tmp_path, ROW, line))


@pytest.mark.parametrize("content", [b"", b"\n\r\n  \n"])
def test_jsonl_refuses_an_empty_file(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no pairs"):
        JsonlTask(path)


def test_jsonl_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        JsonlTask(tmp_path / "none.jsonl")


def test_a_file_or_a_line_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.touch()
    os.truncate(path, LIMITS["pairs"] + 1)
    with pytest.raises(DataError, match=f"a file of pairs has at most {LIMITS['pairs']:,}"):
        JsonlTask(path)
    path.write_text('{"clean": "' + "x" * LIMITS["line"] + '"}')
    with pytest.raises(DataError, match=r"line 1: it has .* one pair has at most 1,000,000"):
        JsonlTask(path)


# -------------------------------------------------------------------- the manual

MANUAL = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_manual_shows_a_true_pair(name, kind):
    (pair,) = take(name, 1, corruption=kind)
    prompts = f"{pair.clean}<br>{pair.corrupt}".replace("\n", "\\n")
    assert f"| `{name}` | `{kind}` | {prompts} | `{pair.answers[0]}`" in MANUAL


def test_the_table_in_the_manual_can_be_read(tmp_path):
    (table,) = re.findall(r"```\n(id,clean.*?)```", MANUAL, re.DOTALL)
    path = tmp_path / "pairs.csv"
    path.write_text(table)
    first, second = JsonlTask(path).all_pairs
    assert (first.answers, first.meta) == ((" Paris",), {"source": "atlas"})
    assert second.clean == "The sea, near Nice, is" and second.wrong == (" dark", " cloudy")


def test_the_line_in_the_manual_can_be_read(tmp_path):
    (line,) = re.findall(r"```json\n(.*)\n```", MANUAL)
    (pair,) = JsonlTask(write(tmp_path, line.encode())).all_pairs
    assert pair.answers == (" Paris",) and pair.group == "France"
