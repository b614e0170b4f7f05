"""Figures for papers: the numbers that they show, the bytes that they are, what they refuse."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from report_evidence import (
    completeness_of,
    faithfulness,
    group_of,
    interval,
    minimality_of,
    study,
    verification,
)
from report_evidence import transfer as comparison
from report_runs import GROUPED, HOSTILE, make_run

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.export import to_dot
from circuitprune.circuits.graph import Graph
from circuitprune.circuits.layout import KIND_COLOURS
from circuitprune.cli import main
from circuitprune.errors import CircuitPruneError, RunError
from circuitprune.evidence.baselines import AmongRandom
from circuitprune.evidence.bootstrap import Estimate, Interval
from circuitprune.evidence.gaps import KnockOutGap
from circuitprune.evidence.minimality import EdgeRemoved
from circuitprune.evidence.results import Sections
from circuitprune.evidence.sentiment import Directed, SentimentDirection, Summarised
from circuitprune.files.text import line
from circuitprune.files.whole import read_json, write_json
from circuitprune.runs.finished import read_frontier
from circuitprune.runs.studies import Transfer
from circuitprune.views import figures
from circuitprune.views.figures import (
    FIGURES,
    Options,
    circuit,
    completeness,
    frontier,
    minimality,
    sentiment,
    stability,
    transfer,
    write_figure,
)
from circuitprune.views.figures.sources import read_circuit, read_series

SVG = "{http://www.w3.org/2000/svg}"
DAMAGED = {"sections": {"minimality": {}, "completeness": {"points": 3}}}


def effect(name, value, half=0.001):
    return EdgeRemoved(name, interval(value, half), interval(-value))


def knock_out(family, model, gap, telling=True):
    return KnockOutGap(
        family=family,
        name=family,
        nodes=(),
        circuit=model + gap,
        model=model,
        gap=interval(gap, 0.2),
        relative_gap=gap / 10,
        telling=telling,
        kl=0.1,
    )


EDGES = [effect("m0->logits", 2.0), effect("input->m0", 0.005), effect("a0.h1->m3", -0.5)]
POINTS = [knock_out("none", 9.0, 1.0), knock_out("random", 4.0, -2.0)]
POINTS += [knock_out("random", 0.1, 0.0, telling=False), knock_out("class", 6.0, 0.5)]


def verified(folder):
    """Evidence for the run: intervals at two sizes, three edges, four knock-outs."""
    points = read_json(folder / "frontier.json")["points"]
    circuit = Circuit.load(folder / "circuits/7.json")
    curve = faithfulness(circuit.graph, [p["n_edges"] for p in points[:2]], circuit)
    sizes = tuple(
        replace(
            row,
            kl=Estimate(p["kl"], 0.9 * p["kl"], 1.2 * p["kl"]),
            faithfulness=Interval(*(share * p["faithfulness"] for share in (1, 0.9, 1.2))),
        )
        for row, p in zip(curve.sizes, points, strict=False)
    )
    sections = Sections(
        faithfulness=replace(curve, sizes=sizes),
        minimality=minimality_of(EDGES),
        completeness=completeness_of(POINTS, span=10.0),
    )
    write_json(folder / "verification.json", verification(sections, circuit))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ioi"
    folder.mkdir()
    make_run(folder)
    (folder / "COMPLETE").touch()
    return verified(folder)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What `compare --transfer` wrote: two circuits on the pairs of one of two runs."""
    names = ["runs/ioi", "runs/sva"]
    whole = comparison(names)
    on_one, on_other = whole.transfer.settings
    random = {"uniform": AmongRandom(9, 0.1, 1.0), "relabelled": AmongRandom(9, 0.3, 1.0)}
    values = Interval(0.9, 0.8, 1.1), Interval(-0.001, None, None)
    cells = [cell for cell in whole.transfer.cells if cell.on == "runs/ioi"]
    cells = tuple(
        replace(cell, faithfulness=value, random=random)
        for cell, value in zip(cells, values, strict=True)
    )
    settings = (on_one, replace(on_other, n_pairs=0))
    folder = tmp_path_factory.mktemp("compare")
    write_json(folder / "compare.json", replace(whole, transfer=Transfer(settings, cells)))
    return folder


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """What `stability` wrote: three runs with other seeds."""
    shared = ((1.0, 0.5, 0.25), (0.5, 1.0, 0.75), (0.25, 0.75, 1.0))
    runs = group_of([f"seed{i}" for i in range(3)], 15, shared, (1000, 4, 3, 12))
    folder = tmp_path_factory.mktemp("stability")
    write_json(folder / "stability.json", study({"seed": runs}))
    return folder


@pytest.fixture(scope="module")
def directed(tmp_path_factory):
    """What `sentiment` wrote, of two layers; one effect is undefined."""
    some, none = Interval(0.8, 0.7, 0.9), Interval(None, None, None)
    rows = [
        Directed(layer, method, some, none if method == "random" else some, some, 1.0)
        for layer in (0, 3)
        for method in ("mean_difference", "random")
    ]
    tokens = (Summarised("comma", some, some), Summarised("last", some, none))
    found = SentimentDirection("m", 4, 4, 6, 2.0, -2.0, tuple(rows), tokens)
    folder = tmp_path_factory.mktemp("sentiment")
    write_json(folder / "sentiment.json", found)
    return folder


@pytest.fixture
def sources(run, compared, repeated, directed):
    """For each figure, what it is made from."""
    studies = {"transfer": compared, "stability": repeated, "sentiment": directed}
    return {name: [studies.get(name, run)] for name in FIGURES}


def texts(axes):
    return [text.get_text() for text in axes.texts]


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_numbers_give_the_same_bytes_in_every_form(name, sources, tmp_path):
    for form in ("pdf", "svg", "png"):
        first, second = (tmp_path / f"{i}.{form}" for i in range(2))
        for path in (first, second):
            assert write_figure(name, sources[name], path) == path
        assert first.read_bytes() == second.read_bytes()
    pdf, svg = (tmp_path / "0.pdf").read_bytes(), (tmp_path / "0.svg").read_text()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # embedded, as text
    assert not re.search(rb"CreationDate|Matplotlib", pdf)
    assert "<text" in svg and not re.search(r"<dc:date|matplotlib\.org|Matplotlib", svg)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("width", [None, 5.0])
def test_a_picture_is_as_wide_as_asked(run, tmp_path, width):
    for name in ("circuit", "frontier", "completeness", "minimality"):
        write_figure(name, [run], tmp_path / "x.png", Options(width=width))
        with Image.open(tmp_path / "x.png") as image:
            assert image.width == round(300 * (width or 3.35))
            assert image.convert("L").getextrema() == (pytest.approx(30, abs=40), 255)


@pytest.mark.parametrize(("name", "n_names"), [("frontier", 2), ("transfer", 2), ("stability", 3)])
def test_names_are_inert_whatever_they_hold(name, n_names, sources, tmp_path):
    """Mathematics, markup and control characters in labels are shown as they are."""
    hostile = ["a_b^c", "$\\frac{$", *(one for one in HOSTILE if "\ud800" not in one)]
    given = sources[name] * (2 if name == "frontier" else 1)
    for start in range(0, len(hostile), n_names):
        labels = [hostile[(start + i) % len(hostile)] for i in range(n_names)]
        write_figure(name, given, tmp_path / "x.svg", Options(labels=labels))
        nodes = list(ElementTree.parse(tmp_path / "x.svg").iter())
        assert not {node.tag.removeprefix(SVG) for node in nodes} & {"script", "img"}
        words = {"".join(node.itertext()) for node in nodes if node.tag == f"{SVG}text"}
        clean = {line(label) for label in labels}
        assert clean <= words


# ---------------------------------------------------------------- the circuit


def shown_edges(path):
    """Names of the drawn edges, with their colours and widths."""
    found = {}
    for group in ElementTree.parse(path).iter(f"{SVG}g"):
        if "->" in group.get("id", ""):
            style = group.find(f"{SVG}path").get("style")
            (colour,) = re.findall(r"stroke: (#\w{6})", style)
            (width,) = re.findall(r"stroke-width: ([\d.]+)", style) or ["1"]
            found[group.get("id")] = colour, float(width)
    return found


@pytest.mark.parametrize(("size", "n_edges"), [(None, 40), (0.005, 7), (0.2, 300)])
def test_every_edge_of_the_circuit_is_drawn_in_its_colour(run, tmp_path, size, n_edges):
    write_figure("circuit", [run], tmp_path / "x.svg", Options(size=size))
    found, kept = shown_edges(tmp_path / "x.svg"), Circuit.load(run / f"circuits/{n_edges}.json")
    graph = kept.graph
    assert set(found) == set(kept.edges) and len(found) == n_edges
    for name, (colour, _) in found.items():
        reader = graph.reader_index(name.partition("->")[2])
        assert colour == KIND_COLOURS[graph.reader_kind[reader]]
    ranking = {name: kept.ranking[graph.edge_index(name)].item() for name in found}
    order = sorted(found, key=ranking.__getitem__)
    widths = [found[name][1] for name in order]
    assert widths == sorted(widths) and widths[-1] > 2 * widths[0]


def labels(axes):
    return {text.get_text(): to_hex(text.get_color()) for text in axes.texts}


def test_nodes_are_named_and_those_outside_are_pale_or_left_out(tmp_path):
    path = tmp_path / "c.json"
    Circuit.from_names(Graph(3, 2, 2), ["input->a0.h1<v>", "a0.h1->m2", "m2->logits"]).save(path)
    whole = labels(circuit.draw([path], Options()).axes[0])
    heads = {f"{layer}.{head}" for layer in range(3) for head in range(2)}
    mlps = {f"MLP {layer}" for layer in range(3)}
    assert heads | mlps | {"input", "logits"} | set("012") == set(whole)
    dark = {name for name, colour in whole.items() if colour == "#1b2027"}
    assert dark == {"0.1", "MLP 2"}
    kept = labels(circuit.draw([path], Options(nodes="kept")).axes[0])
    assert set(kept) == {"0.1", "MLP 2", "input", "logits", "0", "2"}


def test_a_large_model_shows_the_kept_nodes_unless_asked_for_all(tmp_path):
    path = tmp_path / "c.json"
    Circuit.from_names(Graph(12, 12, 12), ["input->a5.h7<q>", "a5.h7->logits"]).save(path)
    assert set(labels(circuit.draw([path], Options()).axes[0])) == {"5", "5.7", "input", "logits"}
    assert len(labels(circuit.draw([path], Options(nodes="all")).axes[0])) == 12 * 14 + 2


def test_everything_drawn_lies_inside_the_figure(tmp_path):
    """Curves around MLPs, key/value bars and small circuits too."""
    names = ["input->a0.kv1<k>", "a0.h3->m1", "input->m1", "m0->logits", "m1->logits"]
    path = tmp_path / "c.json"
    Circuit.from_names(GROUPED, [*names, "input->m0"]).save(path)
    for nodes in ("all", "kept"):
        axes = circuit.draw([path], Options(nodes=nodes)).axes[0]
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for patch in axes.patches:
            if patch.get_gid():
                box = patch.get_path().get_extents()
                assert left <= box.x0 and box.x1 <= right
                assert bottom <= box.y0 and box.y1 <= top


def test_a_circuit_is_also_text_for_graphviz(run, tmp_path):
    path = tmp_path / "x.dot"
    assert main(["figure", "circuit", str(run), "--size", "0.005", "-o", str(path)]) == 0
    chosen = read_circuit(run, Options(size=0.005))
    assert path.read_text() == to_dot(chosen) and chosen.n_edges == 7
    assert path.read_text().count("penwidth") == 7


# ---------------------------------------------------------------- the frontier


def curves(axes):
    """Curves by label, as lists of points."""
    return {
        line.get_label(): [tuple(map(float, point)) for point in line.get_xydata()]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def bars(axes):
    """Ends of the vertical lines of two points."""
    pairs = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 2]
    return {(float(a[0]), float(a[1]), float(b[1])) for a, b in pairs if a[0] == b[0] and a[0] > 1}


def test_the_frontier_shows_the_points_and_the_intervals_of_a_run(run):
    figure = frontier.draw([run], Options())
    points = read_json(run / "frontier.json")["points"]
    for axes, name in zip(figure.axes, ("kl", "faithfulness"), strict=True):
        assert curves(axes) == {"ioi": [(p["n_edges"], p[name]) for p in points]}
        ends = [(p["n_edges"], 0.9 * p[name], 1.2 * p[name]) for p in points[:2]]
        assert sorted(bars(axes)) == [pytest.approx(end) for end in ends]
        assert axes.get_xscale() == "log"
        rings = [line for line in axes.lines if line.get_markersize() == 8]
        assert [line.get_xdata()[0] for line in rings] == [40]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]


def test_several_runs_are_told_apart_by_colour_and_mark(run, tmp_path):
    other = tmp_path / "ioi"
    other.mkdir()
    make_run(other, seed=1, sizes=(5, 50))
    figure = frontier.draw([run, other], Options(width=6.9))
    names = [f"{run.parent.name}/ioi", f"{tmp_path.name}/ioi"]
    for axes in figure.axes:
        assert set(curves(axes)) == set(names)
        lines = [line for line in axes.lines if line.get_label() in names]
        assert len({line.get_color() for line in lines}) == 2
        assert len({line.get_marker() for line in lines}) == 2
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == names
    renamed = frontier.draw([run, other], Options(labels=["A", "B"]))
    assert set(curves(renamed.axes[0])) == {"A", "B"}
    one_row, two_rows = (f.axes[1].get_position().y0 for f in (figure, renamed))
    assert one_row == figure.axes[0].get_position().y0
    assert two_rows < renamed.axes[0].get_position().y0


def test_a_kl_of_zero_is_drawn_at_the_floor(tmp_path):
    make_run(tmp_path)
    found = read_json(tmp_path / "frontier.json")
    found["points"][-1]["kl"] = -1e-9
    write_json(tmp_path / "frontier.json", found)
    axes = frontier.draw([tmp_path], Options()).axes[0]
    assert curves(axes)[tmp_path.name][-1][1] == 1e-5
    assert r"$\leq 10^{-5}$" in [text.get_text() for text in axes.get_yticklabels()]


def test_the_chosen_point_is_the_frontiers_own(run):
    chosen = read_frontier(run)[0].chosen()
    assert read_series(run).chosen.n_edges == int(chosen.mask.sum())


# ---------------------------------------------------------------- the evidence


def test_knock_outs_stand_at_what_model_and_circuit_do(run):
    (axes,) = completeness.draw([run], Options()).axes
    spots, faces = [], []
    for scatter in axes.collections:
        for at, face in zip(scatter.get_offsets(), scatter.get_facecolors(), strict=False):
            spots.append(tuple(map(float, at)))
            faces.append(to_hex(face))
    expected = {(p.model, p.circuit) for p in POINTS}
    assert {spot for spot in spots if spot in expected} == expected
    hollow = [spot for spot, face in zip(spots, faces, strict=True) if face == "#ffffff"]
    assert hollow == [(0.1, 0.1)]
    assert axes.get_xlim() == axes.get_ylim()
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["nothing", "a class of nodes", "random nodes"]


def test_edges_are_named_from_the_most_needed_down(run):
    (axes,) = minimality.draw([run], Options()).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["m0 \u2192 logits", "input \u2192 m0", "a0.h1 \u2192 m3"]
    assert axes.yaxis_inverted()
    ends, marks = axes.lines[0::2], axes.lines[1::2]
    for row, edge in enumerate(EDGES):
        kl = edge.kl
        assert list(ends[row].get_xdata()) == [kl.low, kl.high]
        assert (marks[row].get_xdata()[0], marks[row].get_ydata()[0]) == (kl.value, row)
    colours = [line.get_color() for line in marks]
    assert colours[0] != colours[1] == colours[2]  # only the first is surely needed
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.01, 0.01))


def test_many_edges_are_a_curve(run, tmp_path):
    many = [effect(f"m{i}->logits", 1 / (1 + i)) for i in range(60)]
    sections = Sections(minimality=minimality_of(many[::-1]))
    found = verification(sections, Circuit.load(run / "circuits/7.json"))
    write_json(tmp_path / "verification.json", found)
    (axes,) = minimality.draw([tmp_path], Options()).axes
    (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 60]
    assert list(curve.get_ydata()) == [1 / (1 + i) for i in range(60)]


# ---------------------------------------------------------------- studies


def test_transfer_has_a_cell_for_each_circuit_on_pairs_that_were_unseen(compared):
    for given in (compared, compared / "compare.json"):
        (axes,) = transfer.draw([given], Options()).axes
        assert texts(axes) == ["0.90\n[0.80, 1.10]\nrandom 0.30", "0.00\nrandom 0.30"]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["ioi", "sva"]
        assert [text.get_text() for text in axes.get_xticklabels()] == ["ioi"]
        assert axes.images[0].get_array().tolist() == [[0.9], [0.0]]


def test_stability_shows_every_pair_of_runs_and_the_votes(repeated):
    figure = stability.draw([repeated], Options())
    assert isinstance(figure, Figure)
    heat, votes = figure.axes
    assert heat.images[0].get_array().tolist()[0] == [1.0, 0.5, 0.25]
    assert texts(heat)[:3] == ["1.00", "0.50", "0.25"]
    assert [text.get_text() for text in heat.get_xticklabels()] == ["0", "1", "2"]
    assert [bar.get_height() for bar in votes.patches] == [4, 3, 12]


def test_empty_circuits_are_empty_cells(repeated, tmp_path):
    found = read_json(repeated / "stability.json", checked=True)
    found["groups"]["seed"]["jaccard"]["edges"][1] = [0.5, None, None]
    write_json(tmp_path / "stability.json", found)
    heat = stability.draw([tmp_path], Options()).axes[0]
    assert texts(heat)[3:6] == ["0.50", "", ""]


# ---------------------------------------------------------------- refusals


def refused(*arguments, **options):
    with pytest.raises(CircuitPruneError) as caught:
        write_figure(*arguments, **options)
    return str(caught.value)


def test_what_cannot_be_drawn_is_refused(run, compared, tmp_path):
    pdf = tmp_path / "x.pdf"
    assert "no figure 'pie'; there are circuit, frontier" in refused("pie", [run], pdf)
    assert "must end in .pdf, .svg, .png or .dot" in refused("circuit", [run], tmp_path / "x.jpg")
    assert "must end in .pdf, .svg, .png" in refused("frontier", [run], tmp_path / "x.dot")
    assert "is of one source or more, got 0" in refused("frontier", [], pdf)
    assert "as a list, as in [str]" in refused("frontier", str(run), pdf)
    drawn = Circuit.load(run / "circuits/40.json")
    assert "from one or more run folders; got a Circuit" in refused("frontier", [drawn], pdf)
    assert "is of one source, got 2" in refused("minimality", [run, run], pdf)
    assert "it has no frontier.json" in refused("frontier", [compared], pdf)
    assert "is not a finished run" in refused("circuit", [compared], pdf)
    assert f"`circuitprune verify {tmp_path}` first" in refused("completeness", [tmp_path], pdf)
    assert "`circuitprune stability`" in refused("stability", [compared], pdf)
    assert "`circuitprune compare --transfer`" in refused("transfer", [run / "frontier.json"], pdf)
    labels = Options(labels=["only one"])
    assert "1 label for 2 things" in refused("transfer", [compared], pdf, options=labels)
    assert not pdf.exists()


def test_damaged_evidence_is_refused(tmp_path):
    write_json(tmp_path / "verification.json", DAMAGED)
    for name in ("minimality", "completeness"):
        assert "is damaged or of another version" in refused(name, [tmp_path], tmp_path / "x.pdf")
    write_json(tmp_path / "verification.json", {"sections": {}})
    assert "has no section 'minimality'" in refused("minimality", [tmp_path], tmp_path / "x.pdf")


def test_an_empty_circuit_has_no_drawing(tmp_path):
    Circuit.from_names(Graph(1, 1, 1), []).save(tmp_path / "c.json")
    assert "keeps no edge" in refused("circuit", [tmp_path / "c.json"], tmp_path / "x.svg")


@pytest.mark.parametrize("form", ["svg", "dot"])
def test_a_circuit_is_drawn_as_its_file_is(run, tmp_path, form):
    file, paths = run / "circuits/40.json", [tmp_path / f"{name}.{form}" for name in "ab"]
    write_figure("circuit", [file], paths[0])
    write_figure("circuit", [Circuit.load(file)], paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_without_matplotlib_the_error_says_what_to_install(run, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(figures, "import_module", missing)
    with pytest.raises(RunError, match=r"pip install 'circuitprune\[figures\]'"):
        write_figure("frontier", [run], tmp_path / "x.pdf")
    assert write_figure("circuit", [run], tmp_path / "x.dot").exists()  # needs none


def test_the_command_draws_and_refuses(run, tmp_path, capsys):
    path = tmp_path / "x.svg"
    assert main(["figure", "frontier", str(run), "--labels", "mine", "-o", str(path)]) == 0
    assert str(path) in capsys.readouterr().out and path.exists()
    assert main(["figure", "transfer", str(run), "-o", str(path)]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["figure", "pie", str(run), "-o", str(path)])


def test_sentiment_shows_every_layer_and_every_token(directed):
    layers, tokens = sentiment.draw([directed], Options()).axes
    assert [one.get_text() for one in layers.get_legend().get_texts()] == [
        "whole stream",
        "mean difference",
        "random",
    ]
    whole, line, control = (one.lines[0] for one in layers.containers)
    assert whole.get_xydata().tolist() == line.get_xydata().tolist() == [[0, 0.8], [3, 0.8]]
    assert all(y != y for y in control.get_ydata())
    assert [one.get_text() for one in tokens.get_yticklabels()] == ["comma", "last"]
    restored, lost = (one for one in tokens.containers if hasattr(one, "patches"))
    assert [bar.get_width() for bar in restored] == [0.8, 0.8]
    assert [bar.get_width() for bar in lost] == [0.8, 0]
