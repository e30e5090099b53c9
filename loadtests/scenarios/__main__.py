"""Load of one kind on a server of our own, with every answer checked.

    python -m loadtests.scenarios zipf --minutes 2 --out var/zipf
    python -m loadtests.scenarios mixed --minutes 30 --kill-every 120     (chaos)

Greedy answers under load must be those that the idle server gave. Afterwards nothing may be held:
no KV block, no adapter pin, no file; memory must be flat, and SIGTERM must end the server with 0.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.harness.command import (
    MeasurementError,
    Report,
    add_base,
    add_server_arg,
    run_command,
)
from loadtests.harness.report import format_table
from loadtests.scenarios.catalogue import SCENARIOS
from loadtests.scenarios.page import summary_rows, write_page
from loadtests.scenarios.run import Plan, ScenarioRun

_MAX_PRINTED = 20


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.scenarios",
        description=str(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:14} {s.description}" for name, s in SCENARIOS.items()),
    )
    parser.add_argument("scenario", choices=tuple(SCENARIOS))
    parser.add_argument("--minutes", type=float, default=1.0, help="of load (%(default)s)")
    parser.add_argument(
        "--kill-every", type=float, metavar="SECONDS",
        help="kill -9 the server and start it again, so often on average",
    )  # fmt: skip
    parser.add_argument("--rank", type=int, default=8, help="of the adapters (%(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="per answer (%(default)s)")
    parser.add_argument("--prompts", type=int, default=3, help="for each adapter (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (%(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep report.html, report.png and records there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the verdict there")
    add_base(parser)
    add_server_arg(parser)
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> Report:
    """Run, print, draw. Raises `MeasurementError` when a problem was found."""
    plan = Plan(
        scenario=SCENARIOS[arguments.scenario],
        base=arguments.base,
        minutes=arguments.minutes,
        kill_every_seconds=arguments.kill_every,
        rank=arguments.rank,
        max_tokens=arguments.tokens,
        num_prompts=arguments.prompts,
        server_args=tuple(arguments.server_arg),
        seed=arguments.seed,
    )
    with tempfile.TemporaryDirectory(prefix="switchyard-load-") as scratch:
        folder = Path(scratch)
        verdict = ScenarioRun(plan, folder).run()
        print(f"{arguments.scenario}: {plan.scenario.description}; {plan.minutes:g} minutes")
        print(format_table(("what", "figure"), summary_rows(verdict)))
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            title = f"{arguments.scenario}: {plan.scenario.description}"
            print(f"written to {write_page(verdict, title, arguments.out)}")
            for name in ("records.jsonl", "server.log", "load.log"):
                (arguments.out / name).write_bytes((folder / name).read_bytes())
        if verdict.problems:
            shown = "\n".join(f"- {text}" for text in verdict.problems[:_MAX_PRINTED])
            raise MeasurementError(f"{len(verdict.problems)} problems:\n{shown}")
        return verdict.as_report()


def main(argv: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong."""
    return run_command("scenarios", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
