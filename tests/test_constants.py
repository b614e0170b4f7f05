"""Numbers that stand at the top of a file and decide results: a change of one is a change of those.

Tests of a file take its constants from it and would go along with any value.
"""

from importlib import import_module

DECIDE = {
    "attribution.ugs": dict(SAMPLES=20, LEARNING_RATE=0.15, PENALTY=1.0, WIDTH=1.0),
    "engine.ablation": dict(ROWS=256),
    "engine.optimal": dict(STEPS=50, PAIRS=8, RATE=0.1),
    "engine.selfcheck": dict(_ROUNDINGS=4.0, PROMPTS=3, LENGTH=8),
    "evidence.adversarial": dict(START=0.5, RATE=0.25, N_RANDOM=3),
    "evidence.bootstrap": dict(TOO_CLOSE=1e-6),
    "evidence.clusters": dict(MOST=4, LEAST_PAIRS=3, STEPS=5, PART=0.1),
    "evidence.draws": dict(ROUNDS=200),
    "evidence.faithfulness": dict(BAND=(0.8, 1.2)),
    "evidence.function": dict(N_SHOWN=2, N_PAIRS=128),
    "evidence.gaps": dict(TOLERANCE=0.1),
    "evidence.grouping": dict(RESTARTS=10, ROUNDS=100),
    "evidence.hypotheses": dict(EPSILON=0.1),
    "evidence.idle_edges": dict(Q=0.9, LEAST_PAIRS=8),
    "evidence.knockouts": dict(FRACTIONS=(0.1, 0.25, 0.5, 0.75), GREEDY_STEPS=5, GREEDY_PAIRS=64),
    "evidence.mib": dict(SIZES=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)),
    "evidence.minimality": dict(MOST_RUNS=100_000),
    "evidence.minimise": dict(TOLERANCE=0.01, AT_ONCE=8),
    "evidence.rivals": dict(PENALTIES=(0.0, 0.5, 0.9, 1.0), STEPS=5, NOTHING=0.9),
    "evidence.shown_pairs": dict(MOST_WEIGHTS=30_000, N_TOP=3, MOST_ANSWERS=10),
    "evidence.statistics": dict(ALPHA=0.05, MOST_PAIRS=1000),
    "lens.heads": dict(ATTENDS=0.4, COPIES=0.5),
    "lens.predictions": dict(N_TOP=5),
    "patching.circuit_kl": dict(SOFTNESS=0.1),
    "patching.refining": dict(FIRST_EXCHANGE=0.25, NODES=0.25, EXCHANGED=0.25),
    "training.dictionary": dict(DEAD_AFTER=20, AUXILIARY=1 / 32),
    "training.gates": dict(LEFT=-0.1, RIGHT=1.1, HARD_CONCRETE_TEMPERATURE=2 / 3),
}
"""A change of any belongs under Numerics in CHANGELOG.md, and into the document that states it."""


def test_numbers_that_decide_results_are_what_they_were():
    for module, values in DECIDE.items():
        found = vars(import_module(f"circuitprune.{module}"))
        assert {name: found[name] for name in values} == values, module
