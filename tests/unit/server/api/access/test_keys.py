"""Keys: what is kept of them, who they belong to, and the file that a running server follows."""

import asyncio
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.api.access.callers import Right
from server.api.access.key_file import read_keys, watch_keys, write_keys
from server.api.access.keys import KeyRecord, KeyRing
from server.api.telemetry.metrics import KeyMetrics
from server.core.errors import ConfigurationError
from tests.fakes.api_keys import make_key


def test_a_key_opens_only_for_whom_it_was_made() -> None:
    key, record = make_key("a", adapters=["sql"], priority=3)
    other, _ = make_key("b")
    ring = KeyRing([record])
    caller = ring.caller_of(key)
    assert caller is not None
    assert (caller.name, caller.adapters, caller.weight) == ("a", ("sql",), 3.0)
    assert ring.caller_of(other) is None
    assert ring.caller_of(key[:-1] + ("A" if key[-1] != "A" else "B")) is None
    for wrong in ("", "sy-", key + "x", key.upper(), "é" * 60, " " + key):
        assert ring.caller_of(wrong) is None
    ring.replace([])
    assert ring.caller_of(key) is None


def test_the_file_holds_no_secret_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.yaml"
    key, record = make_key("a", rights=["infer", "load"], tokens_per_minute=5)
    write_keys(path, [record])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.split("-", 2)[2] not in path.read_text()
    assert read_keys(path) == (record,)
    assert read_keys(path)[0].rights == {Right.INFER, Right.LOAD}
    assert [p.name for p in path.parent.iterdir()] == ["keys.yaml"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("keys: 3", "keys"),
        ("keys: [", "isn't YAML"),
        ("keys:\n- {id: abc, name: a, salt: b, sha256: c}", "keys.0.id"),
        ("words", "the file"),
        ("keys: []\nkey: []", "key"),
        ("", "is empty"),
        ("# nothing but this\n", "is empty"),
        ("{}", "is empty"),
        ("keys:", "keys"),
        ("keys: 2026-99-99", "isn't YAML"),
        ("[" * 5000, "isn't YAML"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=problem):
        read_keys(path)


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write_keys(path, [make_key("a")[1], make_key("a")[1]])
    with pytest.raises(ConfigurationError, match="two keys have the name a"):
        read_keys(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_keys(tmp_path / "none.yaml")


def test_a_file_without_keys_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write_keys(path, [])
    assert read_keys(path) == (), "the last key was revoked"


def test_a_file_that_others_reach_is_refused_with_all_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write_keys(path, [make_key("a")[1]])
    for mode in (0o644, 0o660, 0o604):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"chmod 0600 {path}"):
            read_keys(path)
    path.write_text("keys: 3")
    with pytest.raises(ConfigurationError) as caught:
        read_keys(path)
    assert len(caught.value.problems) == 2
    path.unlink()
    write_keys(path, [])
    assert read_keys(path) == ()


async def test_a_changed_file_is_followed_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    first, second = make_key("a")[1], make_key("b")[1]
    write_keys(path, [first])
    seen: asyncio.Queue[Sequence[KeyRecord]] = asyncio.Queue()
    refusals: asyncio.Queue[None] = asyncio.Queue()
    watching = asyncio.create_task(
        watch_keys(path, seen.put_nowait, lambda: refusals.put_nowait(None))
    )
    try:
        # The watcher says nothing when it begins, so write until it has seen one.
        while seen.empty():
            write_keys(path, [first, second])
            await asyncio.sleep(0.05)
        assert [record.name for record in await seen.get()] == ["a", "b"]
        for text, mode in (("keys: [", 0o600), ("", 0o600), ("keys: []", 0o644)):
            path.write_text(text)
            path.chmod(mode)
            await asyncio.wait_for(refusals.get(), 60)
            while not seen.empty():
                assert len(await seen.get()) == 2, f"{text!r} took keys away"
        assert "the keys stay as they were" in caplog.text
        write_keys(path, [second])
        async with asyncio.timeout(60):
            while await seen.get() != (second,):
                pass
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_metrics_say_that_the_file_is_refused_until_it_is_usable_again() -> None:
    registry, (_, first), (_, second) = CollectorRegistry(), make_key("a"), make_key("b")
    keys = KeyRing([first, second])
    KeyMetrics(registry, keys)

    def values() -> tuple[float | None, float | None]:
        names = ("switchyard_api_keys", "switchyard_keys_file_refused")
        return registry.get_sample_value(names[0]), registry.get_sample_value(names[1])

    assert values() == (2, 0)
    keys.refuse_file()
    assert values() == (2, 1), "the keys that it had"
    keys.replace([])
    assert values() == (0, 0)
