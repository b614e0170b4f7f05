"""What settings go with a model that is divided among processes."""

from collections.abc import Sequence

from circuitprune.attribution.methods import METHODS


def shard_rules(
    level: str, tasks: Sequence[str], verify_top: int, *methods: str
) -> list[tuple[bool, str]]:
    """Whether other settings go with `model.shard=true`, and what to say if not.

    Args:
        level, tasks: The settings of those names.
        verify_top: `attribution.verify_top`.
        methods: `attribution.method` and `gates.starts`.
    """
    unable = [one for one in methods if one in METHODS and not METHODS[one].in_layers]
    return [
        (
            not unable,
            f"attribution.method={', '.join(unable)} reads weights while their layer does not run, "
            "when model.shard=true has not gathered them; take another, such as eap",
        ),
        (
            not verify_top,
            f"attribution.verify_top={verify_top} patches exactly, which model.shard=true does not",
        ),
        (level == "edge", f"model.shard=true is for gates on edges, not for level={level}"),
        (not tasks, "tasks are learned in one process, not with model.shard=true"),
    ]
