"""`--help` and `--version` of every command, at 80 columns."""

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import adapters.commands.cli
import server.cli
import trainer.cli

APPS = {
    "server": server.cli._APP,
    "trainer": trainer.cli.app,
    "adapters": adapters.commands.cli.app,
}


def _commands(name: str, command: Any) -> list[tuple[tuple[str, ...], Any]]:
    found = [((name,), command)]
    for word, child in getattr(command, "commands", {}).items():
        found += [((name, *path), inner) for path, inner in _commands(word, child)]
    return found


COMMANDS = [
    pytest.param(path, command, id=" ".join(path))
    for name, app in APPS.items()
    for path, command in _commands(name, typer.main.get_command(app))
]


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_all_commands_are_looked_at() -> None:
    paths = {" ".join(param.values[0]) for param in COMMANDS}  # type: ignore[arg-type]
    assert {"server", "server keys new", "trainer run", "adapters quarantine restore"} <= paths


@pytest.mark.parametrize(("path", "command"), COMMANDS)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_is_whole(path: tuple[str, ...], command: Any, columns: str) -> None:
    result = CliRunner().invoke(
        APPS[path[0]], [*path[1:], "--help"], env={"COLUMNS": columns, "TERMINAL_WIDTH": columns}
    )
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "…" not in result.output
    told = _bare(result.output)
    assert _bare(command.help) in told
    for child in getattr(command, "commands", {}).values():
        first = re.split(r"\.\s|\n\n|\.$", child.help.strip())[0]
        assert _bare(first) in told
    for param in command.params:
        for name in (*param.opts, *param.secondary_opts):
            assert param.param_type_name == "argument" or name in told
        assert _bare(getattr(param, "help", None) or "") in told


@pytest.mark.parametrize("path", [["server"], ["server", "keys"], ["trainer"], ["adapters"]])
def test_version(path: list[str]) -> None:
    result = CliRunner().invoke(APPS[path[0]], [*path[1:], "--version"])
    assert (result.exit_code, result.output) == (0, "switchyard 0.1.0\n")
