"""A model under gates on parts: its own forward, in which some activations are edited.

With gates on parts all readers see the same stream, so nothing is mixed: a run costs one forward.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitprune.circuits.part_graph import PartGraph
from circuitprune.data.batches import Batch, Prefix, Prompts
from circuitprune.engine.ablation import Ablated, Ablation, make_ablation
from circuitprune.engine.feature_sites import Errors, features
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.sites import Edit, Site, edited, neurons, nodes
from circuitprune.errors import CircuitPruneError, ConfigError, DataError, GraphError
from circuitprune.files.text import counted
from circuitprune.models.changes import Branch, Change, Output, narrow
from circuitprune.models.dictionary import Dictionary
from circuitprune.models.ports import Ports


def cut(
    ports: Ports, level: str, dictionaries: Sequence[Dictionary], errors: Errors
) -> tuple[PartGraph, list[Site]]:
    """The parts of a level, and the places where they pass.

    Raises:
        ModelError: the model has no such parts.
        ConfigError: an unknown level.
    """
    if level == "node":
        return nodes(ports)
    if level == "neuron":
        return neurons(ports)
    if level == "feature":
        return features(ports, dictionaries, errors)
    raise ConfigError(f"parts are of level node, neuron or feature, got {level!r:.40}")


class GatedParts(GatedModel):
    """A Hugging Face causal language model whose parts carry gates.

    As a `GatedModel`, but for what gates stand on: `graph` is a `PartGraph`, and what is ablated is
    `[1, batch, pos, width]`, the parts of all sites side by side, as `record` returns them.

    Args:
        model: As of `GatedModel`.
        level: `node`, `neuron` or `feature`.
        kv_readers: As of `GatedModel`; it decides nothing here.
        dictionaries: feature: what is cut into features.
        errors: feature: whether a dictionary's error has a gate (`node`), stays as it is (`clean`)
            or is ablated whatever the gates (`corrupt`).

    Attributes:
        opens, closes: Whether the model is its own self with all gates open, and the ablated run
            with all closed; not so where an error has no gate.

    Raises:
        ModelError: as of `GatedModel`, or the model has no such parts.
        ConfigError: an unknown level.
    """

    by_reach = False

    def __init__(
        self,
        model: nn.Module,
        level: str,
        kv_readers: str = "kv_head",
        dictionaries: Sequence[Dictionary] = (),
        errors: Errors = "node",
    ) -> None:
        super().__init__(model, kv_readers)
        self.opens, self.closes = errors != "corrupt", errors != "clean"
        try:
            self.graph, self.sites = cut(self.ports, level, dictionaries, errors)
        except CircuitPruneError:
            self.release()
            raise
        widths = [site.width for site in self.sites]
        self.width = sum(widths)
        """Numbers at each position that say all parts."""
        ends = torch.tensor([0, *widths]).cumsum(0).tolist()
        self.columns = [slice(*pair) for pair in pairwise(ends)]
        gates = torch.tensor([0, *(site.n for site in self.sites)]).cumsum(0).tolist()
        self.gates_of = [slice(*pair) for pair in pairwise(gates)]
        assert gates[-1] == self.graph.n_edges

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None = None,
        prefix: Prefix | None = None,
        dealt: Int[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits with every part between its own value (gate 1) and its ablated value (gate 0).

        Args:
            gates: One float per part of `graph`; otherwise as of `GatedModel`.
            dealt: The span of each token, where gates stand at spans.

        Raises:
            GraphError: `gates` or `ablated` do not fit the graph.
            DataError: as of `laid`.
        """
        if gates.shape != (self.graph.n_edges,):
            raise GraphError(
                f"expected {counted(self.graph.n_edges, 'gate')}, one per part, got "
                f"{tuple(gates.shape)}"
            )
        return self.rows(gates.unsqueeze(0), tokens, mask, ablated, last, prefix, dealt)

    def on(
        self, batch: Batch, gates: Float[Tensor, " edge"], ablated: Ablated
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of a batch's clean prompts: see a call."""
        return self(gates, *batch.clean_prompts[:2], ablated, *batch.clean_prompts[2:], batch.spans)

    def laid(
        self, gates: Float[Tensor, "rows edge"], dealt: Int[Tensor, "copies pos"] | None
    ) -> Callable[[int], Float[Tensor, "#copies #pos part"]]:
        """Gates of the parts of the site of a number, at each token: here the same at all.

        Args:
            gates: A row for all examples or for each.
            dealt: The span of each token.

        Raises:
            DataError: gates at spans, and tokens that are not dealt to them.
        """
        alike = gates.to(self.dtype).unsqueeze(1)
        return lambda number: alike[..., self.gates_of[number]]

    def rows(
        self,
        gates: Float[Tensor, "rows edge"],
        tokens: Int[Tensor, "copies pos"],
        mask: Bool[Tensor, "copies pos"],
        ablated: Ablated,
        last: Int[Tensor, " copies"] | None = None,
        prefix: Prefix | None = None,
        dealt: Int[Tensor, "copies pos"] | None = None,
    ) -> Float[Tensor, "copies *pos vocab"]:
        """As a call, with a row of gates for all examples or for each; fewer ablated are repeated.

        Raises:
            GraphError: `ablated` does not fit the graph.
            DataError: as of `laid`.
        """
        if ablated.shape[0] != 1 or ablated.shape[-1] != self.width:
            raise GraphError(
                f"expected ablated parts of width {self.width}, got {tuple(ablated.shape)}"
            )
        laid, instead = self.laid(gates, dealt), ablated[0:1][0]
        copies = len(tokens) // len(instead)

        def edit(number: int) -> Edit:
            site, own = self.sites[number], laid(number)
            there = instead[..., self.columns[number]]

            def moved(now: Tensor) -> Tensor:
                change = there.repeat(copies, 1, 1) - site.parts(now)
                return site.moved(now, own, change)

            return moved

        return self._run(map(edit, range(len(self.sites))), tokens, mask, last, prefix)

    def moved(
        self,
        gates: Float[Tensor, " edge"],
        batch: Batch,
        change: Float[Tensor, "batch pos width"],
        embeddings: Float[Tensor, "batch pos d_model"] | None = None,
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits with `1 - gate` of a change that is given added to each part.

        Args:
            gates: One float per part; the gradient at 1 is minus the change times that of the part.
            batch: Its clean prompts are run.
            change: What each part would be instead, minus what it is in some run.
            embeddings: What enters layer 0; None for the prompts' own.
        """
        laid = self.laid(gates.unsqueeze(0), batch.spans)

        def edit(number: int) -> Edit:
            own, columns = laid(number), self.columns[number]
            entry = embeddings if number == 0 else None

            def moved(now: Tensor) -> Tensor:
                now = now if entry is None else entry
                return self.sites[number].moved(now, own, change[..., columns])

            return moved

        return self.edited_run(edit, batch.clean_prompts)

    @property
    def whole(self) -> "GatedParts":
        """The model under gates on parts that are the same at all tokens."""
        return self

    def place(self, edge: int) -> tuple[int, int]:
        """The site that the part of a gate passes, and which of its parts it is."""
        number = next(n for n, own in enumerate(self.gates_of) if own.start <= edge < own.stop)
        return number, edge - self.gates_of[number].start

    @torch.no_grad()
    def record(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "1 batch pos width"]:
        """Every part on a plain run."""
        written = torch.empty(1, *tokens.shape, self.width, dtype=self.dtype, device=self.device)

        def edit(number: int) -> Edit:
            site, into = self.sites[number], written[0][..., self.columns[number]]

            def look(now: Tensor) -> Tensor:
                into.copy_(site.parts(now))
                return now

            return look

        last = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        self._run(map(edit, range(len(self.sites))), tokens, mask, last, prefix)
        return written

    def subtract(
        self,
        from_: Float[Tensor, "1 batch pos width"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        prefix: Prefix | None = None,
    ) -> None:
        """Takes every part of a plain run off a tensor, in place."""
        from_ -= self.record(tokens, mask, prefix)

    def ablation(self, kind: str, reference: Iterable[Batch] = ()) -> Ablation:
        """What parts carry where they are cut: see `make_ablation`.

        Raises:
            DataError: `optimal`, whose constants are learned for whole writers.
        """
        if kind == "optimal":
            raise DataError("optimal constants are learned for edges' writers, not for parts")
        return make_ablation(kind, self.ports, reference, self.record, (1, self.width))

    @torch.no_grad()
    def each(
        self,
        gates: Float[Tensor, "change edge"],
        prompts: Prompts,
        ablated: Ablated,
        dealt: Int[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "change batch vocab"]:
        """Answer-position logits under each of some gates, side by side in one run."""
        tokens, mask, last, prefix = prompts.repeat(len(gates))
        rows = gates.repeat_interleave(len(prompts.tokens), dim=0)
        dealt = None if dealt is None else dealt.repeat(len(gates), 1)
        logits = self.rows(rows, tokens, mask, ablated, last, prefix, dealt)
        each: Tensor = logits.unflatten(0, (len(gates), -1))
        return each

    def edited_run(
        self, edit: Callable[[int], Edit], prompts: Prompts
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of prompts with an edit of one's own at each site.

        Args:
            edit: What is done at the site of a number.
            prompts: What is run.
        """
        tokens, mask, last, prefix = prompts
        return self._run(map(edit, range(len(self.sites))), tokens, mask, last, prefix)

    def _run(
        self,
        edits: Iterable[Edit],
        tokens: Tensor,
        mask: Tensor,
        last: Tensor | None,
        prefix: Prefix | None,
    ) -> Tensor:
        """Hugging Face's own forward with an edit at each site."""
        forwards: dict[nn.Module, Branch] = {}
        for site, edit in zip(self.sites, edits, strict=True):
            own = forwards.get(site.module, site.module.forward)
            forwards[site.module] = edited(site, own, len(tokens), edit)
        first, norm = self.ports.first_layer, self.ports.final_norm
        forwards[first] = detached(forwards.get(first, first.forward))
        changes: list[Change] = [(module, "forward", own) for module, own in forwards.items()]
        changes.append((norm, "forward", narrow(norm.forward, last)))
        with self.ports.intercept(changes):
            return self.ports.run(tokens, mask, last, prefix)


def detached(forward: Branch) -> Branch:
    """A first layer that no gradient leaves: of embeddings that a hook lets require gradients."""

    def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
        return forward(hidden.detach(), *args, **kwargs)

    return first_layer
