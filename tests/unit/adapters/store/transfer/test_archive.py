"""One version as one file, and what hostile files are told."""

import io
import tarfile
from pathlib import Path

import pytest

from adapters.errors import ArchiveError, ManifestError
from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, write_folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    folder = write_folder(tmp_path / "trained")
    (folder / "logs").mkdir()
    (folder / "logs" / "curve.txt").write_text("down")
    store.publish("sql", folder, manifest(seed=7, metrics={"loss": 1.5}))
    return store


def _assert_clean(store: AdapterStore, names: tuple[str, ...]) -> None:
    assert store.names() == names
    assert list((store.root / ".staging").iterdir()) == []


def test_there_and_back(store: AdapterStore, tmp_path: Path) -> None:
    files = [tmp_path / "one.tar", tmp_path / "two.tar"]
    original = store.get(parse_ref("sql"))
    for file in files:
        store.export_archive(parse_ref("sql@1"), file)
        (original.path / "adapter_config.json").touch()
    assert files[0].read_bytes() == files[1].read_bytes(), "times and owners leave no trace"
    other = AdapterStore(tmp_path / "other")
    imported = other.import_archive("copy", files[0])
    assert (imported.label, imported.digest) == ("copy@1", original.digest)
    assert (imported.manifest.seed, imported.manifest.metrics) == (7, {"loss": 1.5})
    assert (imported.path / "logs" / "curve.txt").read_text() == "down"
    assert sorted(p.name for p in tmp_path.glob(".*tar*")) == []


def _member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(data)
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = "/etc/passwd"
    return member


def _tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_member("../evil")], "would be written outside"),
        ([_member("/etc/evil")], "would be written outside"),
        ([_member("a/../../evil")], "would be written outside"),
        ([_member("link", b"", tarfile.SYMTYPE)], "isn't a plain file"),
        ([_member("link", b"", tarfile.LNKTYPE)], "isn't a plain file"),
        ([_member("pipe", b"", tarfile.FIFOTYPE)], "isn't a plain file"),
        ([_member("a"), _member("a")], "is in it twice"),
        ([_member("a"), _member("a/b")], "is below a file"),
        ([_member(".publishing")], "is a hidden file"),
        ([_member("./a")], "isn't a plain relative path"),
        ([_member(f"f{i}") for i in range(2001)], "more than 2000 files"),
        ([], "holds no files"),
    ],
)
def test_hostile_archives(
    store: AdapterStore, tmp_path: Path, members: list[tarfile.TarInfo], message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        store.import_archive("evil", _tar(tmp_path / "evil.tar", *members))
    _assert_clean(store, ("sql",))
    assert not (tmp_path / "evil").exists()


def test_archives_that_are_none(store: AdapterStore, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with pytest.raises(ArchiveError, match="there is no file"):
        store.import_archive("x", file)
    file.write_bytes(b"no tar" * 1000)
    with pytest.raises(ArchiveError, match="isn't a readable tar file"):
        store.import_archive("x", file)
    whole = tmp_path / "whole.tar"
    store.export_archive(parse_ref("sql"), whole)
    for share in (0.3, 0.6):
        data = whole.read_bytes().rstrip(b"\0")
        file.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ArchiveError, match=r"truncated|isn't a readable tar"):
            store.import_archive("x", file)
    file.write_bytes(data + bytes(-len(data) % 512))
    with pytest.raises(ArchiveError, match="has no end"):
        store.import_archive("x", file)
    _assert_clean(store, ("sql",))


def test_a_changed_archive_is_noticed(store: AdapterStore, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    store.export_archive(parse_ref("sql"), file)
    data = file.read_bytes()
    at = data.index(b"\x01" * 64)
    file.write_bytes(data[:at] + b"\x02" + data[at + 1 :])
    with pytest.raises(ManifestError, match="changed after it was written"):
        store.import_archive("x", file)
    _assert_clean(store, ("sql",))
