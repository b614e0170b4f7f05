"""Encoding and its reasons, splits, batches and their order, on tokenizers made by hand."""

from collections import Counter
from itertools import count, islice, product
from pathlib import Path
from random import Random

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from circuitprune.data import (
    Batch,
    Example,
    PairData,
    TrainOrder,
    bos_tokens,
    collate,
    draw,
    encode,
    pad_token,
    prepare,
    split,
)
from circuitprune.errors import DataError
from circuitprune.tasks import JsonlTask, Pair

SHARED = Path(__file__).parents[2] / "shared"

WORDS = "a b c d e f g h Mary John he she him her o".split()  # noqa: SIM905


def make_tokenizer(bos=True, own_bos=False, own_eos=False):
    """Words between spaces are tokens; the unknown word, BOS and EOS have ids 0, 1 and 2."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if own_bos or own_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> " * own_bos + "$A" + " </s>" * own_eos,
            special_tokens=[("<s>", 1), ("</s>", 2)],
        )
    names = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **names
    )


TOKENIZER = make_tokenizer()


def pair(clean="a Mary", corrupt="a John", answers=(" she",), wrong=(" he",), **fields):
    return Pair(fields.pop("id", "p"), clean, corrupt, answers, wrong, **fields)


def reasons(*pairs, tokenizer=TOKENIZER, **options):
    examples, dropped = encode(pairs, tokenizer, len(pairs), **options)
    assert len(examples) + sum(dropped.values()) == len(pairs)
    return dropped


def ids(text):
    return tuple(TOKENIZER(text)["input_ids"])


def examples_of(number, group=lambda i: "", length=3):
    """Examples with tokens of their own, so that no two are connected."""
    return [
        Example(
            pair(id=f"p{i}", group=group(i)),
            tuple(range(10 * i, 10 * i + length)),
            tuple(range(10 * i + 5, 10 * i + 5 + length)),
            (7,),
            (8,),
        )
        for i in range(number)
    ]


# -------------------------------------------------------------------- encoding


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


# -------------------------------------------------------------------- splits


def names(side):
    return {example.pair.id for example in side}


@pytest.mark.parametrize("sizes", [(6, 2, 2), (10, 0, 0), (0, 0, 3), (5, 0, 5), (1, 1, 1)])
def test_sides_have_the_sizes_asked_for_and_share_nothing(sizes):
    sides = split(examples_of(10), *sizes, seed=0)
    assert tuple(len(sides[name]) for name in ("train", "val", "test")) == sizes
    assert len(set.union(*map(names, sides.values()))) == sum(sizes)


def test_the_seed_decides_the_split():
    one, same, other = (split(examples_of(30), 10, 10, 10, seed=s) for s in (0, 0, 1))
    assert one == same
    assert names(one["train"]) != names(other["train"])


@pytest.mark.parametrize("seed", range(10))
def test_pairs_that_share_a_clean_prompt_or_are_mirror_images_stay_together(seed):
    a, b, c, d = ((1, 2), (3, 4), (5, 6), (7, 8))
    tied = [Example(pair(), x, y, (7,), (8,)) for x, y in [(a, b), (a, c), (c, a), (d, b)]]
    sides = split([*tied, *examples_of(8)], 6, 3, 3, seed=seed)
    where = [next(name for name in sides if example in sides[name]) for example in tied]
    assert where[0] == where[1] == where[2]


@pytest.mark.parametrize("seed", range(10))
def test_a_split_by_group_never_parts_a_group(seed):
    sides = split(examples_of(60, group=lambda i: f"g{i % 6}"), 20, 10, 10, seed=seed, by="group")
    groups = [{example.pair.group for example in side} for side in sides.values()]
    assert [len(side) for side in sides.values()] == [20, 10, 10]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_split_by_pair_may_part_a_group():
    sides = split(examples_of(60, group=lambda i: f"g{i % 6}"), 20, 20, 20, seed=0)
    assert {e.pair.group for e in sides["train"]} & {e.pair.group for e in sides["test"]}


@pytest.mark.parametrize(
    ("sizes", "by", "message"),
    [
        ((-1, 0, 1), "pair", "n_train must be 0 or more, got -1"),
        ((1, -2, 1), "pair", "n_val must be 0 or more, got -2"),
        ((0, 0, 0), "pair", "all 0"),
        ((9, 1, 1), "pair", "10 examples .* cannot be split by pair"),
        ((4, 1, 1), "group", "in 2 inseparable sets cannot be split by group"),
        ((1, 1, 1), "template", "by 'pair' or by 'group', got 'template'"),
    ],
)
def test_a_split_that_cannot_be(sizes, by, message):
    with pytest.raises(DataError, match=message):
        split(examples_of(10, group=lambda i: f"g{i % 2}"), *sizes, seed=0, by=by)


# -------------------------------------------------------------------- batches


def test_a_batch_is_padded_on_the_right_and_knows_where_the_answer_is():
    short, long = examples_of(1, length=2) + examples_of(2, length=4)[1:]
    wide = Example(long.pair, long.clean, long.corrupt, (7, 9), (8, 11, 12))
    batch = collate([short, wide], [4, 9], pad_id=99)
    assert batch.index.tolist() == [4, 9]
    assert batch.clean.tolist() == [[0, 1, 99, 99], [10, 11, 12, 13]]
    assert batch.corrupt.tolist() == [[5, 6, 99, 99], [15, 16, 17, 18]]
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.last.tolist() == [1, 3]
    assert batch.answers.tolist() == [[7, -1], [7, 9]]
    assert batch.wrong.tolist() == [[8, -1, -1], [8, 11, 12]]


def test_a_batch_moves_between_devices():
    batch = collate(examples_of(2), [0, 1], 0).to("meta")
    assert isinstance(batch, Batch) and len(batch) == 2
    assert {tensor.device.type for tensor in vars(batch).values()} == {"meta"}


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


def test_a_batch_larger_than_the_data_runs_over_epochs():
    assert Counter(draw(4, 10, seed=0, step=0) + draw(4, 10, seed=0, step=1)) == dict.fromkeys(
        range(4), 5
    )


def test_ranks_share_every_draw():
    ranks = [iter(TrainOrder(10, 6, 0, start=2, rank=rank, world_size=3)) for rank in range(3)]
    for step in range(2, 6):
        shares = [next(rank) for rank in ranks]
        assert {len(share) for share in shares} == {2}
        assert sorted(i for share in shares for i in share) == sorted(draw(10, 6, 0, step))


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


def test_prepare_draws_more_when_inseparable_pairs_leave_a_side_short():
    class Tied(Letters):
        def pairs(self, rng, corruption=""):
            for p in super().pairs(rng):
                yield p
                yield pair(p.corrupt, p.clean)

    data = prepare(Tied(), TOKENIZER, n_train=3, n_val=3, n_test=3, seed=0)
    assert sizes_of(data) == {"train": 3, "val": 3, "test": 3}


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/models/stories260k and its pairs")
def test_every_pair_of_the_stories_survives():
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260k")
    task = JsonlTask(SHARED / "data" / "stories260k_pronoun.jsonl")
    examples, dropped = encode(task.pairs(Random(0)), tokenizer, 336)
    assert len(examples) == 336 and dropped == Counter()
    for example in examples:
        assert list(example.clean) == tokenizer(example.pair.clean)["input_ids"]
        whole = tokenizer(example.pair.clean + example.pair.answers[0])["input_ids"]
        assert whole == [*example.clean, *example.answers]
    data = prepare(task, tokenizer, n_train=200, n_val=68, n_test=68, seed=0)
    assert sizes_of(data) == {"train": 200, "val": 68, "test": 68}
