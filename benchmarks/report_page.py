"""How soon a report can be used and how large it is: `python benchmarks/report_page.py [RUN]`.

Opens reports from the disk in Chromium, each in a fresh tab, and prints the median seconds by the
page's own clock, with the least and the most: from the address until the first screen is on the
display (Chromium's largest contentful paint, which is the sentence), until all below it is painted,
and from a click on a node until its answer is. RUN is a run, verified if its evidence is to be in
the report; the others have random scores. Half a minute.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright

from circuitprune.circuits.graph import Graph
from circuitprune.files.whole import write_tensors
from circuitprune.metrics import Evidence
from circuitprune.runs.frontier import Frontier, Point, Provenance, write_results
from circuitprune.views.report import write_report

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MEASURED = dict.fromkeys(("metric", "accuracy", "exact_match", "faithfulness"), 0.9)
SMALL, STORIES, DEEP, LARGE = (
    Graph(*sizes) for sizes in ((4, 8, 8), (5, 8, 4), (30, 9, 9), (12, 12, 12))
)
CHOSEN = {DEEP: 300, LARGE: 20_000}
"""Edges of the circuit that is drawn; of the others 2 %."""
PAINTED = """new Promise((done) =>
    requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"""
"""Milliseconds since the address, once what is there by now is painted."""
SCREEN = """new Promise((done) => new PerformanceObserver((seen) => {
    const last = seen.getEntries().at(-1);
    done([last.element.id, last.startTime]);
}).observe({type: "largest-contentful-paint", buffered: true}))"""
"""The largest text of the first screen, and milliseconds from the address until it was shown."""


def main() -> None:
    """Prints one row of a table for each report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        made = {key: synthetic(Path(name), key, graph) for key, graph in shapes().items()}
        if given.run is not None:
            made[given.run.name] = write_report([given.run], Path(name) / "given.html")
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        print("| report | edges drawn | file | first screen, s | all of it, s | a click, s |")
        print("|---|---|---|---|---|---|")
        for key, report in made.items():
            drawn, *times = opened(browser, report, given.repeats)
            size = f"{report.stat().st_size / 1e6:.2f} MB"
            print("|", " | ".join((key, drawn, size, *map(spread, times))), "|")
        browser.close()


def spread(seconds: list[float]) -> str:
    """The median, and between what all lie."""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def shapes() -> dict[str, Graph]:
    """Sizes of the models whose reports are opened."""
    return {
        "zoo/small": SMALL,
        "stories260k": STORIES,
        "30 layers of 9 heads": DEEP,
        "12 layers of 12 heads": LARGE,
    }


def synthetic(folder: Path, name: str, graph: Graph) -> Path:
    """The report of a run with random scores."""
    run = folder / name.replace("/", "-")
    run.mkdir()
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(0))
    ranking = scores.abs()
    sizes = [max(1, round(share * graph.n_edges)) for share in SHARES]
    chosen = CHOSEN.get(graph, sizes[4])
    points = []
    for n in sorted({*sizes, chosen}):
        mask = ranking >= ranking.sort(descending=True).values[n - 1]
        kl = 0.01 if n >= chosen else 1.0
        points.append(Point(n / graph.n_edges, mask, Evidence(kl=kl, n=64, **MEASURED)))
    about: Provenance = {
        "model": name,
        "task": "ioi",
        "ablation": "patch",
        "metric": "logit_diff",
        "split": "test",
        "init": "eap",
        "learner": None,
    }
    full, empty = (Evidence(kl=kl, n=64, **MEASURED) for kl in (0.0, 2.0))
    write_results(run, Frontier(graph, about, full, empty, points), scores, ranking, "made up")
    write_tensors(run / "scores.safetensors", {"scores": scores})
    return write_report([run])


def opened(
    browser: Browser, report: Path, repeats: int
) -> tuple[str, list[float], list[float], list[float]]:
    """What the page says it drew; seconds of the first screen, of all, and of an answered click."""
    screens, wholes, clicks = [], [], []
    for _ in range(repeats):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(report.as_uri())
        page.locator("main:not([aria-busy])").wait_for()
        wholes.append(page.evaluate(PAINTED) / 1000)
        page.wait_for_load_state("networkidle")
        shown, screen = page.evaluate(SCREEN)
        if shown != "sentence":
            raise RuntimeError(f"the largest text of the first screen is #{shown}")
        screens.append(screen / 1000)
        drawn = page.locator("#drawn").inner_text().split(" edges")[0]
        node = page.locator("#drawing .node:not(.cut)").last
        start = node.evaluate(
            """(node) => { const start = performance.now();
            node.dispatchEvent(new MouseEvent("click", {bubbles: true})); return start; }"""
        )
        clicks.append((page.evaluate(PAINTED) - start) / 1000)
        if not page.locator("#node h3").is_visible():
            raise RuntimeError("the click was not answered when the page had painted again")
        page.close()
    return drawn, screens, wholes, clicks


if __name__ == "__main__":
    main()
