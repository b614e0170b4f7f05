"""Files of pairs of other tools as pairs of ours, token ids in the words of a model's tokenizer."""

from dataclasses import replace
from pathlib import Path

from circuitprune.data.foreign import Converted, Wanted, convert_pairs
from circuitprune.data.foreign.fields import Words
from circuitprune.errors import DataError
from circuitprune.files.text import counted, line
from circuitprune.runs.results import output_file


def converted(
    source: str | Path,
    target: str | Path,
    wanted: Wanted | None = None,
    name: str = "auto",
    model: str | None = None,
    skip_wrong: bool = False,
) -> Converted:
    """As `convert_pairs`, with the tokenizer of a model, which is named as in `model.name`.

    Raises:
        DataError, RunError: as `convert_pairs`.
        ModelError: no such model.
    """
    wanted, target = wanted or Wanted(), output_file(target)
    if model is not None:
        wanted = replace(wanted, words=_words(model))
    return convert_pairs(source, target, wanted, name, skip_wrong)


def account(found: Converted) -> str:
    """What became of a file, as text: counts, the first wrong rows, the first pair."""
    lines = [
        f"pairs     {found.n_pairs:,} of {counted(found.n_rows, 'row')}, format {found.format}"
    ]
    if found.n_wrong:
        lines.append(f"left out  {counted(found.n_wrong, 'row')} without a pair")
        lines += [f"    {one}" for one in found.wrong]
    if found.first is not None:
        first = found.first
        lines += [
            f"first     {line(first.id)}",
            f"    clean    {first.clean!r}",
            f"    corrupt  {first.corrupt!r}",
            f"    answers  {_some(first.answers)}",
            f"    wrong    {_some(first.wrong)}",
        ]
    return "\n".join(lines)


def _some(texts: tuple[str, ...]) -> str:
    more = f" and {len(texts) - 4:,} more" if len(texts) > 4 else ""
    return ", ".join(map(repr, texts[:4])) + more


def _words(model: str) -> Words:
    from circuitprune.models.loading import load_tokenizer  # not before it is needed: it takes long

    tokenizer, _ = load_tokenizer(model)

    def word(token: int) -> str:
        if token >= len(tokenizer):
            raise DataError(
                f"the answer is token {token}, but the tokenizer of {model} has {len(tokenizer):,}"
                "; name the model that the file was made for"
            )
        text = str(tokenizer.decode([token]))
        if not text.strip() or "\ufffd" in text:
            raise DataError(f"token {token} of {model} is {text!r}, which is no word")
        return text

    return word
