"""Where settings come from, and what happens when they are wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import _APP, option_name
from server.configuration import ServerConfig, load_config
from server.core.errors import ConfigurationError


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nhost: 127.0.0.9\nkv_cache_gib: 3\n")
    environment = {"SWITCHYARD_PORT": "2", "SWITCHYARD_HOST": "127.0.0.8", "OTHER": "x"}
    config = load_config(file, environment, {"port": 3, "host": None})
    assert (config.port, config.host, config.kv_cache_gib) == (3, "127.0.0.8", 3.0)
    assert config.max_lora_rank == ServerConfig().max_lora_rank


def test_lists_in_variables_are_separated_by_colons() -> None:
    config = load_config(None, {"SWITCHYARD_ADAPTER_ROOTS": "/a:/b"}, {})
    assert config.adapter_roots == (Path("/a"), Path("/b"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 99999\nprot: 1\nquantization: int3\n")
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {}, {})
    assert len(caught.value.problems) == 3
    assert "prot" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words: {"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError):
        load_config(file, {}, {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        load_config(tmp_path / "none.yaml", {}, {})


def test_help_names_every_setting() -> None:
    text = CliRunner().invoke(_APP, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for name in ServerConfig.model_fields:
        option = option_name(name).removeprefix("--")
        assert f"--{option}" in text, f"{name} can't be set on the command line"


def test_a_wrong_setting_ends_with_one_clear_message() -> None:
    result = CliRunner().invoke(_APP, ["--port", "99999"])
    assert result.exit_code == 2
    assert "port = 99999" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_without_keys_this_machine_may_listen_to_itself(host: str) -> None:
    assert load_config(None, {}, {"host": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_without_keys_no_other_address_is_listened_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without keys"):
        load_config(None, {}, {"host": host})
    assert load_config(None, {"SWITCHYARD_AUTH": "false"}, {"host": host}).host == host
    assert load_config(None, {}, {"host": host, "keys_file": tmp_path}).host == host


def test_the_command_line_and_the_file_have_the_same_settings() -> None:
    result = CliRunner().invoke(_APP, ["--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--no-auth" in result.output
    result = CliRunner().invoke(_APP, ["--no-auth", "--host", "0.0.0.0", "--port", "-1"])
    assert "port = -1" in result.output
