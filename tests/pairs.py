"""Pairs, examples and a tokenizer made by hand, for the tests of everything between them."""

from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from circuitprune.data.pairs import Example
from circuitprune.data.tasks import Pair

WORDS = "a b c d e f g h Mary John he she him her o".split()  # noqa: SIM905


def make_tokenizer(bos=True, own_bos=False, own_eos=False):
    """Words between spaces are tokens; the unknown word, BOS and EOS have ids 0, 1 and 2."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if own_bos or own_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> " * own_bos + "$A" + " </s>" * own_eos,
            special_tokens=[("<s>", 1), ("</s>", 2)],
        )
    names = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **names
    )


def make_bpe(whole, digits=None):
    """As GPT-2's, but of few words: `whole` are one token each, all else falls to pieces.

    Args:
        whole: Texts, mostly of a space and a word.
        digits: Most digits that can be in one token; None cuts them like letters.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {letter: i for i, letter in enumerate(letters)}, []
    for text in whole:
        piece, *rest = text.replace(" ", "Ġ")
        for letter in rest:
            if piece + letter not in vocabulary:
                vocabulary[piece + letter] = len(vocabulary)
                merges.append((piece, letter))
            piece += letter
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    runs = [] if digits is None else [Regex(rf"\p{{N}}{{1,{digits}}}")]
    splits = [pre_tokenizers.Split(run, "isolated") for run in runs]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


TOKENIZER = make_tokenizer()


def pair(clean="a Mary", corrupt="a John", answers=(" she",), wrong=(" he",), **fields):
    return Pair(fields.pop("id", "p"), clean, corrupt, answers, wrong, **fields)


def ids(text):
    return tuple(TOKENIZER(text)["input_ids"])


def examples_of(number, group=lambda i: "", length=3):
    """Examples with tokens of their own, so that no two are connected."""
    return [
        Example(
            pair(id=f"p{i}", group=group(i)),
            tuple(range(10 * i, 10 * i + length)),
            tuple(range(10 * i + 5, 10 * i + 5 + length)),
            (7,),
            (8,),
        )
        for i in range(number)
    ]
