"""Dictionaries of a model: activations of texts, training at each place, what they are worth."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import PreTrainedTokenizerBase

from circuitprune.config import ModelConfig
from circuitprune.data.pairs import pad_token
from circuitprune.engine.feature_sites import places_of
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.progress import unwatched
from circuitprune.engine.sites import Edit, Slices, edited
from circuitprune.errors import ModelError
from circuitprune.files.text import counted, show
from circuitprune.files.whole import write_tensors
from circuitprune.models.dictionary import Dictionary, as_tensors, read_dictionary
from circuitprune.models.zoo.corpus import draw_rows
from circuitprune.pipelines.setup import load
from circuitprune.training.dictionary import DictionaryTraining

BATCH = 128
"""Texts that run at once."""


class Prompts(NamedTuple):
    """Texts that run at once: each batch has its own length."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """Where tokens are real."""


@dataclass(frozen=True)
class Worth:
    """What a dictionary is worth on texts that it was not trained on."""

    explained: float
    """Share of the variance of x that is in `x_hat`."""
    recovered: float
    """`(CE(mean) - CE(x_hat)) / (CE(mean) - CE(x))`, CE of the next token with each in place."""
    l0: float
    """Features on at a position, mean."""
    dead: float
    """Share of features that are on nowhere."""


@dataclass(frozen=True)
class DictionaryOptions:
    """How dictionaries are trained."""

    n_features: int = 512
    k: int = 12
    steps: int = 1500
    batch_size: int = 2048
    """Positions in a batch."""
    n_train: int = 12_000
    """Texts to train on."""
    n_test: int = 2_000
    """Other texts to measure on."""
    seed: int = 0


def train_dictionaries(
    model: str,
    sites: Sequence[str],
    out: str | Path,
    texts: str | Path | None = None,
    options: DictionaryOptions | None = None,
) -> dict[str, Worth]:
    """Train a dictionary at each place; writes them all to one safetensors file, in float16.

    Features that no training text turns on are left out.

    Args:
        model: As `model.name`.
        sites: Places: see `Dictionary`.
        out: The file.
        texts: A file with a text on each line; None takes those that `zoo/small` was trained on.
        options: How.

    Returns:
        What each is worth on texts that it was not trained on, as it is read back from the file.

    Raises:
        ModelError: no such place in the model, or too few texts.
    """
    options = options or DictionaryOptions()
    loaded, tokenizer = load(ModelConfig(model), unwatched)
    gated, tensors, notes, found = GatedModel(loaded), dict[str, Tensor](), dict[str, str](), {}
    known = places_of(gated.ports)
    if wrong := [site for site in sites if site not in known]:
        raise ModelError(f"no place {', '.join(wrong)} in {model}; it has {', '.join(known)}")
    train, test = texts_of(tokenizer, texts, options)
    for site in sites:
        x = torch.cat([_seen(gated, site, *one)[one.mask] for one in train])
        dictionary = alive(fit_dictionary(x, site, options), x)
        own, about = as_tensors(dictionary)
        tensors, notes = tensors | own, notes | about
        found[site] = worth(gated, read_dictionary(own, about, site), test)
        show(f"{site}: {found[site]}")
    write_tensors(out, tensors, notes)
    gated.release()
    return found


def fit_dictionary(
    x: Float[Tensor, "token d_model"], site: str, options: DictionaryOptions
) -> Dictionary:
    """A dictionary of some activations."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = DictionaryTraining(
        x, site, options.n_features, options.k, options.steps, seed=options.seed
    )
    draw = torch.Generator().manual_seed(options.seed)
    loader = DataLoader(
        TensorDataset(x), options.batch_size, shuffle=True, generator=draw, drop_last=True
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=options.steps,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, loader)
    return module.dictionary()


@torch.no_grad()
def alive(dictionary: Dictionary, x: Float[Tensor, "token d_model"]) -> Dictionary:
    """The dictionary without the features that are on at none of these activations."""
    on = (dictionary.encode(x) > 0).any(0)
    return replace(
        dictionary,
        w_enc=dictionary.w_enc[:, on].contiguous(),
        b_enc=dictionary.b_enc[on],
        w_dec=dictionary.w_dec[on],
    )


@torch.no_grad()
def worth(gated: GatedModel, dictionary: Dictionary, prompts: Sequence[Prompts]) -> Worth:
    """What a dictionary is worth on texts."""
    x = torch.cat([_seen(gated, dictionary.site, *one)[one.mask] for one in prompts])
    features = dictionary.encode(x)
    left = (x - dictionary.decode(features)).square().sum(-1).mean()
    mean = x.mean(0)

    def loss(edit: Edit) -> float:
        return sum(_loss(gated, dictionary.site, *one, edit) for one in prompts) / len(prompts)

    own = loss(lambda now: now)
    said = loss(lambda now: dictionary.decode(dictionary.encode(now)))
    without = loss(lambda now: mean.expand_as(now))
    return Worth(
        explained=1 - float(left / (x - mean).square().sum(-1).mean()),
        recovered=(without - said) / (without - own),
        l0=float((features > 0).sum(-1).float().mean()),
        dead=float((~(features > 0).any(0)).float().mean()),
    )


def texts_of(
    tokenizer: PreTrainedTokenizerBase, texts: str | Path | None, options: DictionaryOptions
) -> tuple[list[Prompts], list[Prompts]]:
    """Texts to train on and others to measure on, tokenised."""
    n_train, n_test = options.n_train, options.n_test
    if texts is None:
        rows = draw_rows(Random(f"dictionary {options.seed}"), n_train + n_test)
        lines = [row.text for row in rows]
    else:
        lines = [
            line for line in Path(texts).read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    lines = list(dict.fromkeys(lines))
    if len(lines) < 2 * BATCH:
        raise ModelError(
            f"{texts} holds {counted(len(lines), 'different text')}, expected {2 * BATCH} or more"
        )
    cut = len(lines) - min(n_test, len(lines) // 4)
    return list(_prompts(tokenizer, lines[:cut])), list(_prompts(tokenizer, lines[cut:]))


def _prompts(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]) -> Iterator[Prompts]:
    for start in range(0, len(lines), BATCH):
        rows = [ids for ids in tokenizer(list(lines[start : start + BATCH]))["input_ids"] if ids]
        width, end = max(map(len, rows)), pad_token(tokenizer)
        tokens = torch.tensor([[*ids, *[end] * (width - len(ids))] for ids in rows])
        lengths = torch.tensor([len(ids) for ids in rows])
        yield Prompts(tokens, torch.arange(width) < lengths[:, None])


@torch.no_grad()
def _run(gated: GatedModel, site: str, tokens: Tensor, mask: Tensor, edit: Edit) -> Tensor:
    """Logits with an edit at one place."""
    module, side = places_of(gated.ports)[site]
    place = Slices(module, side, 1, gated.graph.d_model)
    forward = edited(place, module.forward, len(tokens), edit)
    with gated.ports.intercept([(module, "forward", forward)]):
        return gated.ports.run(tokens, mask, None)


def _seen(
    gated: GatedModel, site: str, tokens: Tensor, mask: Tensor
) -> Float[Tensor, "batch pos d_model"]:
    seen: list[Tensor] = []
    _run(gated, site, tokens, mask, lambda now: seen.append(now) or now)  # type: ignore[func-returns-value]
    return seen[0]


def _loss(gated: GatedModel, site: str, tokens: Tensor, mask: Tensor, edit: Edit) -> float:
    """Mean CE of the next real token, in nats."""
    logits = _run(gated, site, tokens, mask, edit)[:, :-1]
    return float(cross_entropy(logits[mask[:, 1:]], tokens[:, 1:][mask[:, 1:]]))
