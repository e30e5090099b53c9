"""Variables and keys that nobody reads are refused, each with the nearest that is read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import adapters.commands.cli
import server.cli
import trainer.cli
from adapters.environment import COMMAND_VARIABLES, misspelt_variables
from server.configuration import ServerConfig, load_config
from server.core.errors import ConfigurationError


def test_unknown_keys_and_variables_are_told_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("kv-cache-gib: 2\nlog_prompt: true\nport: 99999\nzzzzzzzz: 1\n")
    environment = {"SWITCHYARD_KV_CACHE_GB": "1", "SWITCHYARD_QQQQQQ": "1", "Switchyard_Port": "1"}
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, environment, {})
    told = str(caught.value)
    for part in (
        "kv-cache-gib = 2: there is no such setting; did you mean kv_cache_gib?",
        "log_prompt = True: there is no such setting; did you mean log_prompts?",
        "port = 99999",
        "zzzzzzzz = 1: there is no such setting",
        "SWITCHYARD_KV_CACHE_GB: there is no such variable; did you mean SWITCHYARD_KV_CACHE_GIB?",
        "SWITCHYARD_QQQQQQ: there is no such variable",
        "Switchyard_Port: there is no such variable; did you mean SWITCHYARD_PORT?",
    ):
        assert part in told
    assert len(caught.value.problems) == 7


def test_a_variable_alone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean SWITCHYARD_STORE"):
        load_config(None, {"SWITCHYARD_STOER": "x"}, {})


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nhost: localhost\nport: 2\n")
    with pytest.raises(ConfigurationError, match=r"port: given twice \(line 3\)"):
        load_config(file, {}, {})


def test_everything_that_is_read_is_known() -> None:
    names = {name.upper() for name in ServerConfig.model_fields} | COMMAND_VARIABLES
    values = {"SWITCHYARD_PORT": "1", "SWITCHYARD_CACHE": "/x", "SWITCHYARD_RUNS": "r"}
    assert load_config(None, {**values, "PATH": "/bin"}, {}).port == 1
    environment = {f"SWITCHYARD_{name}": "1" for name in names}
    assert misspelt_variables(environment) == [], "a server's setting is no mistake to the others"


@pytest.mark.parametrize(
    ("app", "words", "variable", "nearest"),
    [
        (adapters.commands.cli.app, ["ls"], "SWITCHYARD_STOR", "SWITCHYARD_STORE"),
        (adapters.commands.cli.app, ["quarantine", "ls"], "SWITCHYARD_STOER", "SWITCHYARD_STORE"),
        (trainer.cli.app, ["schema"], "SWITCHYARD_RUN", "SWITCHYARD_RUNS"),
        (server.cli._APP, ["keys", "ls"], "SWITCHYARD_KEY_FILE", "SWITCHYARD_KEYS_FILE"),
        (server.cli._APP, [], "SWITCHYARD_KEY_FILE", "SWITCHYARD_KEYS_FILE"),
    ],
)
def test_every_command_refuses(app: object, words: list[str], variable: str, nearest: str) -> None:
    result = CliRunner().invoke(app, words, env={variable: "x"})  # type: ignore[arg-type]
    assert result.exit_code == 2
    assert f"{variable}: there is no such variable; did you mean {nearest}?" in (
        " ".join(result.output.split())
    )
