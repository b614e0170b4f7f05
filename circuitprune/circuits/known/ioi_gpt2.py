"""Indirect object identification in GPT-2 small: the 26 heads of Wang et al. 2022.

"Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small" (arXiv
2211.00593), figure 2; the backup name movers are listed in its section on them. Layers and heads
count from 0, `a9.h9` is their head 9.9. Induction heads 5.8 and 5.9 and duplicate token head 0.10
are drawn in parentheses there: less important.

The paper's circuit holds attention heads; embeddings and MLPs stay in place whatever is knocked
out. So do the links: they are the arrows of figure 2, with the ports that the text path-patches,
and in addition `input` to each port that reads the tokens themselves. As an edge circuit under
`patch` it is therefore a reference for ranking edges, not a faithful circuit: MLP edges are absent.
"""

from circuitprune.circuits.known.published import GPT2_SMALL, INPUT, LOGITS, Link, Published

IOI_GPT2 = Published(
    name="ioi",
    model="gpt2",
    source="Wang et al. 2022, arXiv 2211.00593, figure 2",
    graph=GPT2_SMALL,
    classes={
        "previous token": ("a2.h2", "a4.h11"),
        "duplicate token": ("a0.h1", "a0.h10", "a3.h0"),
        "induction": ("a5.h5", "a5.h8", "a5.h9", "a6.h9"),
        "s-inhibition": ("a7.h3", "a7.h9", "a8.h6", "a8.h10"),
        "name mover": ("a9.h6", "a9.h9", "a10.h0"),
        "backup name mover": (
            "a9.h0",
            "a9.h7",
            "a10.h1",
            "a10.h2",
            "a10.h6",
            "a10.h10",
            "a11.h2",
            "a11.h9",
        ),
        "negative name mover": ("a10.h7", "a11.h10"),
    },
    links=(
        Link(INPUT, "previous token", "qkv"),
        Link(INPUT, "duplicate token", "qkv"),
        Link(INPUT, "induction", "qv"),
        Link("previous token", "induction", "k"),
        Link("duplicate token", "s-inhibition", "v"),
        Link("induction", "s-inhibition", "v"),
        Link("s-inhibition", "name mover", "q"),
        Link("s-inhibition", "backup name mover", "q"),
        Link("s-inhibition", "negative name mover", "q"),
        Link(INPUT, "name mover", "kv"),
        Link(INPUT, "backup name mover", "kv"),
        Link(INPUT, "negative name mover", "kv"),
        Link("name mover", LOGITS),
        Link("backup name mover", LOGITS),
        Link("negative name mover", LOGITS),
    ),
)
"""Classes and links of the IOI circuit."""
