"""The table of declared families in docs/models.md, written from the declarations.

`python -m circuitprune.models.table` prints it.
"""

from circuitprune.models.families import FAMILIES, REFUSED, Declared
from circuitprune.models.family import Family

HEADER = """| `model_type` | q, k, v | norms | MLP reads | readers by query head | attention |
|---|---|---|---|---|---|"""


def declared_table() -> str:
    """Every declared family, one row each, in Markdown."""
    return "\n".join([HEADER, *(_row(kind, FAMILIES[kind]) for kind in sorted(FAMILIES))])


def refused_table() -> str:
    """Every family that is refused by name, with the reason, in Markdown."""
    rows = [f"| `{kind}` | {REFUSED[kind]} |" for kind in sorted(REFUSED)]
    return "\n".join(["| `model_type` | why not |", "|---|---|", *rows])


def _row(kind: str, declared: Declared) -> str:
    if not isinstance(declared, Family):
        return f"| `{kind}` | by its config: {_sentence(declared)} | | | | |"
    cells = (
        _projections(declared),
        _norms(declared),
        _mlp_reads(declared),
        "yes" if declared.ungroup else "refused",
        declared.attention_implementation,
    )
    return f"| `{kind}` | {' | '.join(cells)} |"


def _sentence(declared: Declared) -> str:
    """The first line of what a function of the config says of itself."""
    return (declared.__doc__ or "").strip().splitlines()[0]


def _projections(family: Family) -> str:
    kinds = {
        "no": "apart",
        "blocks": "fused, in blocks",
        "per_group": "fused, by KV head",
        "shards": "fused, in four shards",
    }
    coupled = ", heads coupled by a norm" if family.coupled else ""
    return kinds[family.fused] + coupled + (", sinks" if family.sinks else "")


def _norms(family: Family) -> str:
    before = "none in front" if family.attention_norm is None else "in front"
    if family.attention_norm is not None and family.attention_norm == family.mlp_norm:
        before = "one in front of both"
    return before + (", one behind each" if family.attention_post_norm else "")


def _mlp_reads(family: Family) -> str:
    if family.attention_norm is not None and family.attention_norm == family.mlp_norm:
        return "the layer's input"
    return "by its config" if family.parallel.__name__ == "<lambda>" else "behind the heads"


if __name__ == "__main__":
    print(declared_table(), refused_table(), sep="\n\n")
