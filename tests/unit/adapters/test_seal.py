"""A published version is what was published, to the byte, or it is found out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import ManifestError, UnsoundError
from adapters.names import AdapterRef
from adapters.store.soundness import read_sound, unsound
from adapters.store.store import AdapterStore, StoredAdapter
from adapters.store.verification import verify_stored
from tests.unit.adapters.peft_folder import manifest, write_folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def stored(store: AdapterStore, tmp_path: Path) -> StoredAdapter:
    folder = write_folder(tmp_path / "trained")
    (folder / "README.md").write_text("card")
    (folder / "notes").mkdir()
    (folder / "notes" / "log.txt").write_text("log")
    return store.publish("sql", folder, manifest())


def _rewritten(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def _in_header(folder: Path) -> None:
    """Metadata of the weights file, which the digest doesn't see; nothing else moves."""
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        (length + 2).to_bytes(8, "little") + data[8 : 8 + length] + b"  " + data[8 + length :]
    )


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{{ bos }}"),
        "chat_template.jinja was added since it was published",
    ),
    "card": (lambda f: (f / "README.md").write_text("Card"), "README.md was changed since"),
    "nested": (lambda f: (f / "notes" / "log.txt").unlink(), "notes/log.txt is gone since"),
    "manifest": (
        lambda f: _rewritten(f / "manifest.json", metrics={"eval_loss": 0.0}),
        "manifest.json was changed since it was published",
    ),
    "older": (
        lambda f: _rewritten(f / "manifest.json", schema_version=1),
        "manifest.json was changed since it was published",
    ),
    "config": (
        lambda f: _rewritten(f / "adapter_config.json", peft_version="9"),
        "adapter_config.json was changed since",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_digest_does_not_see_is_seen(
    store: AdapterStore, stored: StoredAdapter, damage: str
) -> None:
    assert read_sound(stored.path, stored.digest).config
    assert verify_stored(stored) == ()
    change, message = DAMAGES[damage]
    change(stored.path)
    with pytest.raises(UnsoundError, match=message):
        read_sound(stored.path, stored.digest)
    assert message in (unsound(stored.path) or ""), "a sweep finds it too"
    assert any(message in problem for problem in verify_stored(stored))
    with pytest.raises(ManifestError, match=f"changed after it was written: .*{message}"):
        store.import_folder("copy", stored.path)
    assert store.sweep(0) == (AdapterRef("sql", 1),)


def test_the_weights_file_is_sealed_beyond_its_tensors(stored: StoredAdapter) -> None:
    _in_header(stored.path)
    with pytest.raises(UnsoundError, match=r"adapter_model\.safetensors was changed since"):
        read_sound(stored.path, stored.digest)


def test_what_was_published_before_there_were_seals_still_loads(
    store: AdapterStore, stored: StoredAdapter
) -> None:
    path = stored.path / "manifest.json"
    document = json.loads(path.read_text())
    del document["seal"], document["files"]
    path.write_text(json.dumps(document | {"schema_version": 1}))
    again = store.get(AdapterRef("sql", 1))
    assert read_sound(again.path, again.digest).config
    assert verify_stored(again) == ()
    copied = store.import_folder("copy", again.path)
    assert (copied.manifest.schema_version, copied.digest) == (2, again.digest)
    assert set(copied.manifest.files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "notes/log.txt",
    }  # fmt: skip
    path.write_text(json.dumps(document))  # of schema 2, and without a seal
    assert "its seal is another's" in (unsound(stored.path) or "")


def test_a_seal_goes_with_an_archive(
    store: AdapterStore, stored: StoredAdapter, tmp_path: Path
) -> None:
    store.export_archive(AdapterRef("sql", 1), tmp_path / "sql.tar")
    other = AdapterStore(tmp_path / "other").import_archive("mine", tmp_path / "sql.tar")
    assert verify_stored(other) == ()
    assert other.digest == stored.digest
    assert other.manifest.seal != stored.manifest.seal, "another name, and another time"
