"""What packing is worth on short chat rows: packed beside padded, in one run.

    python -m loadtests.packing                  # about 3 minutes on 2 idle cores
    python -m loadtests.packing --quick          # a tiny base: proves that it runs

Two trainings by the trainer's own loop over the same rows, with as many tokens a step, one step at
a time in turns. Without packing, rows of like length share a forward, so that little is padded;
`loadtests.training` has TRL's padding of rows as they come.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.fixtures.chat_rows import mean_row_tokens, write_chat_rows
from loadtests.harness.command import Report, make_parser, run_command
from loadtests.harness.training_turns import SideSpec, format_results, train_in_turns
from loadtests.training import add_options, make_quick, report

PACKED, PADDED = "packed", "padded, like lengths together"


def measure(arguments: argparse.Namespace) -> Report:
    """Train both in turns and print their table."""
    with tempfile.TemporaryDirectory(prefix="packing-") as name:
        folder = Path(name)
        if arguments.quick:
            make_quick(arguments, folder)
        rows = folder / "train.jsonl"
        write_chat_rows(rows, arguments.rows, arguments.seed)
        step_tokens = math.ceil(arguments.step_rows * mean_row_tokens(rows, arguments.base))
        specs = [
            SideSpec(
                name=side, kind="ours", base=arguments.base, rows=str(rows),
                folder=str(folder / side.partition(",")[0]), step_tokens=step_tokens,
                step_rows=arguments.step_rows, num_steps=arguments.steps + 2, rank=arguments.rank,
                packing=side == PACKED, seed=arguments.seed,
            )
            for side in (PACKED, PADDED)
        ]  # fmt: skip
        results = train_in_turns(specs, arguments.steps)
    print("\n" + format_results(results, PADDED))
    return report(results)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when a side failed."""
    parser = make_parser("packing", __doc__ or "", quick="a tiny base, three steps")
    add_options(parser)
    return run_command("packing", argv, parser.parse_args(argv), measure)


if __name__ == "__main__":
    sys.exit(main())
