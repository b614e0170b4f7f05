"""The direction of sentiment in a model, on a page of Markdown."""

from circuitprune.evidence.bootstrap import spell
from circuitprune.evidence.sentiment import SentimentDirection
from circuitprune.files.text import counted, markdown, rounded, table


def sentiment_page(found: SentimentDirection) -> str:
    """Every layer, every direction, every token."""
    rows = [
        (
            one.layer,
            one.method.replace("_", " "),
            spell(one.full),
            spell(one.along),
            spell(one.share),
            f"{one.parts:.0%}",
        )
        for one in found.directed
    ]
    tokens = [(one.token, spell(one.restored), spell(one.lost)) for one in found.summarised]
    return "\n".join(
        [
            f"# Sentiment in {markdown(found.model)}",
            "",
            f"On {counted(found.n_test, 'pair')} of reviews whose words are not among those of the "
            f"{found.n_train} that directions are fitted on: metric "
            f"{rounded(found.clean, '.2f')} clean, {rounded(found.corrupt, '.2f')} corrupt, in "
            "logits. Effects are normalised: 0 is the corrupt run, 1 the clean one; 95 % intervals "
            "are by bootstrap over the pairs.",
            "",
            "Stream at adjective and verb, in front of a layer, put back into the corrupt run:",
            "",
            *table(("layer", "direction", "whole", "along it", "share", "parts"), rows),
            "",
            "Stream of a token in front of every layer, put back into the corrupt run, and taken "
            "from the clean one:",
            "",
            *table(("token", "restored", "lost"), tokens),
            "",
        ]
    )
