"""How a measuring command ends: its command line, its JSON, and one message when it fails."""

import argparse
import json
from pathlib import Path

import pytest

from loadtests.harness.command import MeasurementError, command_line, make_parser, run_command


def arguments(*argv: str) -> argparse.Namespace:
    return make_parser("some_name", "What it is.", quick="less").parse_args(argv)


def test_the_report_is_written_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a b.json"
    argv = ["--json", str(target)]
    assert run_command("some_name", argv, arguments(*argv), lambda _: {"value": 3}) == 0
    report = json.loads(target.read_text())
    assert report["value"] == 3
    assert report["command"] == command_line("some_name", argv)
    assert f"python -m loadtests.some_name --json '{target}'" in capsys.readouterr().out


def test_a_failed_measurement_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(_: argparse.Namespace) -> dict[str, object]:
        raise MeasurementError("nothing ran")

    assert run_command("some_name", [], arguments(), measure) == 1
    assert capsys.readouterr().err == "the measurement failed: nothing ran\n"
