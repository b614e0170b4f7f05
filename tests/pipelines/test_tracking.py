"""`circuitprune tracking` and `sentiment`: what they leave, and what they refuse."""

import json
from dataclasses import replace
from itertools import chain

import pytest
from conftest import randomise
from tiny import tiny_lm
from tiny import tokenizer as other_tokenizer
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitprune import Study
from circuitprune.cli import main
from circuitprune.data.tasks.sentiment import ADJECTIVES, CONCLUSIONS, VERBS
from circuitprune.errors import ConfigError, DataError, GraphError
from circuitprune.files.whole import read_json
from circuitprune.models import load_model
from circuitprune.pipelines.sentiment import SentimentConfig, find_sentiment, read_sentiment
from circuitprune.pipelines.tracking import TrackingConfig, entity_tracking, read_tracking

SMALL = dict(n_paths=4, n_measured=6, n_masks=4, least=0.001, most=1, n_random=1, progress=False)


def test_tracking_leaves_a_page_and_numbers(tmp_path, capsys):
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    folder = tmp_path / "found"
    command = ["tracking", "zoo/small", "--base", "zoo/small", "--output-dir", str(folder)]
    assert main([*command, *settings]) == 0
    page, said = (folder / "tracking.md").read_text(), capsys.readouterr().out
    text = (folder / "tracking.json").read_text()
    found = read_json(folder / "tracking.json", checked=True)
    assert next(iter(json.loads(text))) == "sha256" and "sha256" not in found
    assert page in said and "## One in the other" in page
    assert "n_paths: 4" in (folder / "config.yaml").read_text()
    (group, *_) = found["tuned"]["groups"]
    assert found["base"]["groups"][0] == group and f"{group['heads'][0]} " in page
    assert main([*command, *settings]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_models_of_two_sizes_are_refused_before_anything_runs():
    one = load_model("zoo/small")
    other = tiny_lm("gpt2")
    with pytest.raises(GraphError, match="equal sizes"):
        entity_tracking(one, (other, one[1]), TrackingConfig(**SMALL))
    with pytest.raises(DataError, match=r"different things into boxes|more labels"):
        entity_tracking((other, other_tokenizer()), None, TrackingConfig(**SMALL))


@pytest.mark.parametrize(
    ("read", "given", "problem"),
    [
        (read_tracking, "n_path=3", "n_paths"),
        (read_tracking, "n_paths=0", "n_paths"),
        (read_tracking, "n_boxes=2", "at least 3"),
        (read_tracking, "n_masks=1", "n_masks"),
        (read_tracking, "least=2", "least"),
        (read_tracking, "metric=kl", "answer_prob, logit_diff"),
        (read_tracking, "dtype=bfloat16", "float32 or float64"),
        (read_tracking, "device=tpu", "auto, cpu, cuda"),
        (read_sentiment, "n_train=1", "at least 2"),
        (read_sentiment, "layers=[-1]", "layers"),
        (read_sentiment, "dtype=int8", "bfloat16"),
    ],
)
def test_settings_out_of_range_are_refused(read, given, problem):
    with pytest.raises(ConfigError, match=problem):
        read([given])


# ------------------------------------------------------------------ sentiment


@pytest.fixture(scope="module")
def reviewer(tmp_path_factory):
    """A random model whose tokenizer knows the words of reviews, as a folder."""
    told = "I thought this movie was it. \nConclusion: This movie is , "
    words = [*chain(*ADJECTIVES, *VERBS, *CONCLUSIONS), *told.replace(",", " ,").split(" ")]
    cut = pre_tokenizers.Split(Regex(r" ?\p{L}+|\s|[^\s\p{L}]"), behavior="isolated")
    pieces = {p for w in words for form in (w, f" {w}") for p, _ in cut.pre_tokenize_str(form)}
    vocabulary = ["<end>", "<unk>", *sorted(pieces)]
    whole = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    whole.pre_tokenizer, whole.decoder = cut, decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    )
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=len(vocabulary), eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    randomise(model, seed=1)
    folder = tmp_path_factory.mktemp("reviewer")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_sentiment_leaves_a_page_numbers_and_a_figure(reviewer, tmp_path, capsys):
    folder, settings = tmp_path / "found", ["n_train=6", "n_test=5", "progress=false"]
    command = ["sentiment", str(reviewer), *settings, "--output-dir", str(folder)]
    assert main(command) == 0
    found = json.loads((folder / "sentiment.json").read_text())
    assert (found["n_train"], found["n_test"], found["n_layers"]) == (6, 5, 2)
    assert {row["layer"] for row in found["directed"]} == {0, 1}
    page = (folder / "sentiment.md").read_text()
    assert page in capsys.readouterr().out and "comma and noun" in page
    path = tmp_path / "x.svg"
    assert main(["figure", "sentiment", str(folder), "-o", str(path)]) == 0
    assert "mean difference" in path.read_text()


def test_sentiment_is_asked_of_a_study(reviewer):
    config = SentimentConfig(n_train=4, n_test=3, layers=[1], seed=2, progress=False)
    review = dict(n_train=4, n_test=4, min_accuracy=0, seed=2, progress=False)
    study = Study(str(reviewer), "sentiment", **review)
    found = study.sentiment(n_train=4, n_test=3, layers=[1])
    assert replace(found, model=str(reviewer)) == find_sentiment(str(reviewer), config)


def test_a_layer_or_words_that_are_not_there_are_refused(reviewer):
    with pytest.raises(ConfigError, match="no 2; the model has 2"):
        find_sentiment(str(reviewer), SentimentConfig(layers=[2], progress=False))
    with pytest.raises(DataError, match="sentiment has no"):
        find_sentiment("zoo/small", SentimentConfig(progress=False))
