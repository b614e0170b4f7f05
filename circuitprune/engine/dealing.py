"""Tokens dealt to spans, and the products of gates with what is written, span by span.

A reader sees at a token the gates of that token's span, so each product of the stream is made of
one for each span, on its own columns. Without spans all tokens are one, and nothing is gathered.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.circuits.graph import Block
from circuitprune.circuits.span_graph import Span
from circuitprune.errors import DataError


class Piece(NamedTuple):
    """Some of the places that something looks at, which share their gates."""

    span: int
    at: Int[Tensor, " place"] | None = None
    """Which places; None for all."""


Pieces = tuple[Piece, ...]

WHOLE: Pieces = (Piece(0),)
"""All places share their gates."""


def held_against(
    spans: Sequence[Span], dealt: Int[Tensor, "batch pos"] | None
) -> Int[Tensor, "batch pos"]:
    """The span of each token, held against those that gates stand at.

    Raises:
        DataError: tokens that are not dealt to spans, or to spans that there are not.
    """
    if dealt is None or not 0 <= int(dealt.min()) <= int(dealt.max()) < len(spans):
        raise DataError(
            f"gates stand at the spans {', '.join(span.name for span in spans)}, and tokens are "
            f"dealt to {'none' if dealt is None else dealt.unique().tolist()}: take pairs that are "
            "prepared with the same `spans`"
        )
    return dealt


def dealt_to(spans: Int[Tensor, "*any"]) -> Pieces:
    """The places of each span that there is, from the span of each place."""
    flat = spans.flatten()
    found = flat.unique().tolist()
    if len(found) == 1:
        return (Piece(found[0]),)
    return tuple(Piece(span, (flat == span).nonzero().flatten()) for span in found)


def mix(
    pieces: Pieces,
    gates: Float[Tensor, "span reader row"],
    values: Float[Tensor, "row place d_model"],
    out: Float[Tensor, "reader place d_model"],
    add: bool = False,
) -> None:
    """Sets `out`, or adds to it, `gates @ values` with the gates of each place's span."""
    for span, at in pieces:
        if at is not None:
            mixed = (gates[span] @ values[:, at].flatten(1)).unflatten(1, (len(at), -1))
            (out.index_add_ if add else out.index_copy_)(1, at, mixed)
        elif add:
            out.flatten(1).addmm_(gates[span], values.flatten(1))
        else:
            torch.mm(gates[span], values.flatten(1), out=out.flatten(1))


def pull(
    pieces: Pieces,
    gates: Float[Tensor, "span reader row"],
    grads: Float[Tensor, "reader place d_model"],
    into: Float[Tensor, "row place d_model"],
) -> None:
    """Adds the gradients of the readers, by way of their gates, to those of the rows."""
    for span, at in pieces:
        if at is None:
            into.flatten(1).addmm_(gates[span].T, grads.flatten(1))
        else:
            pulled = gates[span].T @ grads[:, at].flatten(1)
            into.index_add_(1, at, pulled.unflatten(1, (len(at), -1)))


def slopes(
    pieces: Pieces,
    grads: Float[Tensor, "reader place d_model"],
    values: Float[Tensor, "row place d_model"],
    n_spans: int,
) -> Float[Tensor, "span reader row"]:
    """`<gradient of a reader, row>` over the places of each span: the gradient of its gates."""
    found = grads.new_zeros(n_spans, len(grads), len(values))
    for span, at in pieces:
        some, rows = (grads, values) if at is None else (grads[:, at], values[:, at])
        torch.mm(some.flatten(1), rows.flatten(1).T, out=found[span])
    return found


def views_of(
    values: Float[Tensor, "span edge"], block: Block
) -> Float[Tensor, "span reader writer"]:
    """The part of a block of values of all edges at each span, as matrices; no copy."""
    views: Tensor = values[:, block.edges].unflatten(1, (block.n_readers, block.n_writers))
    return views
