"""Commands that make no run of circuits, from figures to fine-tuning. As `cli`, import late."""

import argparse
from pathlib import Path

from circuitprune.files.text import line, show
from circuitprune.views.arguments import (
    AT_LEAST_1,
    FRACTION,
    INCHES,
    LEAST,
    add_overrides,
    file_first,
    typed,
)


def add_convert(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convert`."""
    from circuitprune.data.foreign import FORMATS

    parser.epilog = "formats\n  " + "\n  ".join(
        f"{name:12}  {form.about}" for name, form in FORMATS.items()
    )
    parser.add_argument("file", help="CSV if it is called so, else JSON objects")
    parser.add_argument("-o", "--output", required=True, help="the .jsonl file of pairs to write")
    known = ("auto", *FORMATS)
    parser.add_argument("--format", choices=known, default="auto", help="see below (auto)")
    parser.add_argument("--model", help="whose tokenizer the token ids in the file are of")
    about = "which corrupt prompt: the tool's default one, a name, or all (default)"
    parser.add_argument("--counterfactual", default="default", help=about)
    about = "leave out the rows that give no pair"
    parser.add_argument("--skip-wrong", action="store_true", help=about)
    parser.set_defaults(command=_convert, hint="nothing was written")


def add_mib(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mib`."""
    about = "a finished run; or RUN=TASK_MODEL, where its cell is not known by its task and model"
    parser.add_argument("runs", nargs="+", help=about)
    parser.add_argument("-o", "--output", default="runs/mib", help="the folder (runs/mib)")
    about = "nine circuits a cell instead of importances"
    parser.add_argument("--circuits", action="store_true", help=about)
    about = "write the files alone; load no model"
    parser.add_argument("--no-table", action="store_true", help=about)
    parser.set_defaults(command=_mib, hint="the same command does it again")


def add_figure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `figure`."""
    from circuitprune.views.figures import FIGURES

    parser.epilog = "; ".join(f"{name}: {about}" for name, about in FIGURES.items())
    parser.add_argument("figure", choices=FIGURES, help="what to draw")
    parser.add_argument("sources", nargs="+", help="run folders or files, see below")
    parser.add_argument("-o", "--output", required=True, help="a .pdf, .svg, .png or .dot file")
    parser.add_argument("--width", type=INCHES, help="inches (3.35, a column, or as needed)")
    parser.add_argument("--labels", nargs="+", default=(), help="names in place of the folders'")
    parser.add_argument("--size", type=FRACTION, help="circuit: fraction of edges, such as 0.01")
    nodes = ("auto", "all", "kept")
    parser.add_argument("--nodes", choices=nodes, default="auto", help="circuit: which are drawn")
    parser.set_defaults(command=_figure, hint="nothing was written")


def add_export(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    from circuitprune.pipelines.export import EXPORTS

    parser.add_argument("circuit", help="a run folder, whose chosen circuit it is, or a file")
    parser.add_argument("-o", "--output", required=True, help="the file to write")
    parser.add_argument("--format", choices=EXPORTS, default="mib", help="what to write (mib)")
    parser.add_argument("--size", type=FRACTION, help="of a run: fraction of edges, such as 0.01")
    parser.set_defaults(command=_export, hint="nothing was written")


def add_part_edges(parser: argparse.ArgumentParser) -> None:
    """The arguments of `part-edges`."""
    parser.add_argument("folder", help="a finished run with gates on nodes, neurons or features")
    parser.add_argument("--circuit", help="file of another circuit than the run's chosen one")
    about = "runs behind each gradient; 1 takes the clean run's (10)"
    parser.add_argument("--steps", type=AT_LEAST_1, default=10, help=about)
    about = "least effect that is told, in the task metric's unit (0.01)"
    parser.add_argument("--threshold", type=LEAST, default=0.01, help=about)
    parser.add_argument("-o", "--output", help="a CSV file for all of them")
    parser.set_defaults(command=_part_edges, hint="nothing was written")


def _part_edges(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.part_edges import edges_of_run

    about = dict(steps=options.steps, threshold=options.threshold, output=options.output)
    edges_of_run(options.folder, options.circuit, **about)
    if options.output:
        show(f"\nedges        {line(options.output)}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from circuitprune.data.foreign import Wanted
    from circuitprune.pipelines.convert import account, converted

    wanted = Wanted(options.counterfactual)
    found = converted(
        options.file, options.output, wanted, options.format, options.model, options.skip_wrong
    )
    show(account(found))
    show(f"written   {line(options.output)}\ncheck     circuitprune check {line(options.output)}")
    return 0


def _mib(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.mib import submit
    from circuitprune.views.pages.mib import mib_page

    found = submit(options.runs, options.output, options.circuits, not options.no_table)
    show(f"{mib_page(found)}\n\nwritten      {line(options.output)}/submission, mib.json, mib.md")
    return 0


def _figure(options: argparse.Namespace) -> int:
    from circuitprune.views.figures import Options, write_figure

    about = Options(options.width, options.labels, options.size, options.nodes)
    show(f"figure       {write_figure(options.figure, options.sources, options.output, about)}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.export import export

    path = export(options.circuit, options.output, options.format, options.size)
    show(f"circuit      {path}")
    return 0


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """The arguments of `finetune`."""
    from circuitprune.pipelines.tune_config import TuneConfig
    from circuitprune.views.settings import settings_text

    about = "a yaml file, or the name of a shipped one, such as tuning/boxes; else the defaults"
    parser.add_argument("config", nargs="?", help=about)
    add_overrides(parser, "such as last_layers=2")
    parser.epilog = settings_text(TuneConfig)
    parser.set_defaults(command=_finetune, hint="the same command with train.resume=auto goes on")


def _finetune(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.tune_config import load_tune_config

    config = load_tune_config(options.config, options.overrides)
    from circuitprune.pipelines.tune import MODEL, finetune

    finetune(config, command=typed("finetune", options))
    show(f"model        {Path(config.output_dir) / MODEL}")
    return 0


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tracking`."""
    from circuitprune.pipelines.tracking import TrackingConfig
    from circuitprune.views.settings import settings_text

    parser.add_argument(
        "model", type=file_first, help="that does task boxes: a name, a folder or a hub id"
    )
    add_overrides(parser, "such as n_paths=100")
    parser.add_argument("--base", help="the model that it was tuned from")
    parser.add_argument("--output-dir", default="runs/tracking", help="where tracking.json goes")
    parser.epilog = settings_text(TrackingConfig)
    parser.set_defaults(command=_tracking, hint="nothing was written")


def _tracking(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.tracking import read_tracking, track

    folder = Path(options.output_dir)
    track(options.model, options.base, read_tracking(options.overrides), folder)
    show(f"numbers      {folder / 'tracking.json'}")
    return 0


def add_sentiment(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sentiment`."""
    from circuitprune.pipelines.sentiment import SentimentConfig
    from circuitprune.views.settings import settings_text

    parser.add_argument("model", type=file_first, help="a name, a folder or a hub id")
    add_overrides(parser, "such as n_test=16")
    parser.add_argument("--output-dir", default="runs/sentiment", help="where sentiment.json goes")
    parser.epilog = settings_text(SentimentConfig)
    parser.set_defaults(command=_sentiment, hint="nothing was written")


def _sentiment(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.sentiment import read_sentiment, track_sentiment

    folder = Path(options.output_dir)
    track_sentiment(options.model, read_sentiment(options.overrides), folder)
    show(f"numbers      {folder / 'sentiment.json'}")
    return 0
