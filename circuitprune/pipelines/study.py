"""A model on a task, to hold in a notebook: attribute, cut, learn, evaluate, patch, judge."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from circuitprune.attribution.base import Attribution
from circuitprune.attribution.part_edges import PartEdges, part_edges
from circuitprune.attribution.scores import Scores
from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.selection import Method as Selection
from circuitprune.circuits.selection import select
from circuitprune.errors import ConfigError
from circuitprune.evidence.results import Sections
from circuitprune.evidence.sentiment import SentimentDirection
from circuitprune.evidence.tracking import EntityTracking
from circuitprune.metrics import Evidence, Metric
from circuitprune.patching.paths import effect_of
from circuitprune.pipelines.asked import evidence_of, searched
from circuitprune.pipelines.given import Edges, edges_wanted, mask_given, no_name, own_settings
from circuitprune.pipelines.learned import (
    Learned,
    learned,
    provenance_of,
    refined_circuit,
    to_learn,
)
from circuitprune.pipelines.metric import metric_name
from circuitprune.pipelines.own import name_of, named_metric, own_method
from circuitprune.pipelines.prepared import Prepared
from circuitprune.pipelines.scoring import by_method
from circuitprune.pipelines.sentiment import SentimentConfig, find_sentiment
from circuitprune.pipelines.setup import Loaded, training_batches
from circuitprune.pipelines.tracking import TrackingConfig, entity_tracking

Start = Scores | str | Attribution
"""Scores, or the name of a method or a function that makes them."""


class Study(Prepared):
    """One model, one task, one ablation: everything that is asked of a circuit is asked here.

    The model is loaded, checked against its own logits and must be able to do the task; reference
    runs are made once and shared by all that follows. Nothing is written. Arguments as of
    `Prepared`.

    Example:
        >>> from circuitprune import Study
        >>> study = Study("zoo/small", "ioi", n_train=8, n_test=8)
        >>> study
        Study(zoo/small, ioi: 1,519 edges, patch, 8 training and 8 held-out pairs)
    """

    def attribute(
        self,
        method: str | Attribution = "eap",
        *,
        steps: int | None = None,
        metric: str | Metric = "auto",
    ) -> Scores:
        """Scores of every edge on the training pairs; see docs/attribution.md.

        Args:
            method: A name of `METHODS`, or your own function `(references, batches, metric, steps)`
                that gives every edge a score, negative where it helps.
            steps: Points of the integrated methods; by default 20 for `gate_ig`, 5 for others.
            metric: What is attributed: `kl`, a task metric, `auto`, what suits the method, or a
                function `(logits, batch)` of your own.

        Raises:
            ConfigError: an unknown method, one that is no such function, or a metric that says
                nothing to it.
        """
        own = own_method(method, name_of(method)) if callable(method) else None
        explained, config = named_metric(metric), self.setup.config
        settings = replace(
            config.attribution,
            method="eap" if own else method,  # type: ignore[arg-type]  # refused if it is no text
            steps=steps,
            metric="auto" if explained else metric,  # type: ignore[arg-type]
        )
        config = replace(config, attribution=settings)
        setup = replace(self.setup, config=config, own_method=own, own_metric=explained)
        found = by_method(setup).scores
        name = name_of(method) if callable(method) else method
        return Scores(self.graph, found, name, metric_name(setup), setup.method.signed)

    def learn(
        self,
        steps: int = 500,
        *,
        start: Start | list[Start] | None = "gate_ig",
        learner: str = "topk",
        objective: str = "kl",
        progress: bool = True,
        **gates: object,
    ) -> "Learned":
        """Gates learned on the training pairs; they order all edges.

        Args:
            steps: Of the optimiser.
            start: Scores or a method to start from, a list whose ranks are averaged, or None.
            learner: `topk` or `hard_concrete`.
            objective: What is kept: `kl` to the full model, or another of `docs/method.md`.
            progress: Show the steps and the time left.
            gates: Other settings of `gates`, such as `direction="joint"` or `average=0.2`.

        Raises:
            ConfigError: a setting out of its range.
        """
        asked = to_learn(self.setup, steps, objective, {"learner": learner, **gates}, progress)
        given = [one for one in (start if isinstance(start, list) else [start]) if one is not None]
        rows = [one if isinstance(one, Scores) else self.attribute(one) for one in given]
        return learned(asked, [one.values for one in rows])

    def circuit(
        self,
        scores: "Scores | Learned",
        *,
        n_edges: int | None = None,
        size: float | None = None,
        selection: Selection = "top_n",
    ) -> Circuit:
        """The best circuit of a size: at most that many live edges, strongest first.

        Args:
            scores: Of `attribute` or `learn`; scores rank by magnitude.
            n_edges: Edges, or
            size: the fraction of all edges, in (0, 1].
            selection: `top_n`, `top_n_raw` (as EAP-IG and MIB count) or `greedy`.

        Raises:
            ConfigError: not exactly one of `n_edges` and `size`, or more than the model has.
        """
        if not isinstance(scores, Scores | Learned):
            raise ConfigError(f"scores are what attribute or learn give, got {scores!r:.60}")
        wanted = edges_wanted(self.graph, n_edges, size)
        ranking = scores.ranking.nan_to_num(-torch.inf)
        mask = select(self.graph, ranking, wanted, selection)
        circuit = Circuit(self.graph, mask, None, provenance_of(self.setup), scores.ranking)
        if isinstance(scores, Scores):
            return replace(circuit, scores=scores.values, method=scores.method)
        return circuit

    def refine(self, circuit: Edges, *, tries: int = 32, most_rounds: int = 100) -> Circuit:
        """The circuit with edges exchanged as long as its exact KL on the training pairs falls.

        Args:
            circuit: A circuit, a mask, or names of edges; what comes back has no more edges.
            tries: Edges to add, and to remove, that are run exactly in each round.
            most_rounds: Changes accepted at most.
        """
        return refined_circuit(self.setup, circuit, tries, most_rounds)

    def evaluate(self, circuit: Edges) -> Evidence:
        """A circuit on the held-out pairs, exactly: its edges live, all others ablated.

        Args:
            circuit: A circuit, a mask, or names of edges.
        """
        return self._measured(mask_given(self.graph, circuit)).against(self.full, self.empty)

    def effect(
        self, what: str | Sequence[str], *, direction: str = "noising"
    ) -> float | dict[str, float]:
        """Change of the task metric when one thing alone is ablated, by exact patching.

        On the training pairs, as scores are, in the metric's unit. Negative: it helps.

        Args:
            what: A node `a3.h1`, an edge `m0->logits`, a path `a1.h2->m3->logits`, or several.
            direction: `noising`, or `denoising`: restored in the corrupt run.

        Raises:
            GraphError: a node, edge or path that the model does not have.
        """
        if not isinstance(what, str | Iterable) or isinstance(what, bytes):
            raise no_name(what)
        if not isinstance(what, str):
            return {name: self._effect(name, direction) for name in what}
        return self._effect(what, direction)

    def part_edges(self, into: str | Sequence[str], *, steps: int = 10) -> PartEdges:
        """How much each part moves the task metric through each of some parts, and directly.

        On the training pairs; see docs/parts.md, Edges between parts.

        Args:
            into: Parts to look into, such as those of the largest scores.
            steps: Runs behind each gradient; 1 takes the clean run's alone.

        Raises:
            ConfigError: a study with gates on edges.
            GraphError: no such part.
        """
        if self.graph.unit == "edge":
            raise ConfigError(
                "edges between parts are of a study with level=node, neuron or feature"
            )
        batches = training_batches(self.setup)
        return part_edges(self.references, batches, self.setup.task_metric, into, steps)

    def acdc(self, threshold: float, *, worsening: str = "kl") -> Circuit:
        """The circuit that ACDC's search on the training pairs leaves at one threshold.

        Args:
            threshold: Above 0: an edge stays if the circuit gets worse by as much without it.
            worsening: `kl` to the full model, in nats, or `task`: what the task metric loses.

        Raises:
            ConfigError: a threshold that is not above 0, or no such worsening.
        """
        mask = searched(self.setup, threshold, worsening)
        said = {**provenance_of(self.setup), "acdc_threshold": threshold}
        return Circuit(self.graph, mask, None, said)

    def evidence(self, circuit: Edges, *kinds: str, **budget: object) -> Sections:
        """Evidence about a circuit on the held-out pairs, as `verify` gathers it.

        Args:
            circuit: A circuit, a mask, or names of edges.
            kinds: Names of `EVIDENCE`, such as `completeness`, or `function`, which has the logit
                lens; none takes all. See docs/evidence.md.
            budget: Other options of `verify`, such as `n_random=20`.

        Raises:
            ConfigError: no such kind or option, or a value out of its range.

        Example:
            >>> study = Study("zoo/small", "ioi", n_train=8, n_test=8)
            >>> found = study.evidence(["input->m0", "m0->logits"], "faithfulness", n_bootstrap=9)
            >>> found.faithfulness.verdict
            'fail'
        """
        return evidence_of(self.setup, circuit, kinds, budget)

    def sentiment(self, **settings: object) -> SentimentDirection:
        """How much of a review's sentiment lies along one direction of the model's stream.

        Whatever the study's task is; see docs/sentiment.md.

        Args:
            settings: Of `SentimentConfig`, such as `n_train=12` or `layers=[0, 3]`.
        """
        return find_sentiment(self._loaded, own_settings(SentimentConfig, self.setup, settings))

    def entity_tracking(self, base: "Study | None" = None, **settings: object) -> EntityTracking:
        """The four groups of heads by which the model tracks what is in which box.

        Whatever the study's task is; see docs/entity_tracking.md.

        Args:
            base: A study of the model that this one was tuned from; None looks at this one alone.
            settings: Of `TrackingConfig`, such as `n_boxes=3`.
        """
        config = own_settings(TrackingConfig, self.setup, settings)
        if not isinstance(base, Study | None):
            raise ConfigError(f"base is a Study of the model before tuning, got {base!r:.60}")
        return entity_tracking(self._loaded, None if base is None else base._loaded, config)

    # ---------------------------------------------------------------- private

    @property
    def _loaded(self) -> Loaded:
        return self.setup.gated.model, self.setup.tokenizer

    def _effect(self, name: str, direction: str) -> float:
        if not isinstance(name, str):
            raise no_name(name)
        batches, metric = training_batches(self.setup), self.setup.task_metric
        return effect_of(self.references, batches, metric, name, direction)
