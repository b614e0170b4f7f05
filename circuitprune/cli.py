"""The command line: parse, call one function, print.

A command imports what it runs only when it runs it: `--help`, a typo or a missing file answers
before torch is loaded.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper
from pathlib import Path

from circuitprune.config import RunConfig
from circuitprune.data.checks import nearest
from circuitprune.data.own import is_own, user_object
from circuitprune.data.tasks import JsonlTask, get_task
from circuitprune.errors import DataError
from circuitprune.files.text import show
from circuitprune.pipelines.commands import (
    add_convert,
    add_export,
    add_figure,
    add_finetune,
    add_mib,
    add_part_edges,
    add_sentiment,
    add_tracking,
)
from circuitprune.runs.launched import refuse_several
from circuitprune.runs.settings import load_config
from circuitprune.runs.stopping import stoppable
from circuitprune.views.arguments import (
    COUNT,
    FRACTION,
    RUNS,
    Parser,
    add_overrides,
    file_first,
    parse,
    refuse_nowhere,
    typed,
    with_option,
)
from circuitprune.views.failure import installed_version, told
from circuitprune.views.settings import HOW_TO_COMPLETE, completion, settings_text

ABOUT = "Finds circuits in language models: COMMAND --help says what each command takes."
AsWritten = argparse.RawDescriptionHelpFormatter


def main(arguments: list[str] | None = None) -> int:
    """`circuitprune COMMAND ...` of `COMMANDS`; returns the exit code."""
    last, arguments = arguments is None, sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog="circuitprune", description=ABOUT)
    version = f"circuitprune {installed_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (about, add) in COMMANDS.items():
        command = commands.add_parser(name, help=about, formatter_class=AsWritten)
        if name in arguments:  # the others' arguments, some of which take imports, are not asked
            add(command)
    named = next((one for one in arguments if not one.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        parser.error(f"no command {named!r}; {nearest(named, list(COMMANDS))}")
    return _run(parse(parser, arguments), last)


def script_main(name: str, arguments: list[str] | None = None) -> int:
    """`python scripts/<name>.py ...`: one command by itself; returns the exit code."""
    about, add = COMMANDS[name]
    description = f"{about[0].upper()}{about[1:]}."
    parser = Parser(description=description, formatter_class=AsWritten)
    add(parser)
    return _run(parse(parser, arguments), arguments is None)


train_main = partial(script_main, "train")
attribute_main = partial(script_main, "attribute")
compare_main = partial(script_main, "compare-scores")


def add_train(parser: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    _add_run(parser)
    hint = "the same command with train.resume=auto goes on"
    parser.set_defaults(command=_train, hint=hint, shares=True)


def add_attribute(parser: argparse.ArgumentParser) -> None:
    """The arguments of `attribute`."""
    _add_run(parser)
    about = "patch the N edges of largest |score| exactly: attribution.verify_top=N"
    parser.add_argument("--verify-top", type=COUNT, metavar="N", help=about)
    hint = "the same command goes on from here"
    parser.set_defaults(command=_attribute, hint=hint, shares=True)


def add_check(parser: argparse.ArgumentParser) -> None:
    """The arguments of `check`."""
    parser.add_argument("pairs", type=file_first, help="a .jsonl or .csv file, see docs/data.md")
    parser.add_argument("model", nargs="?", help="whose tokenizer it is for (zoo/small)")
    add_overrides(parser, "such as task.n_train=0.5; half to train on and half held out without")
    parser.set_defaults(command=_check, hint="nothing was written")


def add_stability(parser: argparse.ArgumentParser) -> None:
    """The arguments of `stability`."""
    _add_config(parser)
    parser.add_argument("--seeds", type=RUNS, default=5, help="runs with other seeds (5)")
    about = "attributions of resampled training pairs (0)"
    parser.add_argument("--bootstrap", type=RUNS, default=0, help=about)
    parser.add_argument("--attribute", action="store_true", help="no training in any run")
    seeds = ("both", "train", "task")
    parser.add_argument("--vary", choices=seeds, default="both", help="which seeds differ (both)")
    parser.add_argument("--size", type=FRACTION, help="fraction of edges to compare at")
    parser.set_defaults(command=_stability, hint="the same command goes on from here", shares=True)


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare`."""
    parser.add_argument("circuits", nargs="+", help="run folders or circuit files of one graph")
    parser.add_argument("--transfer", action="store_true", help="verify each on each run's pairs")
    parser.add_argument("--size", type=FRACTION, help="fraction of edges to compare at")
    parser.add_argument("--random", type=COUNT, default=20, help="random circuits beside them (20)")
    parser.add_argument("--output-dir", default="runs/compare", help="where compare.json goes")
    parser.set_defaults(command=_transfer, hint="the same command goes on from here")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verify`."""
    parser.add_argument("folder", help="the output_dir of a finished run, such as runs/ioi")
    add_overrides(parser, "such as n_bootstrap=2000 or seed=1")
    parser.add_argument("--circuit", help="file of another circuit than the run's chosen one")
    about = "also drop dispensable edges: circuits/minimal.json"
    parser.add_argument("--minimise", action="store_true", help=about)
    parser.set_defaults(command=_verify, hint="the same command goes on from here", shares=True)


def add_refine(parser: argparse.ArgumentParser) -> None:
    """The arguments of `refine`."""
    parser.add_argument("folder", help="the output_dir of a finished run, such as runs/ioi")
    add_overrides(parser, "such as refinement.tries=64")
    parser.add_argument("-o", "--output", help="folder of the refined run (runs/ioi_refined)")
    parser.set_defaults(command=_refine, hint="the same command goes on from here", shares=True)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare-scores`."""
    about = "a run folder, a scores.safetensors, or a circuit with scores"
    parser.add_argument("scores", nargs="+", help=about)
    parser.add_argument("--top", type=FRACTION, default=0.05, help="fraction of edges (0.05)")
    parser.set_defaults(command=_compare, hint="nothing was written")


def add_report(parser: argparse.ArgumentParser) -> None:
    """The arguments of `report`."""
    parser.add_argument(
        "runs",
        nargs="+",
        help="run folders, the first one's circuit is drawn; also folders of stability and compare",
    )
    parser.add_argument("-o", "--output", help="the file (report.html in the first folder)")
    parser.set_defaults(command=_report, hint="nothing was written")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """The arguments of `completion`."""
    parser.epilog = HOW_TO_COMPLETE
    parser.set_defaults(command=_completion, hint="nothing was written")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "check": ("say what becomes of a file of pairs, without running a model", add_check),
    "convert": ("make a file of pairs of one of EAP-IG, MIB or Edge-Pruning", add_convert),
    "train": ("learn, verify and export a circuit", add_train),
    "attribute": ("score the edges, verify and export circuits of the best", add_attribute),
    "stability": ("run with several seeds and pairs, and compare the circuits", add_stability),
    "compare": ("what circuits share, and what each does on other tasks", add_transfer),
    "refine": ("exchange edges of a run's circuits by exact runs", add_refine),
    "verify": ("gather the evidence for the circuit of a run", add_verify),
    "compare-scores": ("how far scores of the same edges agree", add_compare),
    "part-edges": ("how a run's nodes, neurons or features move each other", add_part_edges),
    "finetune": ("tune a copy of a model on a task", add_finetune),
    "tracking": ("find the heads that track entities, and what tuning made of them", add_tracking),
    "sentiment": ("find the direction of sentiment, and the tokens that hold it", add_sentiment),
    "report": ("write what runs found as one HTML file", add_report),
    "figure": ("draw one figure for a paper", add_figure),
    "export": ("write a circuit for MIB, Edge-Pruning, a spreadsheet or Graphviz", add_export),
    "mib": ("write runs as a submission to MIB, with its table of CPR and CMD", add_mib),
    "completion": ("print what makes a shell complete commands and settings", add_completion),
}
"""Commands by name, with what they do and their arguments: one line for each.

`add` of a command puts its arguments into a parser and, by `set_defaults`, two more: `command`,
which takes the parsed options and returns the exit code, and `hint`, what Ctrl-C says to do next.
Where processes of torchrun share the work there is `shares`; other commands refuse to run in many.
"""


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="describe model, pairs and memory, then stop"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    about = "a yaml file, or the name of a shipped one, such as ioi; the defaults without"
    parser.add_argument("config", nargs="?", help=about)
    add_overrides(parser, "such as train.steps=500")
    parser.epilog = settings_text()


def _run(options: argparse.Namespace, last: bool) -> int:
    """The command, and the one place where whatever ends it becomes words and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe sees each line when it is said
    try:
        with stoppable(last):
            refuse_nowhere()
            if not getattr(options, "shares", False) or getattr(options, "dry_run", False):
                refuse_several()
            return int(options.command(options))
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code, message = told(error, options.hint)
        show(message, error=True)
        return code


def _config(options: argparse.Namespace) -> RunConfig:
    """The settings, once the user's own files that they name are read, before torch is."""
    config = load_config(options.config, options.overrides)
    if config.task.path is not None or is_own(config.task.name):
        get_task(config.task.name, config.task.path)
    for name in filter(is_own, (config.task.metric, config.attribution.method)):
        user_object(name)
    return config


def _train(options: argparse.Namespace) -> int:
    config = _config(options)
    from circuitprune.pipelines.together import discover_together, dry_run_together
    from circuitprune.pipelines.train import discover, dry_run

    several = bool(config.tasks)
    if options.dry_run:
        show((dry_run_together if several else dry_run)(config))
        return 0
    found = (discover_together if several else discover)(config, command=typed("train", options))
    return 0 if found is None else _show(config)


def _attribute(options: argparse.Namespace) -> int:
    options.overrides = with_option(options.overrides, "attribution.verify_top", options.verify_top)
    config = _config(options)
    from circuitprune.pipelines.attribute import attribute, dry_run_attribute

    if options.dry_run:
        show(dry_run_attribute(config))
        return 0
    frontier = attribute(config, command=typed("attribute", options))
    return 0 if frontier is None else _show(config)


def _check(options: argparse.Namespace) -> int:
    overrides = with_option(options.overrides, "model.name", options.model)
    config, pairs = load_config(None, overrides), JsonlTask(options.pairs)
    from circuitprune.pipelines.check import check

    show((found := check(config, pairs, options.overrides)).page())
    return 0 if found.kept is not None else DataError.exit_code


def _stability(options: argparse.Namespace) -> int:
    config = _config(options)
    from circuitprune.pipelines.stability import stability

    how = (options.seeds, options.bootstrap, options.attribute, options.vary, options.size)
    if stability(config, *how) is not None:  # else another process of torchrun tells it
        show((Path(config.output_dir) / "stability.md").read_text(encoding="utf-8"))
    return 0


def _transfer(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.compare import compare
    from circuitprune.views.pages.studies import compare_page

    folder = Path(options.output_dir)
    found = compare(options.circuits, options.transfer, options.size, options.random, folder)
    show(f"{compare_page(found)}\n\nwritten      {folder / 'compare.json'}")
    return 0


def _refine(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.refine import refine_run

    output = refine_run(options.folder, options.overrides, options.output)
    if output is not None:
        show((output / "summary.md").read_text(encoding="utf-8"))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.verify import verify_run

    found = verify_run(options.folder, options.overrides, options.circuit, options.minimise)
    if found is None:  # another process of torchrun tells it
        return 0
    folder = Path(options.folder)
    show((folder / "verification.md").read_text(encoding="utf-8"))
    for name, file in (("page", "md"), ("numbers", "json")):
        show(f"{name:9} {folder / f'verification.{file}'}")
    show(f"report    {folder / 'report.html'}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from circuitprune.pipelines.compare_scores import comparison

    show(comparison(options.scores, options.top))
    return 0


def _report(options: argparse.Namespace) -> int:
    from circuitprune.views.report import write_report

    show(f"report       {write_report(options.runs, options.output)}")
    return 0


def _completion(_: argparse.Namespace) -> int:
    show(completion(COMMANDS))
    return 0


def _show(config: RunConfig) -> int:
    folder = Path(config.output_dir)
    show((folder / "summary.md").read_text(encoding="utf-8"))
    show(f"circuits     {folder / 'circuits'}\nsummary      {folder / 'summary.md'}")
    show(f"TensorBoard  {shlex.join(['tensorboard', '--logdir', str(folder)])}")
    show(f"report       {folder / 'report.html'}")
    return 0
