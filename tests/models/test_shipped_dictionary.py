"""The shipped dictionary is worth what docs/parts.md says, on texts that it was not trained on."""

from circuitprune.config import ModelConfig
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import unwatched
from circuitprune.models.dictionary import load_dictionaries
from circuitprune.models.zoo import dictionary_path
from circuitprune.pipelines.dictionaries import DictionaryOptions, texts_of, worth
from circuitprune.pipelines.setup import load


def test_the_shipped_dictionary() -> None:
    (dictionary,) = load_dictionaries(dictionary_path("zoo/small"))
    assert (dictionary.site, dictionary.n_features, dictionary.k) == ("m0", 492, 12)
    model, tokenizer = load(ModelConfig("zoo/small"), unwatched)
    gated = GatedModel(model)
    options = DictionaryOptions(n_train=1600, n_test=400, seed=10_001)
    _, texts = texts_of(tokenizer, None, options)
    found = worth(gated, dictionary, texts)
    gated.release()
    assert found.explained > 0.92 and found.recovered > 0.99
    assert found.l0 == 12 and found.dead < 0.15  # on 400 texts; 3.3 % on a thousand
