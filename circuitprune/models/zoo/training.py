"""Trains the shipped model from nothing: its tokenizer, its batches, its loss, its model card."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitprune.data.pairs import pad_token
from circuitprune.models.zoo.card import Measures, measure_all, model_card
from circuitprune.models.zoo.corpus import lexicon_words
from circuitprune.models.zoo.recipes import PLAIN, Recipe

N_POSITIONS = 32
WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\d{1,2}| ?[^\s\p{L}\d]+|\s+"
"""GPT-2's way to cut a text, but digits in twos: a year is its century and its last two digits."""

IGNORED = -100
"""Target of a position without loss."""


def build_tokenizer(recipe: Recipe = PLAIN) -> PreTrainedTokenizerFast:
    """Whole words with their leading space, as in GPT-2; unknown words become `<unk>`."""
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    texts = [row.text for row in recipe.rows(Random(0), 20_000, recipe.steps)]
    words = {word for text in (*texts, *lexicon_words()) for word, _ in cut.pre_tokenize_str(text)}
    vocabulary = ["<|endoftext|>", "<unk>", *sorted(words)]
    tokenizer = Tokenizer(
        WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        model_max_length=N_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """An untrained GPT-2 of 4 layers, 8 heads and width 128: 1,519 edges."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=8,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=pad_token(tokenizer),
    )
    return GPT2LMHeadModel(config)


class Corpus(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch number `step` of the training text: a pure function of recipe, seed and step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> None:
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.seed = seed

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(
        self, step: int
    ) -> tuple[
        Int[Tensor, "batch pos"],
        Int[Tensor, "batch pos"],
        Int[Tensor, " batch"],
        Bool[Tensor, "batch pos"],
    ]:
        """Tokens, targets, the position that predicts the answer (-1: none), what is a repeat."""
        rows = self.recipe.rows(Random(f"{self.seed}-{step}"), self.recipe.batch_size, step)
        end = pad_token(self.tokenizer)
        whole = self.tokenizer([row.text for row in rows])["input_ids"]
        prompts = self.tokenizer([row.prompt for row in rows])["input_ids"]
        width = max(map(len, whole))
        tokens = [[*ids, *[end] * (width - len(ids))] for ids in whole]
        targets = [[*ids[1:], end, *[IGNORED] * (width - len(ids))] for ids in whole]
        answer_at = [
            len(ids) - 1 if row.answer else -1 for ids, row in zip(prompts, rows, strict=True)
        ]
        inputs, nexts = torch.tensor(tokens), torch.tensor(targets)
        repeats = torch.tensor([row.repeats for row in rows])[:, None] & _said_before(inputs, nexts)
        return inputs, nexts, torch.tensor(answer_at), repeats


def _said_before(
    tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos"]:
    """Whether the target of a position stands at it or before."""
    return (targets[:, :, None] == tokens[:, None, :]).tril().any(-1)


class ZooTraining(LightningModule):
    """Next-word prediction, with one more loss on the answers of the task prompts.

    `loss = mean over all words of CE + mean over task prompts of CE at the answer`, in nats, and
    where the recipe has lists or a penalty, plus the mean of CE over repeats, plus
    `penalty * sum over heads of sqrt(|W_O| + 0.05)`. The root is concave: of two heads that do the
    same, the smaller one goes.

    Args:
        model: The model to train, from its random initialisation.
        recipe: Its steps are the length of the schedule: linear warm-up over a
            twentieth, then cosine to zero.
        learning_rate: Peak of the schedule.
        weight_decay: On matrices only; it keeps the model from absurd confidence.
    """

    def __init__(
        self,
        model: GPT2LMHeadModel,
        recipe: Recipe,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def training_step(self, batch: Sequence[Tensor], step: int) -> Float[Tensor, ""]:
        """Cross entropy of all words plus that of the answers, which are few."""
        tokens, targets, answer_at, repeats = batch
        logits = self.model(input_ids=tokens).logits
        losses = cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )
        rows = (answer_at >= 0).nonzero().squeeze(1)
        words = losses.sum() / (targets != IGNORED).sum()
        answers = losses[rows, answer_at[rows]].mean()
        self.log_dict({"words": words, "answers": answers}, prog_bar=True)
        loss = words + answers
        if repeats.any():
            loss = loss + losses[repeats].mean()
        if penalty := self.recipe.penalty_at(step):
            loss = loss + penalty * head_norms(self.model).add(0.05).sqrt().sum()
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, whose decay spares biases and norms, under a one-cycle schedule."""
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            betas=(0.9, 0.98),
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, self.recipe.steps, pct_start=0.05, cycle_momentum=False
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def head_norms(model: GPT2LMHeadModel) -> Float[Tensor, "layer head"]:
    """Frobenius norm of each head's output matrix."""
    named = model.named_parameters()
    weights: list[Tensor] = [p for name, p in named if name.endswith("attn.c_proj.weight")]
    heads = torch.stack(weights).unflatten(1, (model.config.n_head, -1))
    norms: Tensor = torch.linalg.vector_norm(heads, dim=(2, 3))
    return norms


def train_zoo(out: Path, seed: int = 0, recipe: Recipe = PLAIN, n_test: int = 1000) -> Measures:
    """Train a model of the zoo, write its folder, and return its measures.

    The same seed, recipe and thread count give the same bytes.

    Args:
        out: Folder for the model, its tokenizer and its card.
        seed: Of the initial weights and of the text.
        recipe: What to train on, and how long.
        n_test: Pairs of each task to measure on; none of them is drawn from the training seed.
    """
    seed_everything(seed, verbose=False)
    tokenizer = build_tokenizer(recipe)
    model = build_model(tokenizer)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    corpus = Corpus(tokenizer, recipe, seed)
    trainer.fit(ZooTraining(model, recipe), DataLoader(corpus, batch_size=None))
    model.eval()
    measures = measure_all(model, tokenizer, n_test, seed + 1_000_000)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    card = model_card(measures, n_test, seed, recipe, len(tokenizer), N_POSITIONS)
    (out / "README.md").write_text(card, encoding="utf-8")
    return measures
