"""`server keys` from the command line."""

from pathlib import Path

from typer.testing import CliRunner

from server.api.access.callers import Right
from server.api.access.key_file import read_keys
from server.api.access.keys import KeyRing
from server.cli import _APP

RUN = CliRunner()


def test_new_ls_revoke(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    made = RUN.invoke(
        _APP,
        ["keys", "new", "team-a", "--keys-file", file, "--adapter", "sql*", "--adapter", "base",
         "--right", "infer", "--right", "load", "--requests-per-minute", "60", "--priority", "2"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    caller = KeyRing(read_keys(Path(file))).caller_of(made.output.strip())
    assert caller is not None
    assert caller.adapters == ("sql*", "base")
    assert caller.rights == {Right.INFER, Right.LOAD}
    assert (caller.requests_per_minute, caller.tokens_per_minute, caller.weight) == (60, None, 2.0)
    listed = RUN.invoke(_APP, ["keys", "ls", "--keys-file", file], env={"COLUMNS": "200"})
    assert "team-a" in listed.output
    assert made.output.strip() not in listed.output
    again = RUN.invoke(_APP, ["keys", "new", "team-a", "--keys-file", file])
    assert again.exit_code == 2
    assert "already" in again.output
    assert RUN.invoke(_APP, ["keys", "revoke", "nobody", "--keys-file", file]).exit_code == 2
    env = {"SWITCHYARD_KEYS_FILE": file}
    assert RUN.invoke(_APP, ["keys", "revoke", "team-a"], env=env).exit_code == 0
    assert read_keys(Path(file)) == ()


def test_a_key_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    for arguments in (["bad name"], ["a", "--priority", "-1"]):
        result = RUN.invoke(_APP, ["keys", "new", "--keys-file", file, "--", *arguments[:1]] if
                            len(arguments) == 1 else
                            ["keys", "new", *arguments, "--keys-file", file])  # fmt: skip
        assert result.exit_code == 2
        assert "Traceback" not in result.output
    assert not Path(file).exists()


def test_the_file_is_its_owners_alone_from_the_first_key_on(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.touch()  # made ready, with whatever mode that gives
    assert RUN.invoke(_APP, ["keys", "new", "a", "--keys-file", str(path)]).exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    for command in (["new", "b"], ["ls"], ["revoke", "a"]):
        refused = RUN.invoke(_APP, ["keys", *command, "--keys-file", str(path)])
        assert refused.exit_code == 2
        assert "chmod 0600" in " ".join(refused.output.split())
