"""A model at hand, in whatever state: every way in refuses it in a sentence, or gives it back."""

from dataclasses import replace

import pytest
import torch
from tiny import pair_rows, save_model, tokenizer
from transformers import AutoModelForCausalLM

from circuitprune import GatedModel, Study
from circuitprune.data.tasks import Pair
from circuitprune.errors import ConfigError, ModelError
from circuitprune.models import load_model
from circuitprune.pipelines.sentiment import SentimentConfig, find_sentiment
from circuitprune.pipelines.tracking import TrackingConfig, entity_tracking

PAIRS = [
    Pair(str(i), **{name: value if isinstance(value, str) else tuple(value) for name, value in one})
    for i, one in enumerate(row.items() for row in pair_rows()[:8])
]
WAYS_IN = {
    "GatedModel": GatedModel,
    "Study": lambda model: Study(model, PAIRS, tokenizer=tokenizer()),
    "tracking": lambda model: entity_tracking((model, tokenizer())),
    "base": lambda model: entity_tracking("zoo/small", (model, tokenizer())),
    "sentiment": lambda model: find_sentiment((model, tokenizer())),
}


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """A model that `device_map` put on the CPU and, half of its layers, on the disk."""
    pytest.importorskip("accelerate")
    home = tmp_path_factory.mktemp("spread")
    save_model(home / "model", "llama")
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    return AutoModelForCausalLM.from_pretrained(
        home / "model", device_map=places, offload_folder=home / "offloaded"
    )


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_model_over_several_places_is_refused_and_works_as_before(spread, way):
    tokens = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = spread(tokens).logits
    with pytest.raises(ModelError, match=r"device_map put a part .* onto one device.*model\.shard"):
        WAYS_IN[way](spread)
    with torch.no_grad():
        assert torch.equal(spread(tokens).logits, before)


def test_a_model_that_is_only_measured_is_given_back():
    """Compiled code would run in place of what is intercepted, and be wrong without a word."""
    model, its = load_model("zoo/small")
    model.train().requires_grad_(True)
    for layer in model.transformer.h:
        layer.compile(backend="eager")
    config = TrackingConfig(n_paths=2, n_measured=2, n_masks=2, n_random=1, progress=False)
    found = entity_tracking((model, its), None, config)
    by_name = entity_tracking("zoo/small", None, config)
    assert replace(found.tuned, model="zoo/small") == by_name.tuned
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert all(layer._compiled_call_impl for layer in model.transformer.h)
    with pytest.raises(ConfigError, match="layers: no 99"):
        find_sentiment((model, its), SentimentConfig(layers=[99], progress=False))
    assert model.training
