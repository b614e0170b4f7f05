"""Circuits of no edge, of one and of all: no kind of evidence passes where it tested nothing."""

import re
from dataclasses import replace

import pytest
from evidence_cases import tiny_case

from circuitprune.engine.progress import unwatched
from circuitprune.evidence import EVIDENCE
from circuitprune.evidence.minimise import minimised
from circuitprune.evidence.results import NotComputed
from circuitprune.pipelines.gathering import section_of

KINDS = {**EVIDENCE, "minimise": lambda case: minimised(case, case.tolerance)}
NONE = "keeps no edge"
ALL = "keeps every edge"
SAID = {
    "faithfulness": ("fail", "fail", "pass"),
    "cross_ablation": ("fail", "undecided", "pass"),
    "mib": (None, None, None),
    "function": (None, None, None),
    "minimality": (NONE, "undecided", "fail"),
    "completeness": ("undecided", "undecided", "pass"),
    "random_circuits": ("undecided", "undecided", "undecided"),
    "necessity": ("undecided", "undecided", "undecided"),
    "adversarial": (None, None, ALL),
    "rivals": (NONE, None, ALL),
    "clusters": (None, None, None),
    "hypotheses": ("fail", "fail", "undecided"),
    "minimise": (NONE, None, None),
}
"""By kind: the verdict on the circuit of no edge, of one, of all; or why it is not computed.

What passes of all edges is what the model itself has: it is faithful to itself, and complete.
"""


@pytest.fixture(scope="module")
def found():
    """Every kind of evidence of the three circuits."""
    budget = {"n_bootstrap": 20, "n_random": 5, "n_adversarial": 2, "n_knockouts": 1}
    case = tiny_case(**budget)
    one = case.empty_mask.clone()
    one[[str(edge) for edge in case.graph.edges].index("input->logits")] = True
    masks = {"none": case.empty_mask, "one": one, "all": case.full_mask}
    return {
        name: {
            kind: section_of(kind, of, replace(case, mask=mask), unwatched)
            for kind, of in KINDS.items()
        }
        for name, mask in masks.items()
    }


def test_every_kind_is_asked():
    assert list(SAID) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_tested_is_told_and_does_not_pass(found, kind):
    for sections, expected in zip(found.values(), SAID[kind], strict=True):
        section = sections[kind]
        if isinstance(section, NotComputed):
            assert expected in (NONE, ALL) and expected in section.sentence
        else:
            assert getattr(section, "verdict", None) == expected, section.sentence


def test_one_edge_is_told_as_one(found):
    sentences = [section.sentence for kinds in found.values() for section in kinds.values()]
    assert any("1 edge" in sentence for sentence in sentences)
    for sentence in sentences:
        assert not re.search(r"\b1 (?:[a-z-]+ )?(?:edge|pair|node|head|circuit|tie|win)s", sentence)


def test_a_rival_that_is_the_circuit_itself_is_no_other_way(found):
    assert "no other way to do the task" in found["one"]["rivals"].sentence
