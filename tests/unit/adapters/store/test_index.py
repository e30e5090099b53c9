"""The index makes a listing fast and never tells what isn't so."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

import adapters.store.index
from adapters.format.manifest import BaseLineage, QuantizationRecord, TemplateRecord
from adapters.names import AdapterRef, parse_ref
from adapters.store.alias import Alias
from adapters.store.index import StoreIndex
from adapters.store.layout import StoreLayout
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, write_folder

NUM_NAMES = 20
BASE = BaseLineage(reference="base", digest="sha256:1")
NF4 = QuantizationRecord(scheme="nf4", block_size=64, double_quant=True)
TEMPLATE = TemplateRecord(text="t", hash="sha256:t", golden_messages=[], golden_token_ids=[])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twenty names that nobody has listed."""
    path = tmp_path_factory.mktemp("published")
    store, folder = AdapterStore(path / "store"), write_folder(path / "trained")
    known = {"base": BASE, "quantization": NF4, "template": TEMPLATE}
    for version, facts in enumerate((known, {})):
        name = store.publish(f"a0{version}", folder, manifest(**facts)).name
        for index in range(version + 2, NUM_NAMES, 2):
            shutil.copytree(store.root / name, store.root / f"a{index:02d}")
    assert not (store.root / ".index.json").exists()
    return store.root


@pytest.fixture
def root(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, listed once; files count as settled at once."""
    monkeypatch.setattr(adapters.store.index, "SETTLED_SECONDS", -60.0)
    root = tmp_path / "store"
    shutil.copytree(published, root)
    AdapterStore(root).list()
    assert (root / ".index.json").exists()
    return root


def parsed_by_listing(root: Path) -> int:
    store = AdapterStore(root)
    assert len(store.list()) == NUM_NAMES
    return store.num_files_parsed


def test_a_new_process_reads_the_index_in_place_of_all_files(root: Path) -> None:
    fresh, indexed = AdapterStore(root), AdapterStore(root)
    (root / ".index.json").rename(root / "index.aside")
    wanted = fresh.list()
    shutil.copy(root / "index.aside", root / ".index.json")
    assert indexed.list() == wanted, "all that a listing knows, the lineage included"
    assert indexed.num_files_parsed == 0
    assert indexed.list()[2].lineage.template_text == "t"
    assert indexed.list()[2].manifest == wanted[2].manifest, "the rest is read when it is asked for"
    assert indexed.targets_by_name().keys() == fresh.targets_by_name().keys()


def test_what_changed_since_is_read_anew(root: Path, tmp_path: Path) -> None:
    store = AdapterStore(root)
    changed = store.publish("a00", write_folder(tmp_path / "new", fill=3), manifest())
    store.remove(parse_ref("a01"))
    reader = AdapterStore(root)
    found = {stored.name: stored for stored in reader.list()}
    assert reader.num_files_parsed == 2, "an alias and a manifest"
    assert found["a00"].digest == changed.digest
    assert "a01" not in found


def test_a_file_changed_in_place_is_read_anew_even_with_its_old_time(root: Path) -> None:
    path = root / "a02" / "1" / "manifest.json"
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace('"rank": 2', '"rank": 3'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert AdapterStore(root).list()[2].rank == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "format", "shape", "deep", "folder"])
def test_a_damaged_index_is_as_good_as_none(root: Path, damage: str) -> None:
    path = root / ".index.json"
    data = path.read_bytes()
    body = json.loads(data.partition(b"\n")[2])
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            path.write_bytes(data.replace(b"sha256:", b"sha257:"))
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.unlink()
            path.mkdir()
        case _:
            body = {
                "format": {**body, "format": 2},
                "shape": {**body, "versions": [[1, 2]]},
                "deep": {},
            }[damage]
            text = b"[" * 200_000 if damage == "deep" else json.dumps(body).encode()
            path.write_bytes(adapters.store.index.hashlib.sha256(text).hexdigest().encode())
            path.write_bytes(path.read_bytes() + b"\n" + text)
    assert parsed_by_listing(root) == 2 * NUM_NAMES
    if damage != "folder":
        assert parsed_by_listing(root) == 0, "and a new one is made"


def test_a_copied_store_is_read_anew(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert parsed_by_listing(copy) == 2 * NUM_NAMES
    assert all(stored.path.is_relative_to(copy) for stored in AdapterStore(copy).list())


def test_files_that_changed_just_now_are_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.store.index, "SETTLED_SECONDS", 60.0)
    (root / ".index.json").unlink()
    assert parsed_by_listing(root) == 2 * NUM_NAMES
    assert parsed_by_listing(root) == 2 * NUM_NAMES


def test_a_canary_and_its_highest_number_survive(root: Path, tmp_path: Path) -> None:
    store = AdapterStore(root)
    store.publish("a00", write_folder(tmp_path / "new", fill=3), manifest(), set_alias=False)
    store.set_alias("a00", {1: 0.9, 2: 0.1})
    (root / ".index.json").unlink()
    AdapterStore(root).targets_by_name()
    index = StoreIndex.load(StoreLayout(root))
    assert index.aliases["a00"][1] == Alias(((1, 0.9), (2, 0.1)), 2)
    assert [v for name, v in index.versions if name == "a00"] == [1, 2]


def test_listings_beside_changes_never_show_what_was_not_there(root: Path, tmp_path: Path) -> None:
    """Each listing is by a new process's eyes; the index is rewritten all the while."""
    writer = AdapterStore(root)
    folders = [write_folder(tmp_path / str(fill), fill=fill) for fill in (5, 6)]
    digests = {name.name: {name.digest} for name in writer.list()}
    digests["a03"] |= {writer.publish("a03", folder, manifest()).digest for folder in folders}
    wrong: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            (root / ".index.json").unlink(missing_ok=True)
            for _ in range(2):
                found = AdapterStore(root).list()
                wrong.extend(s.label for s in found if s.digest not in digests[s.name])
                wrong.extend(["missing"] * (len(found) != NUM_NAMES))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for index in range(20):
        new = writer.publish("a03", folders[index % 2], manifest())
        writer.remove(AdapterRef("a03", new.version - 1))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
