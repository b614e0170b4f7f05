"""A saved tiny model with a tokenizer and pairs of its words: a whole run in a second or two.

The model is random, so it cannot do the task; configs made here say `task.min_accuracy: 0`.
"""

import json
from functools import cache
from itertools import product
from pathlib import Path

import torch
from conftest import randomise
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from circuitprune.config import RunConfig
from circuitprune.runs.settings import load_config

NOUNS = ["cat", "dog", "bird", "fish", "horse", "mouse"]
VERBS = ["saw", "met", "fed", "heard"]
WORDS = [*NOUNS, *VERBS, "the", "and", "then", "today"]
LLAMA = dict(
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=32,
    intermediate_size=48,
    max_position_embeddings=16,
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words with their leading space, as the shipped model's."""
    cut = pre_tokenizers.Split(Regex(r" ?\p{L}+|[^\p{L}]"), behavior="isolated")
    words = ["<end>", "<unk>", *WORDS, *(f" {word}" for word in WORDS)]
    whole = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer, whole.decoder = cut, decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    )


@cache
def tiny_lm(family: str) -> PreTrainedModel:
    """A random model of 2 layers, 4 heads and width 32; llama has 2 KV heads."""
    n_words = len(tokenizer())
    tokens = dict(vocab_size=n_words, bos_token_id=None, eos_token_id=0, pad_token_id=0)
    if family == "gpt2":
        config = GPT2Config(n_layer=2, n_head=4, n_embd=32, n_positions=16, **tokens)
    else:
        config = LlamaConfig(**LLAMA, **tokens)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed=3)
    return model.eval()


def save_model(folder: Path, family: str = "gpt2") -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    tiny_lm(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def pair_rows() -> list[dict]:
    """120 pairs, half of them one word longer: who was seen, after `then the`."""
    rows = []
    for (a, b), verb, start in product(product(NOUNS, NOUNS), VERBS[:2], ("the", "today the")):
        if a == b:
            continue
        other = next(noun for noun in NOUNS[NOUNS.index(a) :] + NOUNS if noun not in (a, b))
        rows.append(
            {
                "clean": f"{start} {a} {verb} the {b} and then the",
                "corrupt": f"{start} {other} {verb} the {b} and then the",
                "answers": [f" {a}"],
                "wrong": [f" {other}"],
            }
        )
    return rows


def save_pairs(path: Path) -> Path:
    """`pair_rows` as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in pair_rows()))
    return path


def settings(home: Path) -> list[str]:
    """Overrides of a quick run on the model and pairs in `home`, results in `home/run`."""
    return [
        f"model.name={home / 'model'}",
        "task.name=jsonl",
        f"task.path={home / 'pairs.jsonl'}",
        "task.n_train=24",
        "task.n_val=8",
        "task.n_test=20",
        "task.min_accuracy=0",
        "attribution.steps=2",
        "train.steps=12",
        "train.batch_size=8",
        "train.val_every=5",
        "train.checkpoint_every=4",
        "train.progress=false",
        "train.device=cpu",
        "verify.sizes=[0.05,0.2,0.5,1.0]",
        f"output_dir={home / 'run'}",
    ]


def quick_config(home: Path, *overrides: str) -> RunConfig:
    """The config of a quick run."""
    return load_config(None, [*settings(home), *overrides])
