"""The command line: parse, call one function, print."""

import argparse
import sys
from pathlib import Path

from circuitprune.config import load_config
from circuitprune.errors import CircuitPruneError
from circuitprune.run import discover, dry_run


def main(arguments: list[str] | None = None) -> int:
    """`circuitprune train CONFIG [key=value ...] [--dry-run]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="circuitprune", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands.add_parser("train", help="learn, verify and export a circuit"))
    return _run(parser.parse_args(arguments))


def train_main(arguments: list[str] | None = None) -> int:
    """`python scripts/train_mask.py CONFIG [key=value ...] [--dry-run]`."""
    parser = argparse.ArgumentParser(description="Learn, verify and export a circuit.")
    add_train(parser)
    return _run(parser.parse_args(arguments))


def add_train(parser: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    parser.add_argument("config", help="a yaml file, such as configs/ioi.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.steps=500")
    parser.add_argument(
        "--dry-run", action="store_true", help="describe model, pairs and memory, then stop"
    )


def _run(options: argparse.Namespace) -> int:
    try:
        config = load_config(options.config, options.overrides)
        if options.dry_run:
            print(dry_run(config))
            return 0
        command = " ".join(["python scripts/train_mask.py", options.config, *options.overrides])
        discover(config, command=command)
    except CircuitPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit):  # Lightning turns both signals into a SystemExit
        print("interrupted; continue with train.resume=<checkpoints/last.ckpt>", file=sys.stderr)
        return 130
    folder = Path(config.output_dir)
    print((folder / "summary.md").read_text())
    print(f"circuits     {folder / 'circuits'}\nsummary      {folder / 'summary.md'}")
    print(f"TensorBoard  tensorboard --logdir {folder}")
    return 0
