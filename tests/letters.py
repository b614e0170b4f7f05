"""A tokenizer of letters, in the one form that the tokenizer classes of all families read."""

from pathlib import Path
from string import ascii_letters

from conftest import VOCAB
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast


def save_tokenizer(folder: Path) -> None:
    """Into a model's folder; letters count from a, and all else is unknown."""
    letters = {letter: i for i, letter in enumerate(ascii_letters)} | {"<unk>": VOCAB - 1}
    tokenizer = Tokenizer(BPE(letters, [], unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
