"""The shipped model that was tuned on boxes: what it can do, what its base cannot, and how."""

from collections import Counter

import pytest
import torch
from transformers import AutoTokenizer

from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import TASKS
from circuitprune.data.tasks.boxes import HELD_OUT
from circuitprune.data.tasks.boxes_lesson import BoxesLesson, called_by_label
from circuitprune.errors import ModelError
from circuitprune.models import load_model
from circuitprune.models.ports import Ports
from circuitprune.models.zoo import dictionary_path, zoo_path
from circuitprune.patching.head_groups import STAGES, find_groups, places
from circuitprune.patching.head_runs import Swap, run_heads, taking

FOLDER = zoo_path("zoo/boxes")
FETCHERS = {(1, 3), (1, 7), (1, 1), (1, 2)}
TRANSMITTERS = {(0, 1), (0, 5)}


@pytest.fixture(scope="module")
def loaded():
    return load_model("zoo/boxes")


def pairs(tokenizer, task, corruption="query", n=300):
    return prepare(
        TASKS[task], tokenizer, n_train=0, n_val=0, n_test=n, seed=77, corruption=corruption
    ).batches("test")


def right(model, batches):
    """Share of prompts whose most likely token is the answer, and where it beats the wrong ones."""
    top, above = [], []
    with torch.no_grad():
        for batch in batches:
            rows = torch.arange(len(batch))
            logits = model(batch.clean, attention_mask=batch.mask.long()).logits[rows, batch.last]
            answer = batch.answers[:, 0]
            top += (logits.argmax(-1) == answer).tolist()
            above += (logits[rows, answer] > logits.gather(1, batch.wrong).amax(1)).tolist()
    return sum(top) / len(top), sum(above) / len(above)


def test_the_folder_is_small_and_reads_as_its_base_does():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000
    ours, base = (
        AutoTokenizer.from_pretrained(zoo_path(name), local_files_only=True)
        for name in ("zoo/boxes", "zoo/small")
    )
    assert ours.get_vocab() == base.get_vocab()


@pytest.mark.parametrize("task", ["boxes", "boxes_held_out"])
def test_it_does_boxes_with_things_it_was_not_tuned_on_and_its_base_does_not(task, loaded):
    model, tokenizer = loaded
    batches = pairs(tokenizer, task)
    top, above = right(model, batches)
    assert top >= 0.95 and above >= 0.95
    top, above = right(load_model("zoo/small")[0], batches)
    assert top < 0.05 and 0.23 < above < 0.43


@pytest.mark.parametrize("lesson", [BoxesLesson(called_by_label()), BoxesLesson()])
def test_things_held_out_are_in_no_box_of_the_tuning(lesson, loaded):
    data = prepare(lesson, loaded[1], n_train=600, n_val=0, n_test=0, seed=0)
    told = Counter(
        (" for " in example.pair.clean)
        for example in data.splits["train"]
        if {*HELD_OUT} & {*example.pair.meta["objects"].split()}
    )
    assert told[True] > 0 and not told[False]


def test_its_heads_look_the_label_up(loaded):
    """Layer 1 fetches the thing, and queries by what two heads of layer 0 read of the label."""
    model, tokenizer = loaded
    ports, batches = Ports(model), pairs(tokenizer, "boxes", "random", n=60)
    groups, scores = find_groups(ports, batches, 0.05, 20, metric="logit_diff")
    fetchers, transmitters = (groups[stage.name] for stage in STAGES[:2])
    assert {*fetchers[:4]} == FETCHERS and {*transmitters} == TRANSMITTERS
    assert not groups["position detector"] and not groups["structure reader"]
    published, _ = find_groups(ports, batches)
    assert not any(published.values()), "no single path takes 2 % of a probability near 1"
    assert float(scores["value fetcher"][1, 3]) == scores["value fetcher"].min()


def test_patching_a_group_of_heads_carries_the_label_over(loaded):
    """With two heads' outputs from a story that asks by another label, that box is answered."""
    model, tokenizer = loaded
    batch = pairs(tokenizer, "boxes", "query", n=60)[0]
    ports = Ports(model)
    corrupt = run_heads(ports, batch.corrupt_prompts, record=("output",))
    take = taking(ports, sorted(TRANSMITTERS), places(batch, "last"))
    run = run_heads(ports, batch.clean_prompts, [Swap("output", corrupt.parts["output"], take)])
    assert float((run.logits.argmax(-1) == corrupt.logits.argmax(-1)).double().mean()) >= 0.95


def test_it_has_no_dictionaries_and_says_so():
    with pytest.raises(ModelError, match=r"zoo/boxes comes without dictionaries.*train_dictionary"):
        dictionary_path("zoo/boxes")
