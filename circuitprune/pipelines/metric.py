"""What attribution explains: the metric that `attribution.metric` names, of logits."""

from jaxtyping import Float
from torch import Tensor

from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError
from circuitprune.metrics import TASK_METRICS, Metric, kl_from_log, log_probabilities
from circuitprune.pipelines.setup import Setup


def metric_name(setup: Setup) -> str:
    """`attribution.metric` with `auto` resolved; ACDC's worsening; `none` where none is asked."""
    settings = setup.config.attribution
    metric = "none" if settings.method == "none" else setup.method.metric
    if metric == "none":
        return "none"
    if setup.own_metric is not None:
        return setup.own_metric[0]
    if settings.method == "acdc":
        return "kl" if settings.acdc_worsening == "kl" else setup.metric_name
    if settings.metric != "auto":
        return settings.metric
    return setup.metric_name if metric == "task" else metric


def attribution_metric(setup: Setup) -> Metric:
    """What `attribution.metric` names; higher is better, so the KL is negated.

    Raises:
        ConfigError: the KL for a method that looks at the clean run alone, where it is flat.
    """
    name, method = metric_name(setup), setup.config.attribution.method
    if name != "none" and setup.own_metric is not None:
        return setup.own_metric[1]
    if name == "kl" and setup.method.at_clean_run:
        raise ConfigError(
            f"attribution.metric=kl says nothing to {method}, which takes its gradient at the "
            "clean run: there the KL to the clean run is at its minimum. Take "
            "attribution.metric=auto, or gate_ig"
        )
    if name == "kl":
        return MinusKL(setup.references)
    return setup.task_metric if name in ("none", setup.metric_name) else TASK_METRICS[name]


class MinusKL:
    """Minus the KL to the full model, whose run on the last batch asked for is kept.

    Exact patching asks once for each edge: without the cache of `References` each would be a run.

    Args:
        references: The full model.
    """

    def __init__(self, references: References) -> None:
        self.references = references
        self.batch: Batch | None = None

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], batch: Batch
    ) -> Float[Tensor, " batch"]:
        """In nats, for each example."""
        if batch is not self.batch:
            self.full_log = log_probabilities(self.references.full_logits(batch))
            self.batch = batch
        return -kl_from_log(self.full_log, logits)
