"""Cards of neurons and features: strongest tokens and promoted ones, against loops over prompts."""

import pytest
import torch

from circuitprune import Study
from circuitprune.evidence import part_readings as module
from circuitprune.evidence.part_readings import part_readings
from circuitprune.lens.parts import activations, direct_effects
from circuitprune.pipelines.cases import case_of
from circuitprune.pipelines.verify_config import EvidenceConfig


def case_for(study, kept):
    mask = study.graph.mask_of(kept)
    ranking = torch.arange(study.graph.n_edges).float()
    return case_of(study.setup, mask, EvidenceConfig(progress=False), ranking=ranking, sizes={})


@pytest.fixture(scope="module")
def study():
    return Study("zoo/small", "ioi", level="neuron", n_train=4, n_test=8)


KEPT = ("m0.n5", "m0.n17", "a1.h3", "m2.n40", "input")


def test_where_a_part_is_strongest_and_what_it_promotes(study):
    case, fine = case_for(study, KEPT), ["m2.n40", "m0.n17", "m0.n5"]
    found = part_readings(case, case.batches)
    assert [row.part for row in found.parts] == fine and found.n_parts == 3
    assert found.n_pairs == 8
    spell = case.tokenizer
    for row in found.parts:
        part, each, on, tokens = study.graph.edge_index(row.part), [], 0, 0
        for batch in case.batches:
            values = activations(study.setup.gated, [part], batch.clean, batch.mask)[0]
            for prompt, mask, strong in zip(batch.clean, batch.mask, values, strict=True):
                own = [float(x) for x, real in zip(strong, mask, strict=True) if real]
                ids = [int(t) for t, real in zip(prompt, mask, strict=True) if real]
                best = max(range(len(own)), key=lambda at, own=own: abs(own[at]))
                each.append((own[best], best, tuple(spell.decode([t]) for t in ids)))
                on, tokens = on + sum(x != 0 for x in own), tokens + len(own)
        each.sort(key=lambda one: -abs(one[0]))
        shown = [(one.value, one.at, found.prompts[one.prompt]) for one in row.examples]
        assert [one[1:] for one in shown] == [one[1:] for one in each[: module.N_EXAMPLES]]
        assert [one[0] for one in shown] == pytest.approx([one[0] for one in each[:6]], rel=1e-5)
        assert row.on == pytest.approx(on / tokens)
        effects = direct_effects(study.setup.gated, [part], case.batches)[0]
        order = effects.argsort(descending=True).tolist()
        assert [t for t, _ in row.promotes] == [spell.decode([t]) for t in order[:8]]
        assert [t for t, _ in row.demotes] == [spell.decode([t]) for t in order[::-1][:8]]
        assert [by for _, by in row.demotes] == pytest.approx(
            [float(effects[t]) for t in order[::-1][:8]], rel=1e-4
        )


def test_padding_and_tokens_behind_the_answer_are_no_examples(study):
    """Prompts in a batch are of different lengths, and positions count from each one's first."""
    case = case_for(study, KEPT)
    assert any(not batch.mask.all() for batch in case.batches)
    found = part_readings(case, case.batches)
    for row in found.parts:
        for peak in row.examples:
            assert 0 <= peak.at < len(found.prompts[peak.prompt])


def test_of_many_parts_those_that_rank_highest_are_read(study, monkeypatch):
    monkeypatch.setattr(module, "MOST_PARTS", 2)
    found = part_readings(case_for(study, KEPT), case_for(study, KEPT).batches)
    assert [row.part for row in found.parts] == ["m2.n40", "m0.n17"] and found.n_parts == 3


def test_circuits_without_such_parts_have_none(study):
    case = case_for(study, ("a1.h3", "input"))
    assert part_readings(case, case.batches) is None
    edges = Study("zoo/small", "ioi", n_train=4, n_test=4)
    whole = case_for(edges, ("input->logits",))
    assert part_readings(whole, whole.batches) is None
