"""The whole path from a task to batches, and the batches that a resumed run draws."""

from collections import Counter
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from random import Random

import pytest
import torch
from golden_numbers import GOLDEN
from lightning.pytorch import LightningModule, Trainer
from pairs import TOKENIZER, WORDS, examples_of, pair
from transformers import AutoTokenizer

from circuitprune.data.pairs import PairData, encode, pairs_hash, prepare
from circuitprune.data.tasks import JsonlTask
from circuitprune.data.tasks.given import GivenPairs
from circuitprune.errors import DataError

CONFIGS = Path(__file__).parents[2] / "configs"

# -------------------------------------------------------------------- batches


def make_data(batch_size=4, sizes=(10, 3, 6), seed=0):
    examples = iter(examples_of(sum(sizes)))
    sides = {n: list(islice(examples, k)) for n, k in zip(("train", "val", "test"), sizes)}  # noqa: B905
    return PairData(sides, batch_size, pad_id=0, seed=seed)


def indices(batches):
    return [batch.index.tolist() for batch in batches]


def test_every_example_has_an_index_of_its_own_and_the_last_batch_stays():
    data = make_data()
    assert indices(data.batches("train")) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert indices(data.val_dataloader()) == [[10, 11, 12]]
    assert indices(data.test_dataloader()) == [[13, 14, 15, 16], [17, 18]]
    assert indices(data.batches("test", 5)) == [[13, 14, 15, 16, 17], [18]]


def test_batches_hold_the_examples_of_their_indices():
    data = make_data()
    (batch,) = data.batches("val")
    assert batch.clean.tolist() == [list(e.clean) for e in data.splits["val"]]


def test_sides_may_be_empty():
    data = make_data(sizes=(0, 0, 2))
    assert data.val_dataloader() == [] and data.batches("train") == []
    with pytest.raises(DataError, match="n_train is 0"):
        data.train_dataloader()


def test_the_hash_of_pairs_knows_their_order_their_side_and_every_part():
    splits = make_data().splits
    train, val, test = splits.values()
    one, *rest = train
    others = [
        {**splits, "train": train[::-1]},
        {**splits, "train": rest, "val": [one, *val]},
        {**splits, "val": test, "test": val},
    ]
    for part in ("clean", "corrupt", "answers", "wrong"):
        others.append({**splits, "train": [replace(one, **{part: (99,)}), *rest]})
        text = "word" if part in ("clean", "corrupt") else ("word",)
        changed = replace(one, pair=replace(one.pair, **{part: text}))
        others.append({**splits, "train": [changed, *rest]})
    dealt = [(0,) * len(one.clean), (1,) * len(one.clean)]  # the same tokens, other spans
    others += [{**splits, "train": [replace(one, spans=spans), *rest]} for spans in dealt]
    hashes = [pairs_hash(other) for other in (splits, *others)]
    assert len(set(hashes)) == len(hashes) == 14
    renamed = replace(one, pair=replace(one.pair, id="mine", meta={"a": "b"}))
    assert pairs_hash({**splits, "train": [renamed, *rest]}) == hashes[0]


def test_an_unknown_side_and_an_empty_batch_are_errors():
    with pytest.raises(DataError, match="no split 'dev'; there are train, val, test"):
        make_data().batches("dev")
    with pytest.raises(DataError, match="at least 1, got 0"):
        make_data(batch_size=0)


# -------------------------------------------------------------------- order of training


def steps(data, number):
    return indices(islice(data.train_dataloader(), number))


def test_every_epoch_draws_each_example_once():
    drawn = [i for batch in steps(make_data(batch_size=3), 20) for i in batch]
    epochs = [drawn[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("start", [0, 1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 4, 25])
def test_a_loader_started_later_yields_the_tail(start, batch_size):
    data, resumed = make_data(batch_size), make_data(batch_size)
    resumed.start_step = start
    assert steps(resumed, 5) == steps(data, start + 5)[start:]


def test_the_seed_decides_the_order():
    assert steps(make_data(seed=0), 5) == steps(make_data(seed=0), 5)
    assert steps(make_data(seed=0), 5) != steps(make_data(seed=1), 5)


class Recorder(LightningModule):
    """Trains one number and writes down which examples it saw; sets the loader when resumed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.index.tolist())
        return self.weight.square().sum()

    def validation_step(self, batch, _):
        self.seen.append("val")

    def on_load_checkpoint(self, checkpoint):
        self.trainer.datamodule.start_step = checkpoint["global_step"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, data, max_steps, checkpoint=None):
    module = Recorder()
    trainer = Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(tmp_path / f"{max_steps}.ckpt")
    return module.seen


def test_lightning_resumes_at_the_batch_where_it_stopped(tmp_path):
    whole = fit(tmp_path, make_data(sizes=(10, 0, 0)), 9)
    first = fit(tmp_path, make_data(sizes=(10, 0, 0)), 4)
    rest = fit(tmp_path, make_data(sizes=(10, 0, 0)), 9, tmp_path / "4.ckpt")
    assert first + rest == whole and len(whole) == 9


# -------------------------------------------------------------------- the whole path


class Letters:
    """An endless task over the words of the tokenizer above."""

    name = "letters"
    corruptions = ("swap",)

    def pairs(self, rng, corruption=""):
        while True:
            text = " ".join(rng.choices(WORDS[:8], k=4))
            yield pair(f"{text} Mary", f"{text} John", group=text[0])


def sizes_of(data):
    return {name: len(side) for name, side in data.splits.items()}


@pytest.mark.parametrize("by", ["pair", "group"])
def test_prepare_gives_the_sides_asked_for(by):
    data = prepare(
        Letters(), TOKENIZER, n_train=30, n_val=0, n_test=10, seed=1, split_by=by, batch_size=8
    )
    assert sizes_of(data) == data.report.kept == {"train": 30, "val": 0, "test": 10}
    sides = [{e.pair.group for e in data.splits[name]} for name in ("train", "test")]
    assert bool(sides[0] & sides[1]) == (by == "pair")
    assert [len(batch) for batch in data.test_dataloader()] == [8, 2]


def test_prepare_is_a_function_of_its_seed():
    sides = [
        prepare(Letters(), TOKENIZER, n_train=9, n_val=3, n_test=3, seed=s).splits
        for s in (0, 0, 1)
    ]
    assert sides[0] == sides[1] != sides[2]


class Mostly:
    """A task of which every other pair is misaligned, and which ends."""

    name = "mostly"
    corruptions = ("none",)

    def pairs(self, rng, corruption=""):
        for a, b in product(WORDS[:8], WORDS[:8]):
            yield pair(f"{a} {b}", f"{a} o", id=f"{a}{b}")
            yield pair(f"{a} {b} b", f"{a} o", id=f"{a}{b}b")


def test_prepare_reports_what_it_dropped():
    data = prepare(Mostly(), TOKENIZER, n_train=10, n_val=0, n_test=0, seed=0)
    reason = "clean and corrupt have different numbers of tokens"
    assert data.report.dropped == {reason: 9}
    assert data.report.summary() == f"kept 10 train, 0 val, 0 test\n  dropped 9: {reason}"


def test_too_few_pairs_left_is_an_error_that_shows_one():
    with pytest.raises(DataError) as caught:
        prepare(Mostly(), TOKENIZER, n_train=80, n_val=10, n_test=0, seed=0)
    message = str(caught.value)
    assert "asked for 90, found 64 among 128" in message
    assert "dropped 64: clean and corrupt have different numbers of tokens" in message
    assert "'a a b' -> ['a', 'a', 'b']" in message and "'a o' -> ['a', 'o']" in message


def test_too_few_answers_are_an_error_that_shows_their_tokens():
    class Long(Letters):
        def pairs(self, rng, corruption=""):
            yield pair(answers=(" she her",))

    with pytest.raises(DataError) as caught:
        prepare(Long(), TOKENIZER, n_train=1, n_val=0, n_test=0, seed=0)
    assert "answers  ' she her' -> ['she', 'her'], 2 tokens" in str(caught.value)
    assert "corrupt" not in str(caught.value)


def test_prepare_draws_more_when_inseparable_pairs_leave_a_side_short():
    class Tied(Letters):
        def pairs(self, rng, corruption=""):
            for p in super().pairs(rng):
                yield p
                yield pair(p.corrupt, p.clean)

    data = prepare(Tied(), TOKENIZER, n_train=3, n_val=3, n_test=3, seed=0)
    assert sizes_of(data) == {"train": 3, "val": 3, "test": 3}


SIZES = ("n_train", "n_val", "n_test")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((1.0, 0, 0), (63, 0, 0)),
        ((1, 0, 0), (1, 0, 0)),
        ((0.5, 0, 0.25), (31, 0, 15)),
        (("auto", 0, "auto"), (32, 0, 31)),
        (("auto", 3, 0.5), (29, 3, 31)),
        ((20.0, 0.0, "auto"), (20, 0, 43)),
    ],
)
def test_prepare_takes_fractions_and_shares_of_the_pairs_that_fit(wanted, expected):
    given = [pair(f"{a} {b} Mary", f"{a} {b} John") for a, b in product(WORDS[:8], WORDS[:8])]
    given[5] = pair("a b c d Mary", "a John")  # dropped: no fraction counts it
    data = prepare(GivenPairs(given), TOKENIZER, **dict(zip(SIZES, wanted, strict=True)), seed=0)
    assert tuple(sizes_of(data).values()) == expected
    assert data.report.dropped.total() == 1 or wanted == (1, 0, 0)  # which stops at the first


def test_a_fraction_of_tied_pairs_leaves_out_as_few_as_need_be():
    both = [(f"{a} {b} Mary", f"{a} {b} John") for a, b in product(WORDS[:5], WORDS[:5])]
    tied = [pair(*texts) for one in both for texts in (one, one[::-1])]
    sides = sizes_of(
        prepare(GivenPairs(tied), TOKENIZER, n_train="auto", n_val=0, n_test="auto", seed=0)
    )
    assert sides["train"] + sides["test"] >= 48 and abs(sides["train"] - sides["test"]) <= 2


@pytest.mark.parametrize("sizes", [(1.0, 0, 0), ("auto", 0, 4), (4, 0, 0.5)])
def test_an_endless_task_has_no_fractions(sizes):
    with pytest.raises(DataError, match=r"without end.*give numbers for n_train"):
        prepare(Letters(), TOKENIZER, **dict(zip(SIZES, sizes, strict=True)), seed=0)


def test_sides_that_want_more_than_all_are_refused():
    given = [pair(f"{a} Mary", f"{a} John") for a in WORDS[:8]]
    with pytest.raises(DataError, match=r"want 8 \+ 0 \+ 2 pairs, but 8 fit"):
        prepare(GivenPairs(given), TOKENIZER, n_train=1.0, n_val=0, n_test=2, seed=0)


@pytest.mark.parametrize(
    ("n", "sizes", "words"),
    [
        (
            1,
            ("auto", 0, "auto"),
            "too few pairs: 1 fit, which leaves none for n_test=auto; add some",
        ),
        (8, (4, 0.1, "auto"), r"none for n_val=0\.1;"),
        (8, (8, "auto", "auto"), "none for n_val=auto and n_test=auto"),
    ],
)
def test_a_side_that_is_wanted_is_not_empty(n, sizes, words):
    """Which would be met only when a circuit that took an hour is to be verified on it."""
    given = [pair(f"{a} Mary", f"{a} John") for a in WORDS[:n]]
    with pytest.raises(DataError, match=words):
        prepare(GivenPairs(given), TOKENIZER, **dict(zip(SIZES, sizes, strict=True)), seed=0)


def test_every_pair_of_the_stories_survives():
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "stories260k")
    task = JsonlTask(CONFIGS / "stories260k_pronoun.jsonl")
    examples, dropped = encode(task.pairs(Random(0)), tokenizer, 336)
    assert len(examples) == 336 and dropped == Counter()
    for example in examples:
        assert list(example.clean) == tokenizer(example.pair.clean)["input_ids"]
        whole = tokenizer(example.pair.clean + example.pair.answers[0])["input_ids"]
        assert whole == [*example.clean, *example.answers]
    data = prepare(task, tokenizer, n_train=200, n_val=68, n_test=68, seed=0)
    assert sizes_of(data) == {"train": 200, "val": 68, "test": 68}
