"""The case of a circuit: what evidence about it is computed from."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.evidence import Case
from circuitprune.pipelines.setup import Setup
from circuitprune.pipelines.verify_config import EvidenceConfig


def case_of(
    setup: Setup,
    mask: Bool[Tensor, " edge"],
    options: EvidenceConfig,
    *,
    ranking: Float[Tensor, " edge"],
    sizes: Mapping[float, Bool[Tensor, " edge"]],
    scores: Float[Tensor, " edge"] | None = None,
    nodes: Float[Tensor, " writer"] | None = None,
) -> Case:
    """A circuit on the held-out pairs, with the budget of the options; the rest as of `Case`."""
    device, size = setup.gated.device, setup.config.verify.batch_size

    def batches(split: str) -> list[Batch]:
        return [batch.to(device) for batch in setup.data.batches(split, size)]

    return Case(
        references=setup.references,
        batches=batches(setup.held_out),
        train_batches=batches("train"),
        task_metric=setup.task_metric,
        mask=mask,
        ranking=ranking,
        sizes=sizes,
        seed=options.seed,
        scores=scores,
        nodes=nodes,
        n_bootstrap=options.n_bootstrap,
        n_random=options.n_random,
        n_knockouts=options.n_knockouts,
        n_removed=options.n_removed,
        n_adversarial=options.n_adversarial,
        tolerance=options.tolerance,
        tokenizer=setup.tokenizer,
        metadata={
            "model": setup.config.model.name,
            "task": setup.config.task.name,
            "metric": setup.metric_name,
            "split": setup.held_out,
        },
    )
