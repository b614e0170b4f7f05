"""Real models do the tasks of their configs: without that there is no circuit to find."""

import pytest

from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import TASKS
from circuitprune.models import load_model
from circuitprune.models.loading import load_tokenizer
from circuitprune.pipelines.setup import make_setup
from circuitprune.runs.settings import load_config

pytestmark = pytest.mark.real

LEAST = {
    "smollm2-135m": {
        "smollm2_ioi": 0.95,
        "smollm2_sva": 0.9,
        "smollm2_greater_than": 0.95,
        "smollm2_sentiment": 0.95,
    },
    "gemma-3-270m": {"gemma3_ioi": 0.95, "gemma3_sva": 0.9, "gemma3_sentiment": 0.95},
}
"""Accuracy on the training pairs of each config."""
N_PAIRS = 32


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(folder)


def test_a_model_does_the_tasks_of_its_configs(name, loaded):
    few = [f"task.n_train={N_PAIRS}", "task.n_val=0", "task.n_test=0"]
    quick = ["cache.max_gb=0", "train.progress=false"]
    for config, least in LEAST[name].items():
        setup = make_setup(load_config(config, [*few, *quick]), loaded)
        setup.gated.release()
        assert setup.full.accuracy >= least, config
        assert setup.full.n == N_PAIRS


def test_greater_than_asks_for_the_tens_digit_of_a_year(folder):
    tokenizer, _ = load_tokenizer(folder)
    data = prepare(TASKS["greater_than"], tokenizer, n_train=N_PAIRS, n_val=0, n_test=0, seed=0)
    for example in data.splits["train"]:
        tens = int(example.pair.meta["year"][0])
        right, wrong = (
            [int(text) for text in tokenizer.convert_ids_to_tokens(list(part))]
            for part in (example.answers, example.wrong)
        )
        assert right == [*range(tens + 1, 10)]
        assert wrong[:tens] == [*range(tens)]
    assert not data.report.dropped
