"""What is written for TensorBoard, read back: pictures, histograms, arrangement, recovery."""

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch.utils.tensorboard import SummaryWriter

from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS
from circuitprune.errors import MetricError
from circuitprune.models.zoo.induction import induction_graph, true_circuit
from circuitprune.views.tensorboard import board
from circuitprune.views.tensorboard.images import circuit_image

GRAPH = Graph(2, 4, 4)
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorBoard's own


@pytest.fixture
def writer(tmp_path) -> SummaryWriter:
    return SummaryWriter(str(tmp_path))


def read(writer: SummaryWriter) -> EventAccumulator:
    writer.close()
    found = EventAccumulator(str(Path(writer.log_dir)))
    found.Reload()
    return found


def picture(events: EventAccumulator, tag: str) -> Image.Image:
    (event,) = events.Images(tag)
    image = Image.open(io.BytesIO(event.encoded_image_string))
    assert image.size == (event.width, event.height)
    return image


def test_a_circuit_comes_back_as_the_picture_that_was_drawn(writer):
    mask, scores = GRAPH.mask_of(["input->m0", "m0->logits"]), torch.zeros(GRAPH.n_edges)
    board.write_circuit(writer, "kept_at_0.1", GRAPH, mask, scores, 7)
    events = read(writer)
    image = picture(events, "circuit/kept_at_0.1")
    assert events.Images("circuit/kept_at_0.1")[0].step == 7
    expected = circuit_image(GRAPH, mask, scores, "2 edges")
    assert image.size == (expected.shape[2], expected.shape[1])
    assert bytes(expected.permute(1, 2, 0).contiguous().view(-1).tolist()) == image.tobytes()
    colours = {colour for _, colour in image.getcolors(1 << 20)}
    drawn = {kind for kind, text in KIND_COLOURS.items() if _rgb(text) in colours}
    assert drawn == {"mlp", "logits"}


def _rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def test_the_last_of_the_frontiers_is_drawn_over_the_five_before(writer):
    curves = [[(1, 2.0**-i), (10, 4.0**-i)] for i in range(9)]
    board.write_frontier(writer, "all", curves, "", 0)
    board.write_frontier(writer, "last_six", curves[3:], "", 0)
    board.write_frontier(writer, "last", curves[8:], "", 0)
    events = read(writer)
    all_, six, last = (picture(events, f"frontier/{tag}") for tag in ("all", "last_six", "last"))
    assert all_.size == (1120, 800) and all_.tobytes() == six.tobytes() != last.tobytes()


def test_gates_have_a_histogram_for_each_kind_of_reader(writer):
    share = torch.tensor(["qkv".find(kind) / 2 for kind in GRAPH.reader_kind])[GRAPH.edge_reader]
    board.write_gates(writer, GRAPH, share.double(), 3)
    events = read(writer)
    for value, kind in enumerate("qkv"):
        found = events.Histograms(f"gates/{kind}")[0].histogram_value
        rows = sum(GRAPH.reader_kind[r] == kind for r in GRAPH.edge_reader.tolist())
        assert (found.num, found.min, found.max) == (rows, value / 2, value / 2)


def test_values_that_tensorboard_refuses_are_left_out(writer):
    share = torch.full((GRAPH.n_edges,), torch.nan)
    share[GRAPH.edge_index("input->m0")] = 0.5
    share[GRAPH.edge_index("input->m1")] = torch.inf
    board.write_gates(writer, GRAPH, share, 0)
    events = read(writer)
    assert events.Tags()["histograms"] == ["gates/mlp"]
    assert events.Histograms("gates/mlp")[0].histogram_value.num == 1


# ---------------------------------------------------------------- arrangement


def arrangement(events: EventAccumulator) -> dict[str, dict[str, list[str]]]:
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(tensor.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }


def test_loss_stands_beside_density_and_faithfulness_by_size(writer):
    board.write_arrangement(writer, trains=True, has_reference=True)
    found = arrangement(read(writer))
    assert next(iter(found)) == "validation, by size"
    assert found == {
        "validation, by size": {
            "log10 of the KL in nats": ["^by_size/KL_log10/"],
            "faithfulness": ["^by_size/faithfulness/"],
        },
        "training": {
            "loss": ["^train/(loss|objective|opposite)$"],
            "density": ["^train/(density|expected_density|target_density)$"],
        },
        "frontier, over edges": {
            "log10 of the KL in nats": ["^frontier/KL_log10$"],
            "faithfulness": ["^frontier/faithfulness$"],
        },
        "reference circuit": {
            "auroc": ["^reference/auroc$"],
            "average_precision": ["^reference/average_precision$"],
        },
    }


def test_without_training_and_reference_the_frontier_is_left(writer):
    board.write_arrangement(writer, trains=False, has_reference=False)
    assert set(arrangement(read(writer))) == {"frontier, over edges"}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([0.01, 0.5, 0.9], 0.9), ([0.95, 1.0], 0.95), ([1.0, 0.92, 0.91], 0.91), ([1.0], 1.0)],
)
def test_the_readable_size_is_the_largest_of_at_most_100_edges(sizes, expected):
    assert GRAPH.n_edges == 110
    assert board.readable_size(GRAPH, sizes) == expected


# ---------------------------------------------------------------- recovery


def test_place_falls_from_one_to_zero_with_the_logarithm_of_the_rank():
    ranking = torch.tensor([5.0, 9.0, torch.nan, 7.0])
    expected = [1 - math.log(rank) / math.log(4) for rank in (3, 1, 4, 2)]
    assert board.place_of(ranking).tolist() == pytest.approx(expected)
    ties = board.place_of(torch.tensor([2.0, 2.0, 1.0]))
    assert ties[0] == ties[1] == pytest.approx(1 - math.log(1.5) / math.log(3))
    assert board.place_of(torch.ones(1)).tolist() == [1.0]


def curve(events: EventAccumulator):
    """True and false positives, precision and recall at thresholds 0, 1/126, ..., 1."""
    (tensor,) = events.Tensors("reference/precision_recall")
    shape = [dim.size for dim in tensor.tensor_proto.tensor_shape.dim]
    rows = torch.tensor(list(tensor.tensor_proto.float_val)).view(shape)
    assert shape == [6, 127]
    return rows[0], rows[1], rows[4], rows[5]


def test_the_curve_is_that_of_the_known_circuit_of_the_induction_model(writer):
    """Two of five known edges are the best, one is in the middle, two are the last."""
    known, graph = true_circuit(), induction_graph()
    hits = known.nonzero().flatten().tolist()
    others = (~known).nonzero().flatten().tolist()
    order = [*hits[:2], *others[:50], hits[2], *others[50:], *hits[3:]]
    ranking = torch.empty(graph.n_edges)
    ranking[order] = torch.arange(graph.n_edges, 0, -1).float()
    board.write_recovery(writer, ranking, known, 4)
    events = read(writer)
    taken_true, taken_false, precision, recall = curve(events)
    for i in range(127):
        taken = [k for k in range(110) if (1 - math.log(k + 1) / math.log(110)) * 126 >= i - 1e-9]
        n_true = sum(order[k] in hits for k in taken)
        assert (taken_true[i], taken_false[i]) == (n_true, len(taken) - n_true)
        assert precision[i].item() == pytest.approx(n_true / len(taken))
        assert recall[i].item() == pytest.approx(n_true / 5)
    assert (precision[-1], recall[-1]) == (1, pytest.approx(0.2))
    above = 2 * 105 + 55 + 0  # pairs of a known edge and another that it stands above
    assert events.Scalars("reference/auroc")[0].value == pytest.approx(above / (5 * 105))
    share = (1 + 1 + 3 / 53 + 4 / 109 + 5 / 110) / 5
    average = events.Scalars("reference/average_precision")[0]
    assert (average.step, average.value) == (4, pytest.approx(share))


def test_nothing_can_be_recovered_of_no_edge(writer):
    empty = torch.zeros(GRAPH.n_edges, dtype=torch.bool)
    with pytest.raises(MetricError, match="keeps 0 of 110"):
        board.write_recovery(writer, torch.rand(GRAPH.n_edges), empty, 0)
    writer.close()
