"""Training speed and memory on short chat rows: ours beside stock TRL QLoRA, in one run.

    python -m loadtests.training                  # about 5 minutes on 2 idle cores
    python -m loadtests.training --quick          # a tiny base: proves that it runs

Each side is a process of its own with the same base, rows, rank and rows a step; they take one
step at a time, in turns. TRL's side is `SFTTrainer` with its defaults, which recompute activations
in the backward (gradient checkpointing); a second TRL side does without, which is faster and takes
more memory. Tokens/s are those of the rows: padding is work, not a result.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.fixtures.chat_rows import mean_row_tokens, write_chat_rows
from loadtests.harness.command import Report, add_base, make_parser, run_command
from loadtests.harness.training_turns import (
    SideResult,
    SideSpec,
    format_results,
    train_in_turns,
)

OURS, STOCK, UNCHECKED = "ours (packed)", "TRL, stock", "TRL, no checkpointing"


SIDES: Mapping[str, Mapping[str, Any]] = {
    OURS: {"kind": "ours", "folder": "ours", "packing": True},
    STOCK: {"kind": "trl", "folder": "stock", "checkpointing": True},
    UNCHECKED: {"kind": "trl", "folder": "unchecked"},
}


def specs_for(
    sides: Mapping[str, Mapping[str, Any]], arguments: argparse.Namespace, rows: Path, folder: Path
) -> list[SideSpec]:
    """The sides of a measurement over `rows`: what each has of its own, by name.

    Their own `folder` is under `folder`.
    """
    row_tokens = mean_row_tokens(rows, arguments.base)
    common = {
        "base": arguments.base, "rows": str(rows), "step_rows": arguments.step_rows,
        "num_steps": arguments.steps + 2, "rank": arguments.rank, "seed": arguments.seed,
        "step_tokens": math.ceil(arguments.step_rows * row_tokens),
    }  # fmt: skip
    return [
        SideSpec(name=name, **{**common, **own, "folder": str(folder / own["folder"])})
        for name, own in sides.items()
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both training measurements can be told."""
    add_base(parser)
    parser.add_argument("--steps", type=int, default=10, help="counted steps a side (%(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="rows in the data (%(default)s)")
    parser.add_argument("--step-rows", type=int, default=8, help="rows a step (%(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def measure_sides(
    arguments: argparse.Namespace, sides: Mapping[str, Mapping[str, Any]], reference: str
) -> Report:
    """Train all sides in turns and print their table, beside the side called `reference`."""
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        if arguments.quick:
            make_quick(arguments, folder)
        rows = folder / "train.jsonl"
        write_chat_rows(rows, arguments.rows, arguments.seed)
        results = train_in_turns(specs_for(sides, arguments, rows, folder), arguments.steps)
    print("\n" + format_results(results, reference))
    return report(results)


def make_quick(arguments: argparse.Namespace, folder: Path) -> None:
    """A tiny random base and three steps."""
    from tests.unit.trainer.tiny import save_tiny_base

    arguments.base = str(save_tiny_base(folder / "base"))
    arguments.steps, arguments.rows = 3, 48


def report(results: Sequence[SideResult]) -> Report:
    """What goes into the JSON file."""
    return {
        result.name: {
            "tokens_per_second": result.tokens_per_second,
            "median_tokens_per_second": result.median_tokens_per_second,
            "padding": result.padding,
            "peak_bytes": result.peak_bytes,
            "steps": len(result.steps),
        }
        for result in results
    }


def run_training(
    name: str,
    description: str,
    argv: Sequence[str] | None,
    sides: Mapping[str, Mapping[str, Any]],
    reference: str,
) -> int:
    """The command `name`, which trains `sides`. Exit status 0, or 1 when a side failed."""
    parser = make_parser(name, description, quick="a tiny base, three steps")
    add_options(parser)
    arguments = parser.parse_args(argv)
    return run_command(name, argv, arguments, lambda told: measure_sides(told, sides, reference))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when a side failed."""
    return run_training("training", __doc__ or "", argv, SIDES, STOCK)


if __name__ == "__main__":
    sys.exit(main())
