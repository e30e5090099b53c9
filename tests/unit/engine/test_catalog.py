"""Names to versions, over a real store."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from adapters.errors import AdapterExistsError, AdapterNotFoundError, InspectionError
from adapters.manifest import BaseLineage
from adapters.store import AdapterStore
from server.core.errors import AdapterUnavailableError, RequestError
from server.engine.catalog import StoreCatalog
from tests.unit.adapters.peft_folder import MODULES, write_folder

BASE = BaseLineage(reference="base", digest="sha256:served")
OTHER = BaseLineage(reference="other", digest="sha256:other")


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "trained" / "sql"
    write_folder(path)
    return path


def catalog_of(store: AdapterStore, *roots: Path) -> StoreCatalog:
    return StoreCatalog(store, base=BASE, base_modules=MODULES, allowed_roots=roots)


def test_names_versions_and_stacks_resolve(store: AdapterStore, folder: Path) -> None:
    store.import_folder("sql", folder)
    store.import_folder("sql", folder)
    store.import_folder("polite", folder)
    catalog = catalog_of(store)
    assert catalog.resolve("sql").expression == "sql@2"
    assert catalog.resolve("sql@1").expression == "sql@1"
    stack = catalog.resolve("sql:0.7+polite@1:-0.3")
    assert stack.expression == "sql@2:0.7+polite@1:-0.3"
    assert [entry.name for entry in catalog.list()] == ["polite", "sql"]
    assert catalog.list()[1].root == "sql/2"


@pytest.mark.parametrize("name", ["none", "sql@9", "sql+none"])
def test_what_is_not_there_is_unavailable(store: AdapterStore, folder: Path, name: str) -> None:
    store.import_folder("sql", folder)
    with pytest.raises(AdapterUnavailableError, match="GET /v1/models lists"):
        catalog_of(store).resolve(name)


def test_an_expression_that_does_not_parse_is_the_callers_mistake(store: AdapterStore) -> None:
    with pytest.raises(RequestError):
        catalog_of(store).resolve("sql:heavy")


def test_an_adapter_of_another_base_is_not_offered(store: AdapterStore, folder: Path) -> None:
    store.import_folder("sql", folder, base=OTHER)
    catalog = catalog_of(store)
    assert not catalog.list()
    with pytest.raises(RequestError, match="trained on the base other"):
        catalog.resolve("sql")


def test_load_reads_only_below_the_allowed_roots(store: AdapterStore, folder: Path) -> None:
    catalog = catalog_of(store, folder.parent)
    assert catalog.load("sql", str(folder), replace=False).label == "sql@1"
    with pytest.raises(AdapterExistsError):
        catalog.load("sql", str(folder), replace=False)
    assert catalog.load("sql", str(folder), replace=True).label == "sql@2"
    for path in ("/etc", str(folder.parent / ".." / ".."), str(folder.parent / "nothing")):
        with pytest.raises(AdapterNotFoundError, match="No adapter found"):
            catalog.load("x", path, replace=False)
    link = folder.parent / "link"
    link.symlink_to("/etc")
    with pytest.raises(AdapterNotFoundError, match="read only below"):
        catalog.load("x", str(link), replace=False)


def test_a_folder_that_does_not_fit_the_base_is_refused(store: AdapterStore, folder: Path) -> None:
    catalog = StoreCatalog(
        store, base=BASE, base_modules={"other": (8, 8)}, allowed_roots=[folder.parent]
    )
    with pytest.raises(InspectionError):
        catalog.load("sql", str(folder), replace=False)
    assert store.names() == ()


def test_unloading_hides_and_a_new_version_shows_again(store: AdapterStore, folder: Path) -> None:
    store.import_folder("sql", folder)
    catalog = catalog_of(store, folder.parent)
    catalog.unload("sql")
    with pytest.raises(AdapterUnavailableError):
        catalog.resolve("sql")
    with pytest.raises(AdapterNotFoundError):
        catalog.unload("sql")
    assert store.names() == ("sql",), "unloading deletes nothing"
    catalog.load("sql", str(folder), replace=False)
    assert catalog.resolve("sql").expression == "sql@2"


async def test_watching_follows_the_store(store: AdapterStore, folder: Path) -> None:
    catalog = catalog_of(store)
    watching = asyncio.create_task(catalog.watch())
    await asyncio.sleep(0.3)
    await asyncio.to_thread(store.import_folder, "sql", folder)
    for _ in range(100):
        if catalog.list():
            break
        await asyncio.sleep(0.05)
    assert catalog.resolve("sql").expression == "sql@1"
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
