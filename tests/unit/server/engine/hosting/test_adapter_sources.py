"""Whose a folder is that an adapter may be loaded from."""

from pathlib import Path

import pytest

from adapters.errors import AdapterNotFoundError
from server.engine.hosting.adapter_sources import AdapterSources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("store/a/1", "uploads/b/run", "uploads/shared/store2"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def sources(root: Path) -> AdapterSources:
    return AdapterSources(root / "store", [root / "store", root / "uploads", root / "uploads/b"])


@pytest.mark.parametrize(
    ("path", "owners"),
    [
        ("store/a/1", ("a@1",)),
        ("store/a/1/deeper", ("a@1",)),
        ("store/a/9", ("a@9",)),
        ("store/a", ("a",)),
        ("store/a/01", ("a",)),
        ("store/a/alias.json", ("a",)),
        ("store", ()),
        ("store/.quarantine/a", ()),
        ("store/a/../c/1", ()),
        ("uploads/none/run", ("none",)),
        ("uploads/.hidden/run", ()),
        ("uploads", ("uploads",)),
        ("uploads/b/run", ("run",)),  # a root inside of another one decides
        ("uploads/b", ("b",)),
        ("elsewhere/a", ()),
        ("uploads/a\0b", ()),
    ],
)
def test_a_path_is_its_names(
    sources: AdapterSources, root: Path, path: str, owners: tuple[str, ...]
) -> None:
    assert sources.owners(f"{root}/{path}") == owners


def test_a_link_has_two_owners(sources: AdapterSources, root: Path) -> None:
    (root / "uploads" / "mine").symlink_to(root / "store" / "a" / "1")
    assert sources.owners(f"{root}/uploads/mine") == ("mine", "a@1")
    (root / "uploads" / "out").symlink_to("/etc")
    assert sources.owners(f"{root}/uploads/out") == ()


def test_a_root_may_be_given_through_a_link(root: Path) -> None:
    (root / "link").symlink_to(root / "uploads")
    for written in ("link", "uploads"):
        sources = AdapterSources(root / "store", [root / "link"])
        assert sources.owners(f"{root}/{written}/c/run") == ("c",)


def test_a_path_that_leads_nowhere_is_not_found(sources: AdapterSources, root: Path) -> None:
    (root / "uploads" / "loop").symlink_to(root / "uploads" / "loop")
    for path in (f"{root}/uploads/loop", f"{root}/uploads/a\0b", f"{root}/uploads/c", "/etc"):
        with pytest.raises(AdapterNotFoundError):
            sources.folder(path)
