"""Folders that don't read: out of sight with the reason, and nobody is harmed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import AdapterNotFoundError, StoreError
from adapters.names import AdapterRef, parse_ref
from adapters.store.soundness import damage
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, raw_safetensors, write_folder

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    folder = write_folder(tmp_path / "trained")
    for _ in range(2):
        store.publish("sql", folder, manifest())
    store.publish("polite", folder, manifest())
    return store


def _truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _bomb(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 100_000)


def _link_out(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/etc/passwd")


def _half_copied(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2 << 30).to_bytes(8, "little") + b"{}")


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (_truncate, "it is truncated"),
    (_bomb, "nested deeper than"),
    (_link_out, "is a link that leaves the folder"),
    (_half_copied, "manifest.json is missing: the folder is half copied"),
    (_huge_header, "its header claims 2147483648 bytes"),
    (_pickle, "is a pickle"),
]


@pytest.mark.parametrize(("harm", "message"), FAULTS)
def test_a_sweep_takes_what_does_not_read(
    store: AdapterStore, harm: Callable[[Path], None], message: str
) -> None:
    harm(store.root / "sql" / "2")
    assert store.sweep(settle_seconds=0) == (AdapterRef("sql", 2),)
    (quarantined,) = store.quarantined()
    assert str(quarantined.ref) == "sql@2"
    assert message in quarantined.reason
    assert message in (quarantined.path.parent / "reason.txt").read_text()
    assert store.versions("sql") == (1,)
    assert message in (store.quarantine_reason(parse_ref("sql")) or "")
    with pytest.raises(AdapterNotFoundError):
        store.get(parse_ref("sql"))
    assert [s.label for s in store.list()] == ["polite@1"]
    assert store.sweep(settle_seconds=0) == ()
    store.set_alias("sql", 1)
    assert store.get(parse_ref("sql")).version == 1, "rolled back"


def test_what_is_still_being_copied_is_left_alone(store: AdapterStore, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "trained", store.root / "copied" / "1")
    assert store.sweep(settle_seconds=60) == ()
    assert store.names() == ("polite", "sql"), "and isn't served meanwhile"
    assert store.sweep(settle_seconds=0) == (AdapterRef("copied", 1),)


def test_sound_versions_are_read_once(store: AdapterStore) -> None:
    store.sweep(settle_seconds=0)
    examined = store._sweeper.num_examined
    assert examined == 3
    store.sweep(settle_seconds=0)
    assert store._sweeper.num_examined == examined


def test_restore_and_discard(store: AdapterStore) -> None:
    manifest_file = store.root / "sql" / "2" / "manifest.json"
    text = manifest_file.read_text()
    manifest_file.unlink()
    store.sweep(settle_seconds=0)
    (quarantined,) = store.quarantined()
    (quarantined.path / "manifest.json").write_text(text)
    assert store.restore(quarantined.key) == parse_ref("sql@2")
    assert store.get(parse_ref("sql")).version == 2
    assert store.quarantined() == ()
    store.quarantine(parse_ref("sql@1"), "because")
    (quarantined,) = store.quarantined()
    shutil.copytree(store.root / "sql" / "2", store.root / "sql" / "1")
    with pytest.raises(StoreError, match="there is a version sql@1 again"):
        store.restore(quarantined.key)
    store.discard(quarantined.key)
    assert store.quarantined() == ()
    with pytest.raises(AdapterNotFoundError, match="there is: nothing"):
        store.discard(quarantined.key)


def test_a_death_in_the_middle_leaves_nothing_half(store: AdapterStore) -> None:
    entry = store.root / ".quarantine" / "sql@2~dead"
    entry.mkdir(parents=True)
    (entry / "reason.txt").write_text("x")
    assert store.quarantined() == ()
    again = AdapterStore(store.root)
    assert not entry.exists()
    assert again.versions("sql") == (1, 2)


def test_a_read_only_store_passes_over_it(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store._quarantine, "take", refuse)
    store.quarantine(parse_ref("sql@2"), "because")
    assert store.versions("sql") == (1,)
    assert store.quarantine_reason(parse_ref("sql@2")) == "because"
    assert (store.root / "sql" / "2").is_dir()


def test_damage_is_told_from_the_bytes(store: AdapterStore) -> None:
    stored = store.get(parse_ref("sql@1"))
    assert damage(stored.path, stored.digest) is None
    data = bytearray((stored.path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (stored.path / WEIGHTS).write_bytes(data)
    assert "they were changed or damaged since" in (damage(stored.path, stored.digest) or "")
    (stored.path / WEIGHTS).write_bytes(raw_safetensors(b"[]"))
    assert "must hold a JSON object" in (damage(stored.path, stored.digest) or "")
