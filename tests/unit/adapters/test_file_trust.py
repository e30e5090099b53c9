"""Owner and mode decide whether a file is believed."""

import os
from pathlib import Path

import pytest

from adapters.file_trust import make_private_folder, secret_problem, writable_by_others

NOT_OURS = 12345


def status_of(path: Path, *, mode: int = 0o600, owner: int | None = None) -> os.stat_result:
    path.touch()
    path.chmod(mode)
    fields = list(path.stat())
    fields[4] = os.geteuid() if owner is None else owner
    return os.stat_result(fields)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_of_its_owner_alone_is_fine(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    assert secret_problem(path, status_of(path, mode=mode)) is None


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o620, 0o604, 0o602, 0o666, 0o777, 0o610])
@pytest.mark.parametrize("owner", [None, 0])
def test_a_secret_that_others_reach_says_the_command(
    tmp_path: Path, mode: int, owner: int | None
) -> None:
    path = tmp_path / "keys"
    problem = secret_problem(path, status_of(path, mode=mode, owner=owner))
    assert problem is not None
    assert f"{mode:04o}" in problem
    assert f"chmod 0600 {path}" in problem


def test_root_may_let_a_group_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted secret is root's, and the server reads it as a member of its group."""
    path = tmp_path / "keys"
    monkeypatch.setattr(os, "geteuid", lambda: NOT_OURS)
    assert secret_problem(path, status_of(path, mode=0o440, owner=0)) is None
    assert secret_problem(path, status_of(path, mode=0o640, owner=0)) is None
    problem = secret_problem(path, status_of(path, mode=0o640, owner=NOT_OURS))
    assert "0640" in str(problem)


def test_a_secret_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    problem = secret_problem(path, status_of(path, owner=NOT_OURS))
    assert f"belongs to user {NOT_OURS}" in str(problem)
    assert "no regular file" in str(secret_problem(tmp_path, tmp_path.stat()))


def test_every_folder_of_a_cache_counts(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = cache / "deep" / "file"
    assert writable_by_others(path, cache) is None, "what isn't there can be made"
    make_private_folder(path.parent)
    path.touch(mode=0o644)
    assert writable_by_others(path, cache) is None
    for part in (path, path.parent, cache):
        before = part.stat().st_mode
        part.chmod(0o777)
        problem = writable_by_others(path, cache)
        assert f"{part} has mode 0777" in str(problem)
        assert f"chmod go-w {part}" in str(problem)
        part.chmod(0o1777)
        assert writable_by_others(path, cache) is not None, "not even if sticky"
        part.chmod(before)
    assert writable_by_others(path, cache) is None


def test_above_a_cache_all_may_write_only_if_sticky(tmp_path: Path) -> None:
    above = tmp_path / "tmp"
    make_private_folder(above / "cache")
    above.chmod(0o1777)
    assert writable_by_others(above / "cache" / "file", above / "cache") is None
    above.chmod(0o777)
    assert "0777" in str(writable_by_others(above / "cache" / "file", above / "cache"))


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    make_private_folder(cache)
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (elsewhere / "file").touch()
    (cache / "file").symlink_to(elsewhere / "file")
    assert str(elsewhere) in str(writable_by_others(cache / "file", cache))


def test_foreign_owners_and_groups_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o664)
    if os.getuid() == 0:
        os.chown(path, 0, NOT_OURS)
        assert "0664" in str(writable_by_others(path, tmp_path)), "of a group that nobody knows"
        os.chown(path, NOT_OURS, 0)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: NOT_OURS)
    assert "belongs to user" in str(writable_by_others(path, tmp_path))


def test_folders_are_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_private_folder(folder)
    make_private_folder(folder)
    assert [p.stat().st_mode & 0o777 for p in (folder, folder.parent)] == [0o700, 0o700]
