"""The shipped model: it loads from the package, does the tasks, and can be made again."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from circuitprune.circuits.graph import Graph
from circuitprune.data.pairs import encode, prepare
from circuitprune.data.tasks import TASKS, lexicon
from circuitprune.errors import ModelError
from circuitprune.models.zoo import ZOO, zoo_path
from circuitprune.models.zoo.card import measure
from circuitprune.models.zoo.corpus import (
    ALL,
    FEMALE,
    HELD_OUT,
    MALE,
    SEEN,
    lexicon_words,
)
from circuitprune.models.zoo.recipes import PLAIN
from circuitprune.models.zoo.training import Corpus, build_tokenizer, train_zoo

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_zoo.py"
FOLDER = zoo_path("zoo/small")
LEAST_RIGHT = 0.99


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)


# -------------------------------------------------------------------- the folder


def test_every_listed_model_has_a_folder():
    for name in ZOO:
        assert (zoo_path(name) / "model.safetensors").is_file()


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ModelError, match=r"Did you mean 'zoo/small'.*Shipped models: zoo/small"):
        zoo_path("zoo/smal")


def test_the_folder_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 4_000_000


def test_it_is_a_gpt2_of_1519_edges(model):
    config = model.config
    assert isinstance(model, GPT2LMHeadModel) and model.dtype == torch.float32
    assert Graph(config.n_layer, config.n_head, config.n_head).n_edges == 1519
    assert model.lm_head.weight is model.transformer.wte.weight


# -------------------------------------------------------------------- the tokenizer


def test_every_word_of_the_tasks_is_one_token(tokenizer):
    for word in lexicon_words():
        ids = tokenizer(word)["input_ids"]
        assert len(ids) == 1 and ids[0] != tokenizer.unk_token_id, word


def test_texts_come_back_from_their_tokens(tokenizer):
    text = "In the year 1732 the war began, and Mary isn't here."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer(" 1732")["input_ids"]) == [" 17", "32"]


def test_nothing_is_put_around_a_text_and_unknown_words_are_unk(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("Mary xylophone")["input_ids"]) == [
        "Mary",
        "<unk>",
    ]


@pytest.mark.parametrize(
    ("name", "corruption"),
    [(name, kind) for name, task in ALL.items() for kind in task.corruptions],
)
def test_the_tasks_fit_the_tokenizer(name, corruption, tokenizer):
    pairs = TASKS[name].pairs(Random(5), corruption)
    examples, dropped = encode(pairs, tokenizer, 300, max_length=tokenizer.model_max_length)
    assert len(examples) == 300
    assert dropped.keys() <= {"the pair repeats an earlier one"}
    assert all(len(e.answers) == len(e.pair.answers) for e in examples)
    assert all(len(e.wrong) == len(e.pair.wrong) for e in examples)


def test_a_data_set_can_be_prepared_by_group(tokenizer):
    data = prepare(
        TASKS["ioi"], tokenizer, n_train=60, n_val=20, n_test=20, seed=0, split_by="group"
    )
    groups = [{e.pair.group for e in side} for side in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_example_in_the_manual_prints_what_it_says(capsys):
    manual = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", manual, re.S)
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.split("# ")[-1].strip()


# -------------------------------------------------------------------- how good it is


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tasks", [HELD_OUT, ALL], ids=["held out", "all"])
def test_the_model_does_the_tasks(tasks, name, seed, model, tokenizer):
    measured = measure(model, tokenizer, tasks[name], 300, seed)
    assert measured["right"] >= LEAST_RIGHT
    assert measured["top1"] >= 0.97
    assert measured["probability"] > 0.85


def test_without_the_second_mention_neither_name_is_preferred(model, tokenizer):
    examples, _ = encode(TASKS["ioi"].pairs(Random(3), "abc"), tokenizer, 200)
    gaps = []
    for example in examples:
        logits = model(torch.tensor([example.corrupt])).logits[0, -1]
        gaps.append((logits[example.answers[0]] - logits[example.wrong[0]]).item())
    assert abs(sum(gaps) / len(gaps)) < 0.5


def test_the_flip_turns_the_answer_around(model, tokenizer):
    examples, _ = encode(TASKS["ioi"].pairs(Random(3), "s2_io_flip"), tokenizer, 200)
    turned = 0
    for example in examples:
        top = model(torch.tensor([example.corrupt])).logits[0, -1].argmax().item()
        turned += top in example.wrong
    assert turned / len(examples) >= LEAST_RIGHT


def test_the_card_gives_the_accuracies():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (held out|all) \| ([\d.]+)% \| ([\d.]+)% \|", card, re.M)
    assert {(name, kind) for name, kind, *_ in rows} == {
        (name, kind) for name in ALL for kind in ("held out", "all")
    }
    assert all(float(right) >= 100 * LEAST_RIGHT for _, _, right, _ in rows)


# -------------------------------------------------------------------- what it was trained on


HELD_OUT_WORDS = {
    "ioi": set(HELD_OUT["ioi"].names),
    "greater_than": set(HELD_OUT["greater_than"].nouns),
    "sva": {form for noun in HELD_OUT["sva"].nouns for form in noun},
    "pronoun": {*HELD_OUT["pronoun"].female, *HELD_OUT["pronoun"].male},
}


@pytest.mark.parametrize("name", ALL)
def test_training_prompts_never_mention_what_is_held_out(name):
    for pair in islice(SEEN[name].pairs(Random(0)), 2000):
        words = set(re.findall(r"[A-Za-z]+", pair.clean + " " + pair.corrupt))
        assert not words & HELD_OUT_WORDS[name]


def test_training_prompts_never_start_in_a_year_that_is_held_out():
    held_out = HELD_OUT["greater_than"]
    for pair in islice(SEEN["greater_than"].pairs(Random(0)), 2000):
        assert pair.meta["year"] not in held_out.years
        assert pair.meta["century"] not in held_out.centuries


def test_what_is_held_out_is_part_of_the_tasks():
    assert set(HELD_OUT["ioi"].names) < set(TASKS["ioi"].names)
    assert set(HELD_OUT["sva"].nouns) < set(lexicon.NOUNS)
    assert min(map(len, HELD_OUT_WORDS.values())) >= 8


def test_no_name_is_of_both_genders():
    assert not set(FEMALE) & set(MALE)
    assert len({*FEMALE, *MALE}) == len(FEMALE) + len(MALE)


def test_the_answer_position_predicts_the_answer():
    tokenizer = build_tokenizer()
    tokens, targets, answer_at, _ = Corpus(tokenizer, PLAIN, seed=0)[0]
    rows = PLAIN.rows(Random("0-0"), 128, 0)
    for row, ids, target, at in zip(rows, tokens, targets, answer_at, strict=True):
        if row.answer:
            assert tokenizer.decode([target[at]]) == tokenizer.decode([ids[at + 1]]) == row.answer
        else:
            assert at == -1


# -------------------------------------------------------------------- making it again


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_training_gives_the_same_bytes_twice(tmp_path):
    small = dict(recipe=replace(PLAIN.shortened(3), batch_size=16), n_test=20)
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_zoo(tmp_path / folder, seed=seed, **small)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    weights = [contents(tmp_path / folder)["model.safetensors"] for folder in "ac"]
    assert weights[0] != weights[1]


def test_the_tokenizer_is_the_one_that_training_builds(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_the_script_writes_a_model(tmp_path):
    command = [sys.executable, SCRIPT, "--out", tmp_path / "zoo", "--steps", "2", "--n-test", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ioi" in done.stdout
    assert contents(tmp_path / "zoo").keys() == contents(FOLDER).keys()
