"""What becomes of a pair: an example in tokens, or a reason why not."""

from collections import Counter
from itertools import count, product

import pytest
from pairs import TOKENIZER, WORDS, ids, make_tokenizer, pair

from circuitprune.data.encoding import (
    Encoder,
    bos_tokens,
    encode,
    encode_until,
    pad_token,
    refuse_beyond,
)
from circuitprune.errors import DataError, ModelError


def reasons(*pairs, tokenizer=TOKENIZER, **options):
    examples, dropped = encode(pairs, tokenizer, len(pairs), **options)
    assert len(examples) + sum(dropped.values()) == len(pairs)
    return dropped


def test_an_example_holds_the_tokens_of_its_pair():
    examples, dropped = encode([pair(answers=(" she", " her"))], TOKENIZER, 1)
    (example,) = examples
    assert (example.clean, example.corrupt) == (ids("a Mary"), ids("a John"))
    assert (example.answers, example.wrong) == (ids("she her"), ids("he"))
    assert dropped == Counter()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (pair(clean=" ", corrupt=" "), "a prompt is empty"),
        (pair(clean="a Zoe"), "a prompt has a word that the tokenizer does not know"),
        (pair(corrupt="a Zoe"), "a prompt has a word that the tokenizer does not know"),
        (pair(clean="<s> Mary"), "a prompt has a special token inside"),
        (pair(corrupt="a </s>"), "a prompt has a special token inside"),
        (pair(clean="a b Mary"), "clean and corrupt have different numbers of tokens"),
        (pair(corrupt="a  Mary"), "clean and corrupt are the same"),
        (pair(clean="a b c d e", corrupt="a b c d f"), "a prompt is longer than 4 tokens"),
        (pair(answers=(" a b",)), "no answer is a single known token after its prompt"),
        (pair(answers=(" zz",)), "no answer is a single known token after its prompt"),
        (pair(answers=("",)), "no answer is a single known token after its prompt"),
        (pair(answers=(" </s>",)), "no answer is a single known token after its prompt"),
        (pair(answers=("a",)), "no answer is a single known token after its prompt"),
        (pair(wrong=(" he him",)), "no wrong answer is a single known token after its prompt"),
        (pair(wrong=(" he", "  she")), "answer and wrong answer share a token"),
    ],
)
def test_a_pair_that_does_not_fit_is_counted_with_its_reason(bad, reason):
    assert reasons(bad, pair(), max_length=4) == {reason: 1}


def test_a_repeated_pair_is_dropped_but_a_repeated_prompt_is_not():
    other = pair(corrupt="b John")
    assert reasons(pair(), pair(id="q"), other) == {"the pair repeats an earlier one": 1}


def test_members_of_a_set_that_are_not_one_token_are_left_out():
    (example,), _ = encode([pair(answers=(" she", " she her", " zz", " her"))], TOKENIZER, 1)
    assert example.answers == ids("she her")


@pytest.mark.parametrize(
    ("bad", "lines"),
    [
        (
            pair(clean="a b Mary"),
            ["clean    'a b Mary' -> ['a', 'b', 'Mary']", "corrupt  "],
        ),
        (pair(answers=(" a b",)), ["answers  ' a b' -> ['a', 'b'], 2 tokens"]),
        (pair(answers=("a",)), ["'a' -> ['<unk>'] in place of ['Mary'] at the end of the prompt"]),
        (pair(answers=("",)), ["answers  '' -> [], 0 tokens"]),
        (pair(wrong=(" zz", " </s>")), ["' zz' -> ['<unk>'], a special", "' </s>' -> ['</s>'], a"]),
        (pair(wrong=("  she",)), ["answers  ' she' -> ['she']\n", "wrong    '  she' -> ['she']"]),
    ],
)
def test_a_dropped_pair_shows_the_tokens_of_what_does_not_fit(bad, lines):
    (shown,) = encode_until([bad], TOKENIZER, 1, "auto", None).shown.values()
    assert all(line in shown[0] for line in lines), shown
    assert ("corrupt" in shown[0]) == ("corrupt" in "".join(lines))


def test_what_is_one_token_behind_a_prompt_is_told_to_tasks():
    one_token = Encoder(TOKENIZER, (), None).one_token
    texts = [" she", " she her", " zz", "she", " </s>", " her"]
    assert one_token("a Mary", texts) == [" she", " her"]
    assert one_token("a ", ["she", " her"]) == ["she", " her"]


def test_max_length_counts_the_bos_token():
    bad = "a prompt is longer than 2 tokens"
    assert reasons(pair(), max_length=2) == {}
    assert reasons(pair(), max_length=2, bos="always") == {bad: 1}


def test_encoding_stops_at_the_number_needed_and_gives_up_on_a_hopeless_stream():
    stream = (pair(clean=f"a {a} {b}", corrupt="a a a") for a, b in product(WORDS, WORDS))
    assert len(encode(stream, TOKENIZER, 5)[0]) == 5
    hopeless = (pair(clean="zz", id=str(i)) for i in count())
    examples, dropped = encode(hopeless, TOKENIZER, 3)
    assert examples == [] and sum(dropped.values()) == 20 * 3 + 1000
    assert encode(count(), TOKENIZER, 0) == ([], Counter())


@pytest.mark.parametrize(
    ("tokenizer", "bos", "expected"),
    [
        ({}, "auto", ()),
        ({}, "always", (1,)),
        ({"own_bos": True}, "auto", (1,)),
        ({"own_bos": True}, "always", (1,)),
        ({"own_bos": True}, "never", ()),
        ({"own_bos": True, "own_eos": True}, "auto", (1,)),
        ({"own_eos": True}, "auto", ()),
    ],
)
def test_what_stands_in_front(tokenizer, bos, expected):
    tokenizer = make_tokenizer(**tokenizer)
    assert bos_tokens(tokenizer, bos) == expected
    (example,), _ = encode([pair()], tokenizer, 1, bos)
    assert example.clean == (*expected, *ids("a Mary"))
    assert example.corrupt == (*expected, *ids("a John"))


@pytest.mark.parametrize(
    ("bos", "message"), [("always", "has no BOS token; use 'auto'"), ("maybe", "got 'maybe'")]
)
def test_bos_that_cannot_be(bos, message):
    with pytest.raises(DataError, match=message):
        bos_tokens(make_tokenizer(bos=False), bos)


def test_padding_uses_the_pad_token_else_eos():
    tokenizer = make_tokenizer()
    assert pad_token(tokenizer) == 2
    tokenizer.pad_token = "o"
    assert pad_token(tokenizer) == ids("o")[0]


def test_a_token_beyond_the_embedding_is_refused_by_name():
    examples, _ = encode([pair()], TOKENIZER, 1)
    used = max(*examples[0].clean, *examples[0].corrupt, *examples[0].answers, *examples[0].wrong)
    refuse_beyond(examples, TOKENIZER, used + 1)
    with pytest.raises(ModelError, match=f"token {used}, but .* embeddings for 0 to {used - 1} al"):
        refuse_beyond(examples, TOKENIZER, used)


def test_padding_never_takes_a_token_that_the_model_does_not_have():
    """Tokenizers are often given a [PAD] of their own, and the model is not resized for it."""
    own = pad_token(TOKENIZER)
    assert pad_token(TOKENIZER, own + 1) == own
    assert 0 <= pad_token(TOKENIZER, 1) < 1
