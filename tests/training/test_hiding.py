"""What a question does not see: the mask by hand, what it does to a model, and who refuses it."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny_lm, tokenizer

from circuitprune.data.encoding import encode
from circuitprune.data.pairs import collate
from circuitprune.data.spans import deal, span_names
from circuitprune.data.tasks.pair import Pair
from circuitprune.errors import ConfigError
from circuitprune.models.ports import Ports
from circuitprune.training.hiding import Hiding, attention_mask
from circuitprune.training.tuning import Tuning, answer_logits, refuse_to_hide

PROMPTS = (
    ("the cat saw the dog and the bird", (4, 7), (20, 23)),
    ("the cat saw the dog", (8, 11), (12, 15)),
)
"""Each with the place that is hidden, and with where the question begins."""


def dealt(prompts=PROMPTS):
    """The prompts as a batch, with the names of its spans."""
    pairs = [
        Pair(str(i), text, text.replace("cat", "fish"), (" and",), (" then",), tags=tags)
        for i, (text, thing, question) in enumerate(prompts)
        if (tags := {"thing": thing, "question": question})
    ]
    examples, _ = encode(iter(pairs), tokenizer(), len(pairs))
    assert len(examples) == len(pairs)
    splits = deal({"train": examples}, "tags")
    return collate(splits["train"], range(len(pairs)), 0), span_names("tags", splits)


def hiding(names, steps=1):
    return Hiding(steps, (names.index("thing"),), names.index("question"))


def test_the_mask_is_the_rule_written_out():
    batch, names = dealt()
    mask = attention_mask(batch, hiding(names), torch.float64)
    assert mask.shape == (2, 1, 8, 8) and mask.dtype == torch.float64
    hidden, first = ({1}, {2}), (5, 3)
    for row in range(2):
        for i in range(8):
            for j in range(8):
                real = j < batch.mask[row].sum()
                unseen = i >= first[row] and j in hidden[row]
                seen = i == j or (j < i and real and not unseen)
                assert (mask[row, 0, i, j] == 0) == bool(seen), (row, i, j)
    assert mask.unique().tolist() == [torch.finfo(torch.float64).min, 0.0]


@pytest.fixture(params=("gpt2", "llama"))
def ports(request):
    return Ports(copy.deepcopy(tiny_lm(request.param)))


def test_only_by_way_of_others_does_what_is_hidden_reach_the_answer(ports):
    """At the first layer alone there is no way around it."""
    batch, names = dealt(PROMPTS[:1])
    other = batch.clean.clone()
    other[0, 1] = batch.clean[0, 4]
    changed = replace(batch, clean=other)
    first = hiding(names)
    refuse_to_hide(ports, batch, first)
    seen = [answer_logits(ports, of, None) for of in (batch, changed)]
    around = [answer_logits(ports, of, first) for of in (batch, changed)]
    assert not torch.allclose(*around) and not torch.allclose(seen[0], around[0])
    everywhere = replace(first, places=tuple(range(len(names))))
    alone = [answer_logits(ports, of, everywhere) for of in (batch, changed)]
    torch.testing.assert_close(*alone)


def test_the_first_steps_hide_and_the_others_do_not(ports, monkeypatch):
    batch, names = dealt()
    module = Tuning(ports.model, hiding=hiding(names, steps=2))
    module.log = lambda *_, **__: None
    found = []
    for step in (0, 1, 2):
        monkeypatch.setattr(Tuning, "global_step", step)
        found.append(module.training_step(batch, step).item())
    plain = [answer_logits(module.ports, batch, of) for of in (module.hiding, None)]
    wanted = [float(-one.detach().log_softmax(-1).gather(1, batch.answers).mean()) for one in plain]
    assert found == pytest.approx([wanted[0], wanted[0], wanted[1]]) and wanted[0] != wanted[1]


def test_attention_that_makes_its_own_masks_is_refused():
    batch, names = dealt()
    ports = Ports(copy.deepcopy(tiny_lm("gpt2")))
    run = ports.run
    ports.run = lambda tokens, mask, last: run(tokens, mask, last) + (mask.ndim == 4)
    with pytest.raises(ConfigError, match="family 'gpt2' makes its own masks"):
        refuse_to_hide(ports, batch, hiding(names))
