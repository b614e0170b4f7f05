"""Entity tracking in Llama-7B, and in Goat and FLoat, which were tuned from it: four head groups.

Prakash et al. 2024, "Fine-Tuning Enhances Existing Mechanisms: A Case Study on Entity Tracking"
(arXiv 2402.14811), the heads of its files `experiment_1/results/circuits/{llama,goat,float}_circuit
.json` (github.com/Nix07/finetuning), in their order: what matters most to path patching first.
Layers and heads count from 0. A head may be in two groups, at two positions.

Structure readers act at the earlier mention of the box that is asked for, position detectors at its
label in the question, transmitters and fetchers at the last token. The links are the paths by which
the groups were found, so heads only: embeddings and MLPs stay in place there.
"""

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.known.published import INPUT, LOGITS, Link, Published

LLAMA_7B = Graph(n_layers=32, n_heads=32, n_kv_readers=32, d_model=4096)
"""The graph of Llama-7B, and of every model tuned from it."""

LINKS = (
    Link(INPUT, "structure reader", "qkv"),
    Link("structure reader", "position detector", "v"),
    Link("position detector", "position transmitter", "v"),
    Link("position transmitter", "value fetcher", "q"),
    Link("value fetcher", LOGITS),
)


def _heads(text: str) -> tuple[str, ...]:
    """`8.21` as `a8.h21`."""
    return tuple("a{}.h{}".format(*head.split(".")) for head in text.split())


def _published(model: str, **groups: str) -> Published:
    return Published(
        name="entity_tracking",
        model=model,
        source="Prakash et al. 2024, arXiv 2402.14811, experiment_1/results/circuits",
        graph=LLAMA_7B,
        classes={name.replace("_", " "): _heads(heads) for name, heads in groups.items()},
        links=LINKS,
    )


ENTITY_TRACKING_LLAMA = _published(
    "huggyllama/llama-7b",
    structure_reader="8.21 12.23 11.9 8.12 11.23",
    position_detector="""
        10.3 13.14 9.2 9.7 11.23 9.10 1.9 7.17 13.0 6.10 4.4 7.26 9.21 8.1 12.0 8.22 10.4 11.7
        7.9 10.15
    """,
    position_transmitter="14.27 11.23 12.23 19.12 13.0 16.2 13.14",
    value_fetcher="""
        15.13 21.3 24.5 20.14 18.8 29.7 18.3 15.18 17.28 21.4 21.25 23.15 18.28 23.19 23.20
        19.30 23.5 17.27 15.5 21.0 23.17 15.2 17.3 19.20 19.11 19.8 15.6 20.29 16.23 24.0 25.14
        14.13 21.26 24.8 18.6 19.26 23.16 16.27 18.20 18.25
    """,
)
"""72 places of 67 heads."""

ENTITY_TRACKING_GOAT = _published(
    "tiedong/goat-lora-7b",
    structure_reader="""
        8.21 11.9 12.23 11.23 12.13 9.14 9.21 10.6 7.2 9.29 12.29 8.13 8.12 11.28 12.30 12.25
        8.10 8.26 8.7 10.24 6.23 9.30 11.24 9.18 9.12 12.0 8.19 11.11 8.9 11.20 11.26 9.6 8.25
        9.7 9.26 10.3 9.9 12.11 7.0
    """,
    position_detector="""
        10.3 13.14 6.10 11.23 11.24 9.7 1.9 9.10 10.7 7.17 13.0 5.7 12.0 12.8 12.23 12.20 13.25
        13.12 4.4 13.4 12.16 11.2 11.7 7.26 10.4 4.27 9.21 8.1 11.28 12.30 8.12 9.30 15.26 13.23
        6.17 13.1 8.29 8.25 13.6 12.17
    """,
    position_transmitter="""
        14.27 12.23 11.23 19.12 17.26 13.1 16.16 13.0 16.2 15.4 15.13 16.28 15.18 13.25 14.11
        14.13 10.6 13.27 12.25 12.8 12.0 11.9 18.3 18.28 14.10 11.26 11.24 13.3
    """,
    value_fetcher="""
        24.5 17.28 20.14 21.4 21.3 18.8 23.19 19.30 30.4 23.17 29.7 19.20 23.15 31.6 28.16 30.8
        28.17 17.8 25.14 24.8 19.8 23.16 21.25 31.26 19.11 31.25 18.20 31.23 15.12 31.1 23.27
        19.26 21.19 20.0 19.1 17.27 20.29 20.7 17.5 18.21 31.14 15.2 18.6 16.23 15.31 19.23
        21.11 23.31 31.0 17.24 11.5 22.17 13.10 14.9 18.23 15.24 21.17 16.27 19.2 17.23 24.0
        15.9 31.24 19.15 24.4 25.19 14.3 31.30
    """,
)
"""175 places of 151 heads."""

ENTITY_TRACKING_FLOAT = _published(
    "nikhil07prakash/float-7b",
    structure_reader="""
        8.21 12.23 11.9 11.23 9.21 8.12 12.13 9.14 8.11 10.6 11.28 9.30 12.29 6.17 9.12 8.7
        12.30 12.25 12.15 8.26 7.30 10.24 9.9 6.25 8.13 11.24 5.4 9.26 12.11 10.12 9.6 11.11
        12.5 7.2 9.28 10.7 7.0 6.31
    """,
    position_detector="""
        10.3 13.14 7.17 11.23 9.10 9.7 6.10 11.24 13.0 4.4 7.3 12.9 10.4 8.1 9.21 12.23 11.2
        12.8 10.7 12.0 10.21 9.15 13.4 13.12 12.5 7.9 11.7 8.29 12.20 15.26 12.17 9.1 12.30
        11.28 5.5 13.1 10.18 13.26 10.6 11.19
    """,
    position_transmitter="""
        14.27 11.23 12.23 13.0 13.14 13.1 19.12 16.2 17.26 16.16 14.0 15.13 12.8 15.4 14.11
        16.28 13.25 10.6 13.27 11.26 12.30 12.21 12.5 14.17 11.5 16.17 15.26 10.12 15.1
    """,
    value_fetcher="""
        18.3 24.5 18.8 21.4 20.14 17.28 30.4 18.28 23.17 19.30 23.19 28.16 15.5 19.20 31.26
        15.18 25.14 19.11 15.12 29.7 17.3 30.8 19.1 31.6 16.23 24.0 23.27 31.29 20.29 15.22
        23.16 15.6 18.23 17.24 15.15 12.16 23.31 23.30 29.22 18.6 20.0 27.19 21.10 25.19 21.23
        13.23 22.17 18.20 17.27 19.15 14.9 21.11 13.10 17.5 14.13 20.26 18.25 19.24 18.21 24.11
        12.9 31.23 26.16 16.15 19.17 17.15 19.16 22.5
    """,
)
"""175 places of 154 heads."""
