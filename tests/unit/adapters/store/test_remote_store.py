"""A store somewhere else: fsspec's memory and file systems stand for the cloud."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from adapters.errors import AdapterNotFoundError, InspectionError, StoreError
from adapters.names import parse_ref
from adapters.store.keep_policy import KeepPolicy
from adapters.store.remote_store import RemoteStore, open_store
from adapters.store.store import AdapterStore
from adapters.store.transfer.remote_files import RemoteFiles
from tests.unit.adapters.peft_folder import manifest, write_folder


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/remote"
        return
    yield "memory://bucket/adapters"
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "trained")


def _listing(url: str) -> list[str]:
    return sorted(RemoteFiles(url).listing())


def test_what_one_writes_another_reads(url: str, tmp_path: Path, folder: Path) -> None:
    here = open_store(url, tmp_path / "here")
    there = open_store(url, tmp_path / "there")
    stored = here.publish("sql", folder, manifest(seed=7))
    assert stored.label == "sql@1"
    assert _listing(url) == [
        "sql/1/adapter_config.json",
        "sql/1/adapter_model.safetensors",
        "sql/1/manifest.json",
        "sql/alias.json",
    ]
    assert there.names() == ()
    there.pull()
    found = there.get(parse_ref("sql"))
    assert (found.label, found.digest, found.manifest.seed) == ("sql@1", stored.digest, 7)
    assert found.path.is_relative_to(tmp_path / "there")
    again = there.import_folder("sql", folder, source="hub")
    assert (again.label, again.manifest.parent) == ("sql@2", "sql@1")
    here.pull()
    assert here.current_version("sql") == 2
    there.set_alias("sql", {1: 0.5, 2: 0.5})
    here.pull()
    assert here.alias("sql").targets == ((1, 0.5), (2, 0.5))
    with pytest.raises(StoreError, match="point it elsewhere"):
        here.remove(parse_ref("sql@2"))
    here.set_alias("sql", 1)
    here.remove(parse_ref("sql@2"))
    there.pull()
    assert there.versions("sql") == (1,)
    assert here.publish("sql", folder, manifest(), set_alias=False).version == 3
    assert here.current_version("sql") == 1
    assert here.prune("sql", 1) == ()
    here.remove(parse_ref("sql"))
    there.pull()
    assert there.names() == ()
    assert _listing(url) == []


def test_only_what_changed_is_downloaded(
    url: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url, tmp_path / "here").publish("sql", folder, manifest())
    downloads: list[str] = []
    original = RemoteFiles.download

    def counting(self: RemoteFiles, path: str, target: Path) -> None:
        downloads.append(path)
        original(self, path, target)

    monkeypatch.setattr(RemoteFiles, "download", counting)
    there = open_store(url, tmp_path / "there")
    assert len(downloads) == 3
    there.pull()
    open_store(url, tmp_path / "there").pull()
    assert len(downloads) == 3, "not by another process either"


def test_archives_and_refusals(url: str, tmp_path: Path, folder: Path) -> None:
    store = open_store(url, tmp_path / "here")
    store.publish("sql", folder, manifest())
    store.export_archive(parse_ref("sql"), tmp_path / "sql.tar")
    assert store.import_archive("copy", tmp_path / "sql.tar").label == "copy@1"
    before = _listing(url)
    (folder / "x.pkl").write_bytes(b"x")
    with pytest.raises(InspectionError, match="pickle"):
        store.import_folder("bad", folder)
    assert _listing(url) == before
    with pytest.raises(AdapterNotFoundError):
        store.set_alias("sql", 9)


def test_an_upload_that_died_is_seen_by_nobody(url: str, tmp_path: Path, folder: Path) -> None:
    store = open_store(url, tmp_path / "here")
    store.publish("sql", folder, manifest())
    files = RemoteFiles(url)
    files.upload(folder / "adapter_config.json", "sql/2/adapter_config.json")
    files.write("sql/2/.claim-dead", b"")
    store.pull()
    assert store.versions("sql") == (1,)
    assert store.publish("sql", folder, manifest()).version == 3, "its number is left to it"


def test_two_that_claim_at_once_get_two_numbers(url: str, tmp_path: Path, folder: Path) -> None:
    stores = [RemoteStore(url, tmp_path / f"cache-{i}") for i in range(2)]
    claims = [store._claim("sql") for store in stores]
    assert [version for version, _ in claims] == [1, 2]


def test_a_damaged_version_goes_to_quarantine_once(url: str, tmp_path: Path, folder: Path) -> None:
    here = open_store(url, tmp_path / "here")
    here.publish("sql", folder, manifest())
    here.publish("polite", folder, manifest())
    data = bytearray((folder / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    RemoteFiles(url).write("sql/1/adapter_model.safetensors", bytes(data))
    there = open_store(url, tmp_path / "there")
    assert there.names() == ("polite",)
    assert "changed or damaged since" in (there.quarantine_reason(parse_ref("sql@1")) or "")
    there.pull()
    assert len(there.quarantined()) == 1


def test_hostile_names_on_the_remote_are_passed_over(url: str, tmp_path: Path) -> None:
    files = RemoteFiles(url)
    for path in ("-x/1/manifest.json", "sql/1/../../../evil", "sql/0/manifest.json", "notes.txt"):
        files.write(path.replace("../", "dots/"), b"{}")
    files.write("sql/alias.json", b"[" * 100)
    assert open_store(url, tmp_path / "here").names() == ()


def test_a_remote_that_is_away_is_served_from_the_cache(
    url: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url, tmp_path / "here").publish("sql", folder, manifest())

    def fail(*_: object) -> None:
        raise StoreError("the store can't be listed: it is away")

    monkeypatch.setattr(RemoteFiles, "listing", fail)
    assert open_store(url, tmp_path / "here").names() == ("sql",)
    with pytest.raises(StoreError, match="it is away"):
        open_store(url, tmp_path / "new")


def test_urls_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be opened"):
        open_store("nosuch://x", tmp_path / "x")


def test_a_store_that_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(StoreError, match=r"s3fs: pip install 'switchyard\[remote\]'"):
        open_store("s3://bucket/x", tmp_path / "x")


def test_a_folder_is_a_local_store(tmp_path: Path, folder: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert type(store) is AdapterStore
    store.publish("sql", folder, manifest())
    # A local store copied to a remote is one, and the other way round.
    shutil.copytree(store.root / "sql", tmp_path / "remote" / "sql")
    assert (
        open_store(f"file://{tmp_path}/remote", tmp_path / "c").get(parse_ref("sql")).version == 1
    )


def test_the_policy_lies_in_the_remote_and_all_keep_to_it(
    url: str, tmp_path: Path, folder: Path
) -> None:
    here = open_store(url, tmp_path / "here")
    there = open_store(url, tmp_path / "there")
    for _ in range(3):
        here.publish("sql", folder, manifest())
    here.set_policy(KeepPolicy(2))
    assert there.publish("sql", folder, manifest()).version == 4
    assert there.policy == KeepPolicy(2)
    assert there.versions("sql") == (3, 4)
    here.pull()
    assert here.versions("sql") == (3, 4)
    assert here.current_version("sql") == 4
    assert {path.split("/")[1] for path in _listing(url) if path.startswith("sql/")} == {
        "3", "4", "alias.json",
    }  # fmt: skip
    there.hold([parse_ref("sql@3")])
    there.import_folder("sql", folder)
    there.import_folder("sql", folder)
    assert there.versions("sql") == (3, 5, 6)
    RemoteFiles(url).delete(".policy.json")
    here.pull()
    assert here.policy == KeepPolicy(None)
    here.publish("sql", folder, manifest())
    assert here.versions("sql") == (3, 5, 6, 7)


def test_a_copy_that_others_could_have_changed_is_not_used(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SWITCHYARD_CACHE", str(cache))
    root = open_store(url).root
    assert root.is_relative_to(cache)
    root.chmod(0o777)
    with pytest.raises(StoreError, match=f"chmod go-w {root}"):
        open_store(url)
