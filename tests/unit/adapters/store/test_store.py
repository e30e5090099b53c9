import json
import threading
from pathlib import Path

import pytest

from adapters.errors import (
    AdapterNotFoundError,
    InspectionError,
    InvalidNameError,
    ManifestError,
    StoreError,
    TensorFileError,
)
from adapters.format.digest import adapter_digest
from adapters.format.manifest import BaseLineage
from adapters.names import AdapterRef, parse_ref
from adapters.store.lock import exclusive_lock
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import MODULES, lora_config, manifest, write_folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "deep" / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "trained")


def _leftovers(store: AdapterStore) -> list[Path]:
    return [*(store.root / ".staging").iterdir(), *store.root.rglob(".publishing")]


def test_a_new_store_is_empty(store: AdapterStore) -> None:
    assert store.names() == ()
    assert store.list() == ()
    assert store.versions("sql") == ()
    with pytest.raises(AdapterNotFoundError, match=r"has no adapter sql$"):
        store.get(AdapterRef("sql"))


def test_publish(store: AdapterStore, folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "curve.txt").write_text("down")
    (folder / "manifest.json").write_text("not the store's business")
    stored = store.publish("sql", folder, manifest("another-name", metrics={"loss": 1.5}))
    assert stored.label == "sql@1"
    assert stored.rank == 2
    assert stored.digest == adapter_digest(folder) == stored.manifest.digest
    assert stored.manifest.name == "sql"
    assert stored.manifest.metrics == {"loss": 1.5}
    assert stored.path == store.root / "sql" / "1"
    assert stored.size_bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert (stored.path / "logs" / "curve.txt").read_text() == "down"
    assert store.names() == ("sql",)
    assert store.list() == (stored,)
    assert store.current_version("sql") == 1
    assert AdapterStore(store.root).get(parse_ref("sql")) == stored
    assert _leftovers(store) == []


def test_versions_and_aliases(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest())
    assert store.publish("sql", folder, manifest(), set_alias=False).version == 2
    assert store.current_version("sql") == 1
    assert store.publish("sql", folder, manifest()).version == 3
    assert store.current_version("sql") == 3
    assert store.versions("sql") == (1, 2, 3)
    store.set_alias("sql", 2)
    assert store.get(parse_ref("sql")).version == 2
    assert store.get(parse_ref("sql@3")).version == 3
    with pytest.raises(AdapterNotFoundError, match="has no version 4; there is: 1, 2, 3"):
        store.set_alias("sql", 4)
    with pytest.raises(AdapterNotFoundError, match="did you mean sql"):
        store.get(AdapterRef("sq1"))


def test_a_name_without_alias(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest(), set_alias=False)
    assert store.names() == ("sql",)
    assert store.list() == ()
    assert store.get(parse_ref("sql@1")).version == 1
    with pytest.raises(AdapterNotFoundError, match="adapters alias sql 1"):
        store.current_version("sql")
    store.set_alias("sql", 1)
    assert store.current_version("sql") == 1


def test_remove(store: AdapterStore, folder: Path) -> None:
    for _ in range(3):
        store.publish("sql", folder, manifest())
    store.remove(parse_ref("sql@1"))
    assert store.versions("sql") == (2, 3)
    with pytest.raises(StoreError, match=r"sql@3 is what the name sql means now.*alias sql 2"):
        store.remove(parse_ref("sql@3"))
    store.set_alias("sql", 2)
    store.remove(parse_ref("sql@3"))
    assert store.publish("sql", folder, manifest()).version == 4, "a number isn't used twice"
    store.remove(parse_ref("sql"))
    assert store.names() == ()
    assert not (store.root / "sql").exists()
    assert _leftovers(store) == []
    for ref in ("sql", "sql@4"):
        with pytest.raises(AdapterNotFoundError):
            store.remove(parse_ref(ref))


def test_removing_the_only_version_removes_the_name(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest())
    store.remove(parse_ref("sql@1"))
    assert store.names() == ()


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".staging", ""])
def test_names_that_would_leave_the_store(store: AdapterStore, folder: Path, name: str) -> None:
    for act in (
        lambda: store.publish(name, folder, manifest()),
        lambda: store.import_folder(name, folder),
        lambda: store.set_alias(name, 1),
        lambda: store.versions(name),
        lambda: store.current_version(name),
    ):
        with pytest.raises(InvalidNameError):
            act()
    assert sorted(path.name for path in store.root.iterdir()) in ([".lock", ".staging"],)


def test_a_failed_publish_leaves_nothing(store: AdapterStore, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(TensorFileError):
        store.publish("sql", folder, manifest())
    with pytest.raises(InspectionError, match="can't be read"):
        store.publish("sql", folder / "none", manifest())
    (folder / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(InspectionError, match="pickle"):
        store.publish("sql", folder, manifest())
    assert store.names() == ()
    assert _leftovers(store) == []


def test_readers_pass_over_what_is_no_version(store: AdapterStore, folder: Path) -> None:
    stored = store.publish("sql", folder, manifest())
    (store.root / "sql" / "2").mkdir()
    (store.root / "sql" / "03").mkdir()
    (store.root / "sql" / "notes").mkdir()
    (store.root / "sql" / "4").mkdir()
    (store.root / "sql" / "4" / "manifest.json").write_text("{}")
    (store.root / "empty").mkdir()
    (store.root / "file").write_text("x")
    assert store.versions("sql") == (1,)
    assert store.names() == ("sql",)
    with pytest.raises(AdapterNotFoundError):
        store.get(parse_ref("sql@4"))
    assert store.publish("sql", folder, manifest()).version == 5
    (store.root / "sql" / "alias.json").write_text("[" * 100)
    assert store.list() == ()
    assert store.get(parse_ref("sql@1")) == stored


def test_what_a_dead_process_left_is_swept_at_open(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest())
    write_folder(store.root / ".staging" / "abandoned")
    (store.root / ".staging" / "alias.json.abandoned").write_text("{}")
    # A publish that died after its rename and before its alias ...
    unfinished = write_folder(store.root / "sql" / "2")
    digest = adapter_digest(unfinished)
    (unfinished / "manifest.json").write_text(manifest(digest=digest).to_json())
    (unfinished / ".publishing").touch()
    (store.root / ".staging" / "publish-sql@2").touch()
    assert store.versions("sql") == (1,)
    # ... and one that died after its alias.
    (store.root / "sql" / "1" / ".publishing").touch()
    (store.root / ".staging" / "publish-sql@1").touch()
    (store.root / ".staging" / "publish-gone@1").touch()
    assert store.versions("sql") == (1,)
    again = AdapterStore(store.root)
    assert _leftovers(again) == []
    assert again.versions("sql") == (1,)
    assert not unfinished.exists()
    assert again.current_version("sql") == 1


def test_opening_neither_waits_for_a_writer_nor_sweeps_under_it(store: AdapterStore) -> None:
    (store.root / ".staging" / "in-use").mkdir()
    with exclusive_lock(store.root / ".lock") as got:
        assert got
        assert AdapterStore(store.root).names() == ()
        assert (store.root / ".staging" / "in-use").is_dir()
    AdapterStore(store.root)
    assert _leftovers(store) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="can't be opened as a store"):
        AdapterStore(tmp_path / "file")


def test_import_makes_a_manifest(store: AdapterStore, folder: Path) -> None:
    stored = store.import_folder("sql", folder, base_modules=MODULES)
    assert stored.manifest.source == str(folder)
    assert stored.manifest.parent is None
    assert (stored.manifest.method, stored.manifest.rank) == ("lora", 2)
    assert stored.manifest.created_unix_seconds > 1_700_000_000
    again = store.import_folder("sql", folder, source="hub")
    assert (again.label, again.manifest.parent, again.manifest.source) == ("sql@2", "sql@1", "hub")


def test_import_keeps_a_manifest_that_agrees(store: AdapterStore, folder: Path) -> None:
    base = BaseLineage(reference="tiny", digest="sha256:1")
    first = store.publish("sql", folder, manifest(base=base, seed=7))
    copied = store.import_folder("copy", first.path, base=base)
    assert copied.digest == first.digest
    assert (copied.manifest.name, copied.manifest.seed) == ("copy", 7)
    assert copied.manifest.base == base
    with pytest.raises(InspectionError, match="trained on the base tiny"):
        store.import_folder("copy", first.path, base=BaseLineage(reference="x", digest="sha256:2"))
    write_folder(first.path, fill=9)
    with pytest.raises(ManifestError, match="changed after it was written"):
        store.import_folder("copy", first.path)
    assert store.versions("copy") == (1,)


def test_import_refuses_what_inspection_refuses(store: AdapterStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "dora", config=lora_config(use_dora=True))
    with pytest.raises(InspectionError, match="no DoRA magnitude, but use_dora is set"):
        store.import_folder("sql", folder)
    sound = write_folder(tmp_path / "sound")
    with pytest.raises(InspectionError, match="no module of the adapter"):
        store.import_folder("sql", sound, base_modules={"h.0.attn": (8, 8)})
    assert store.names() == ()


def test_another_process_changes_are_seen(store: AdapterStore, tmp_path: Path) -> None:
    other = AdapterStore(store.root)
    seen = []
    for fill in range(1, 5):
        other.publish("sql", write_folder(tmp_path / str(fill), fill=fill), manifest())
        seen.append(store.get(parse_ref("sql")).digest)
    assert len(set(seen)) == 4
    other.set_alias("sql", 1)
    assert store.get(parse_ref("sql")).digest == seen[0]
    other.remove(parse_ref("sql"))
    other.publish("sql", write_folder(tmp_path / "new", fill=9), manifest())
    assert store.get(parse_ref("sql@1")).digest not in seen


def test_files_are_parsed_once(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest())
    (first,), (second,) = store.list(), store.list()
    assert first is second


def test_the_alias_file_says_what_it_must(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, manifest())
    text = (store.root / "sql" / "alias.json").read_text()
    assert json.loads(text) == {"version": 1, "highest": 1}


def test_readers_never_miss_a_name_while_its_versions_move(
    store: AdapterStore, folder: Path
) -> None:
    store.publish("sql", folder, manifest())
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        reader = AdapterStore(store.root)
        while not stop.is_set():
            try:
                found = reader.get(parse_ref("sql"))
                assert [entry.name for entry in reader.list()] in ([], ["sql"])
                assert reader.versions("sql")
                assert found.manifest.digest == found.digest
            except (AdapterNotFoundError, AssertionError) as error:
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(15):
            new = store.publish("sql", folder, manifest())
            store.remove(AdapterRef("sql", new.version - 1))
    finally:
        stop.set()
        thread.join()
    assert failures == []
