"""Pictures of a mask for TensorBoard, as plain pixel arrays: no plotting library."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from circuitprune.graph import Graph

_EMPTY = (247, 249, 252)
_FULL = (8, 48, 107)
_IMPOSSIBLE = (225, 225, 225)


def layer_density(
    graph: Graph, mask: Bool[Tensor, " edge"]
) -> Float[Tensor, "reader_layer writer_layer"]:
    """Fraction of edges kept between layers; NaN where the model has no edge.

    Rows are the readers' layers with the logits last, columns the writers' with the input first.
    """
    rows = graph.reader_layer[graph.edge_reader]
    columns = graph.writer_layer[graph.edge_writer] + 1
    n = graph.n_layers + 1
    cell = rows * n + columns
    total = torch.bincount(cell, minlength=n * n)
    kept = torch.bincount(cell, weights=mask.cpu().double(), minlength=n * n)
    return (kept / total).view(n, n).float()


def density_image(
    graph: Graph, mask: Bool[Tensor, " edge"], cell: int = 24
) -> UInt8[Tensor, "rgb height width"]:
    """`layer_density` as an image, dark where many edges are kept, on a square-root scale.

    The logits are the top row, layer 0 the bottom one; the input is the left column.
    """
    density = layer_density(graph, mask).flip(0)
    shade = density.nan_to_num(0).sqrt().unsqueeze(-1)
    low, high = torch.tensor(_EMPTY).float(), torch.tensor(_FULL).float()
    pixels = low + shade * (high - low)
    pixels[density.isnan()] = torch.tensor(_IMPOSSIBLE).float()
    image = pixels.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    image[::cell], image[:, ::cell] = 255, 255
    return image.permute(2, 0, 1).round().to(torch.uint8)
