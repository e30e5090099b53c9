"""What the measuring commands share: their common options, how they end, what they print."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.errors import AdapterError
from loadtests.harness.http_client import HttpClientError
from loadtests.harness.server_process import ServerStartError
from server.core.errors import SwitchyardError

Report = dict[str, Any]

_DEFAULT_BASE = "embedded:smollm2-135m-instruct"


class MeasurementError(Exception):
    """This measurement can't be made here or came to nothing; the message says why."""


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m loadtests.NAME`, without options."""
    return argparse.ArgumentParser(
        prog=f"python -m loadtests.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def make_parser(name: str, description: str, *, quick: str) -> argparse.ArgumentParser:
    """A parser with `--quick` (explained by `quick`) and `--json`."""
    parser = command_parser(name, description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    return parser


def make_server_parser(name: str, description: str, *, quick: str) -> argparse.ArgumentParser:
    """The same with `--base` and `--server-arg`, for what starts a server of ours."""
    parser = make_parser(name, description, quick=quick)
    add_base(parser)
    add_server_arg(parser)
    return parser


def add_base(parser: argparse.ArgumentParser) -> None:
    """`--base`."""
    parser.add_argument(
        "--base", default=_DEFAULT_BASE, metavar="REF",
        help="embedded:NAME, a folder, or a hub id (%(default)s)",
    )  # fmt: skip


def add_server_arg(parser: argparse.ArgumentParser) -> None:
    """`--server-arg`."""
    parser.add_argument(
        "--server-arg", action="append", default=[], metavar="ARG",
        help="passed on to our server, e.g. --server-arg=--head-format=int8; may be repeated",
    )  # fmt: skip


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """`--workdir`."""
    parser.add_argument(
        "--workdir", type=Path, default=Path("var"), metavar="DIR",
        help="where a folder for large files is made, and deleted at the end (%(default)s)",
    )  # fmt: skip


def whole_numbers(text: str) -> tuple[int, ...]:
    """An argparse type: `64,128` to (64, 128). Raises `ArgumentTypeError`."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a list such as 64,128") from None
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} holds a number below 1")
    return numbers


def run_command(
    name: str,
    argv: Sequence[str] | None,
    arguments: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Report],
) -> int:
    """Measure, then print the command line and write the report. Returns the exit status.

    1 with one message when the measurement failed; `measure` prints its own tables.
    """
    command = command_line(name, sys.argv[1:] if argv is None else argv)
    print(f"{command}\n{os.cpu_count()} CPU cores", flush=True)
    try:
        report = measure(arguments)
    except (
        AdapterError, HttpClientError, MeasurementError, OSError, ServerStartError, SwitchyardError,
    ) as error:  # fmt: skip
        print(f"the measurement failed: {error}", file=sys.stderr)
        return 1
    print(f"\n{command}")
    if arguments.json is not None:
        write_json(arguments.json, {"command": command, "cpu_cores": os.cpu_count(), **report})
    return 0


def command_line(name: str, argv: Sequence[str]) -> str:
    """How to run this again."""
    return shlex.join(("python", "-m", f"loadtests.{name}", *argv))


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write the report, and say where."""
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")
