"""The figures of a store's size, on a small one."""

from pathlib import Path

from loadtests.program_kills import parse_arguments as parse_programs
from loadtests.replace_under_load import parse_arguments as parse_replace
from loadtests.store_kills import parse_arguments as parse_kills
from loadtests.store_scale import measure_store, parse_arguments


def test_each_file_is_read_once_and_a_change_reads_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    figures = measure_store(tmp_path / "store", tmp_path / "scratch", 5, 0.0)
    assert figures["files_first"] == 10, "an alias and a manifest for each"
    assert figures["files_by_refresh"] == 2


def test_the_command_lines() -> None:
    assert parse_arguments([]).adapters == (10, 100, 1000)
    assert parse_arguments(["--quick"]).adapters == (10, 100)
    assert parse_replace([]).replacements == 50
    assert parse_replace(["--quick"]).replacements == 5
    assert parse_kills([]).kills == 100
    assert parse_programs([]).kills == 30
    assert parse_programs(["--quick"]).kills == 3
