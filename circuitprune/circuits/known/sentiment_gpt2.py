"""Sentiment of movie reviews in GPT-2 small: the heads of Tigges et al. 2023.

"Linear Representations of Sentiment in Large Language Models" (arXiv 2310.15154), ToyMovieReview.
Layers and heads count from 0. Head 0.4 acts at the adjective and the verb, the intermediate heads
at the second "movie", the readers at the last token: some read adjective and verb themselves, some
the summary that the intermediate heads write. Heads only: embeddings and MLPs stay in place there.
"""

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.known.published import GPT2_SMALL, INPUT, LOGITS, Link, Published

SOURCE = "Tigges et al. 2023, arXiv 2310.15154"

SENTIMENT_GPT2 = Published(
    name="sentiment",
    model="gpt2",
    source=SOURCE,
    graph=GPT2_SMALL,
    classes={
        "at adjective and verb": ("a0.h4",),
        "intermediate": ("a6.h4", "a7.h1", "a7.h5"),
        "direct reader": ("a7.h1", "a9.h2", "a10.h1", "a10.h4", "a11.h9"),
        "summary reader": ("a8.h5", "a9.h2", "a9.h10"),
    },
    links=(
        Link(INPUT, "at adjective and verb", "qkv"),
        Link("at adjective and verb", "intermediate", "kv"),
        Link("at adjective and verb", "direct reader", "kv"),
        Link("intermediate", "summary reader", "kv"),
        Link("direct reader", LOGITS),
        Link("summary reader", LOGITS),
    ),
)
"""Heads 7.1 and 9.2 are in two classes, at two positions or by two paths."""

SENTIMENT_PYTHIA_1B4 = Published(
    name="sentiment",
    model="EleutherAI/pythia-1.4b",
    source=SOURCE,
    graph=Graph(n_layers=24, n_heads=16, n_kv_readers=16, parallel=True, d_model=2048),
    classes={
        "intermediate": ("a6.h11",),
        "reader": ("a11.h1", "a13.h13", "a18.h2", "a21.h0"),
    },
    links=(
        Link(INPUT, "intermediate", "qkv"),
        Link("intermediate", "reader", "kv"),
        Link("reader", LOGITS),
    ),
)
"""Head 6.11 acts at positions 11, 28 and 29, the readers at the last token."""

MOOD_STORIES_PYTHIA_2B8 = Published(
    name="mood_stories",
    model="EleutherAI/pythia-2.8b",
    source=SOURCE,
    graph=Graph(n_layers=32, n_heads=32, n_kv_readers=32, parallel=True, d_model=2560),
    classes={
        "head": (
            "a17.h19",
            "a22.h5",
            "a14.h4",
            "a20.h10",
            "a12.h2",
            "a10.h26",
            "a12.h4",
            "a12.h17",
            "a14.h2",
            "a13.h20",
            "a9.h29",
            "a11.h16",
        )
    },
    links=(Link(INPUT, "head", "qkv"), Link("head", LOGITS)),
)
"""Twelve heads in one class, in the order of the paper's list."""
