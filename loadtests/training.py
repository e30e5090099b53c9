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
from collections.abc import Sequence
from pathlib import Path

from loadtests.fixtures.chat_rows import mean_row_tokens, write_chat_rows
from loadtests.harness.command import Report, add_base, make_parser, run_command
from loadtests.harness.training_turns import (
    SideResult,
    SideSpec,
    format_results,
    train_in_turns,
)

OURS, STOCK, UNCHECKED = "ours (packed)", "TRL, stock", "TRL, no checkpointing"


def specs_for(arguments: argparse.Namespace, rows: Path, folder: Path) -> list[SideSpec]:
    """The sides of this measurement over `rows`, with their files under `folder`."""
    num_steps = arguments.steps + 2
    common = {
        "base": arguments.base, "rows": str(rows), "step_rows": arguments.step_rows,
        "num_steps": num_steps, "rank": arguments.rank, "seed": arguments.seed,
        "step_tokens": math.ceil(arguments.step_rows * arguments.row_tokens),
    }  # fmt: skip
    return [
        SideSpec(name=OURS, kind="ours", folder=str(folder / "ours"), packing=True, **common),
        SideSpec(
            name=STOCK, kind="trl", folder=str(folder / "stock"), checkpointing=True, **common
        ),
        SideSpec(name=UNCHECKED, kind="trl", folder=str(folder / "unchecked"), **common),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both training measurements can be told; `measure` adds `row_tokens`."""
    add_base(parser)
    parser.add_argument("--steps", type=int, default=10, help="counted steps a side (%(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="rows in the data (%(default)s)")
    parser.add_argument("--step-rows", type=int, default=8, help="rows a step (%(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def measure(arguments: argparse.Namespace) -> Report:
    """Train all sides in turns and print their table."""
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        if arguments.quick:
            make_quick(arguments, folder)
        rows = folder / "train.jsonl"
        write_chat_rows(rows, arguments.rows, arguments.seed)
        arguments.row_tokens = mean_row_tokens(rows, arguments.base)
        results = train_in_turns(specs_for(arguments, rows, folder), arguments.steps)
    print("\n" + format_results(results, STOCK))
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


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when a side failed."""
    parser = make_parser("training", __doc__ or "", quick="a tiny base, three steps")
    add_options(parser)
    return run_command("training", argv, parser.parse_args(argv), measure)


if __name__ == "__main__":
    sys.exit(main())
