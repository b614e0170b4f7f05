"""The settings as a person sees them: listed in `--help`, completed by a shell."""

from collections.abc import Iterable

from circuitprune.runs.settings import settings

HOW_TO_COMPLETE = (
    "bash:  circuitprune completion >> ~/.bashrc\n"
    "zsh:   the same into ~/.zshrc, below `autoload -U bashcompinit; bashcompinit`"
)


def completion(commands: Iterable[str]) -> str:
    """A line for ~/.bashrc: the words are the commands and the settings with their `=`."""
    words = [*commands, *(f"{one.key}=" for one in settings())]
    return f"complete -o default -o nospace -W '{' '.join(words)}' circuitprune"


def settings_text(root: type | None = None) -> str:
    """Every setting with its default and, below it, its meaning; as argparse takes text.

    Args:
        root: A dataclass of settings; None for those of a run.
    """
    found = settings() if root is None else settings(root)
    rows = (f"  {one.key}={one.default}\n      {one.meaning}" for one in found)
    return "settings, with their defaults:\n" + "\n".join(rows).replace("%", "%%")
