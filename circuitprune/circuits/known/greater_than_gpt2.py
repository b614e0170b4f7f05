"""Greater-than in GPT-2 small: the heads and MLPs of Hanna et al. 2023.

"How does GPT-2 compute greater-than?: Interpreting mathematical abilities in a pre-trained language
model" (arXiv 2305.00586), the circuit of figure 5: early heads and MLPs 0 to 3 feed mid-layer heads
that move the start year to the last position, and MLPs 8 to 11 raise the years above it.

The members are those that later work evaluates against (Conmy et al. 2023, arXiv 2304.14997,
appendix on greater-than), with head 6.9, which the figure has and some lists leave out. Heads 5.1
and 8.8 are named in parts of the literature too; they are not here.
"""

from circuitprune.circuits.known.published import GPT2_SMALL, INPUT, LOGITS, Link, Published

GREATER_THAN_GPT2 = Published(
    name="greater_than",
    model="gpt2",
    source="Hanna et al. 2023, arXiv 2305.00586, figure 5",
    graph=GPT2_SMALL,
    classes={
        "early head": ("a0.h1", "a0.h3", "a0.h5"),
        "early mlp": ("m0", "m1", "m2", "m3"),
        "mid head": ("a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1"),
        "late mlp": ("m8", "m9", "m10", "m11"),
    },
    links=(
        Link(INPUT, "early head", "qkv"),
        Link(INPUT, "early mlp"),
        Link("early head", "early mlp"),
        Link("early head", "mid head", "qkv"),
        Link("early mlp", "early mlp"),
        Link("early mlp", "mid head", "qkv"),
        Link("mid head", "late mlp"),
        Link("mid head", LOGITS),
        Link("late mlp", "late mlp"),
        Link("late mlp", LOGITS),
    ),
)
"""Classes and links of the greater-than circuit."""
