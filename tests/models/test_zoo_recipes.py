"""Texts that cannot be answered by counting names, and the recipes that mix them."""

import hashlib
import re
from dataclasses import replace
from itertools import chain
from random import Random

import pytest
import torch
from torch.nn.functional import cross_entropy

from circuitprune.errors import ModelError
from circuitprune.models.zoo.corpus import FEMALE, HELD_OUT_IOI, HELD_OUT_NOUNS, MALE, SEEN
from circuitprune.models.zoo.distractors import DISTRACTORS, mention_before, two_pairs
from circuitprune.models.zoo.recipes import COMPOSED, PLAIN, RECIPES, Recipe, Stage, find_recipe
from circuitprune.models.zoo.training import (
    Corpus,
    ZooTraining,
    build_model,
    build_tokenizer,
    head_norms,
)

NAMES = {*FEMALE, *MALE}


def names_in(text):
    return [word for word in re.findall(r"[A-Za-z]+", text) if word in NAMES]


def drawn(kind, number=300):
    rng = Random(7)
    return [kind(rng) for _ in range(number)]


def test_of_two_pairs_three_names_occur_once_and_the_partner_is_asked_for():
    either = set()
    for row in drawn(two_pairs):
        *pairs, subject = names_in(row.prompt)
        assert len(set(pairs)) == 4 and pairs.count(subject) == 1
        at = pairs.index(subject)
        assert row.answer == f" {pairs[at ^ 1]}"
        either.add(at)
    assert either == {0, 1, 2, 3}


def test_a_mention_before_leaves_counts_that_do_not_tell():
    level = 0
    for row in drawn(mention_before):
        _, a, b, subject = said = names_in(row.prompt)
        answer = row.answer.strip()
        assert {a, b} == {subject, answer}
        level += said.count(answer) == said.count(subject) == 2
    assert 0.5 < level / 300 < 0.7


@pytest.mark.parametrize("kind", ["two_pairs", "mention_before"])
def test_prompts_of_ioi_never_mention_what_is_held_out(kind):
    for row in drawn(DISTRACTORS[kind], 2000):
        assert not {*names_in(row.text)} & {*HELD_OUT_IOI}


@pytest.mark.parametrize("kind", ["beside", "name_list"])
def test_other_texts_make_held_out_names_answers(kind):
    answers = {row.answer.strip() for row in drawn(DISTRACTORS[kind], 4000)}
    assert {*HELD_OUT_IOI} <= answers


@pytest.mark.parametrize("name", RECIPES)
def test_texts_of_a_recipe_fit_the_model(name):
    recipe = replace(RECIPES[name], batch_size=256)
    tokenizer = build_tokenizer(recipe)
    corpus = Corpus(tokenizer, recipe, seed=9)
    for step in (0, 1, recipe.stages[0].steps, recipe.steps - 1):
        tokens, *_ = corpus[step]
        assert tokens.shape[1] <= tokenizer.model_max_length
        assert tokenizer.unk_token_id not in tokens


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_shares_are_of_kinds_that_there_are(recipe):
    for stage in recipe.stages:
        assert stage.shares.keys() <= SEEN.keys() | DISTRACTORS.keys()
        assert sum(stage.shares.values()) < 1


def test_the_text_of_the_shipped_model_is_what_it_was():
    """The hash of three batches of the text that `zoo/small` was trained on."""
    rows = [row for step in range(3) for row in PLAIN.rows(Random(f"0-{step}"), 128, 0)]
    text = "\n".join(f"{row.text}|{row.answer}" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("1c50ede34ff4b16d")


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(ModelError, match=r"no recipe 'plane'; recipes: plain, composed"):
        find_recipe("plane")


def test_stages_follow_each_other_and_a_penalty_rises():
    first, then = Stage(10, {"beside": 1.0}), Stage(20, {"ioi": 1.0}, head_penalty=0.5, rise=10)
    recipe = Recipe("x", (first, then), 8)
    assert recipe.steps == 30
    steps = (0, 9, 10, 15, 20, 29, 90)
    assert [recipe.penalty_at(step) for step in steps] == [0, 0, 0, 0.25, 0.5, 0.5, 0.5]
    early, late = (recipe.rows(Random(0), 8, step) for step in (9, 10))
    assert all("went to see" in row.prompt for row in early)
    assert not any("went to see" in row.prompt for row in late)
    assert [stage.steps for stage in recipe.shortened(14).stages] == [10, 4]
    assert recipe.shortened(5).stages == (replace(first, steps=5),)


def test_held_out_nouns_are_counted_in_plain_sentences():
    words = {word for row in drawn(DISTRACTORS["held_out_noun"]) for word in row.text.split()}
    assert {*chain(*HELD_OUT_NOUNS)} <= {word.strip(".,") for word in words}


def test_repeats_are_the_words_of_a_list_that_were_said_before():
    recipe = Recipe("x", (Stage(1, {"name_list": 0.5}),), 8)
    tokenizer = build_tokenizer(recipe)
    tokens, targets, _, repeats = Corpus(tokenizer, recipe, seed=0)[0]
    for row in range(8):
        for at in range(tokens.shape[1]):
            before = tokens[row, : at + 1].tolist()
            assert repeats[row, at] == (row < 4 and targets[row, at].item() in before)


def test_the_loss_is_the_sum_that_its_docstring_names():
    recipe = replace(COMPOSED, batch_size=32, stages=COMPOSED.stages[2:])
    tokenizer = build_tokenizer(recipe)
    torch.manual_seed(0)
    model = build_model(tokenizer).eval()
    training = ZooTraining(model, recipe)
    training.log_dict = lambda *_, **__: None
    batch = Corpus(tokenizer, recipe, seed=0)[4]
    tokens, targets, answer_at, repeats = batch
    each = {"words": [], "answers": [], "repeats": []}
    logits = model(input_ids=tokens).logits
    for row, target in enumerate(targets):
        for at in (target != -100).nonzero().squeeze(1).tolist():
            loss = cross_entropy(logits[row, at], target[at])
            each["words"].append(loss)
            if at == answer_at[row]:
                each["answers"].append(loss)
            if repeats[row, at]:
                each["repeats"].append(loss)
    expected = sum(torch.stack(losses).mean() for losses in each.values())
    for block in model.transformer.h:
        for head in range(8):
            norm = block.attn.c_proj.weight[16 * head : 16 * head + 16].pow(2).sum().sqrt()
            expected = expected + recipe.stages[0].head_penalty * (norm + 0.05).sqrt()
    torch.testing.assert_close(training.training_step(batch, 4), expected)
    assert head_norms(model).shape == (4, 8)
