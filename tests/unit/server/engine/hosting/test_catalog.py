"""Names to versions, over a real store."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from adapters.compatibility import ServedBase
from adapters.errors import AdapterExistsError, AdapterNotFoundError, InspectionError
from adapters.format.manifest import (
    BaseLineage,
    Manifest,
    QuantizationRecord,
    TemplateRecord,
    template_hash,
)
from adapters.names import AdapterRef
from adapters.store.store import AdapterStore
from adapters.template_check import BaseTemplate
from server.core.errors import (
    AdapterTooLargeError,
    AdapterUnavailableError,
    AdapterUnreadableError,
    RequestError,
)
from server.engine.hosting.catalog import CatalogChange, StoreCatalog
from tests.unit.adapters.peft_folder import MODULES, write_folder

BASE = BaseLineage(reference="base", digest="sha256:served")
OTHER = BaseLineage(reference="other", digest="sha256:other")
NF4 = QuantizationRecord(scheme="nf4", block_size=64, double_quant=True)
FP4 = QuantizationRecord(scheme="fp4", block_size=64, double_quant=True)
TEMPLATE = TemplateRecord(
    text="t", hash=template_hash("t"), golden_messages=[], golden_token_ids=[]
)


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "trained" / "sql"
    write_folder(path)
    return path


def catalog_of(store: AdapterStore, *roots: Path) -> StoreCatalog:
    return StoreCatalog(store, served=ServedBase(BASE), base_modules=MODULES, allowed_roots=roots)


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
        store,
        served=ServedBase(BASE),
        base_modules={"other": (8, 8)},
        allowed_roots=[folder.parent],
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


def test_a_canary_sticks_and_serves_what_is_readable(store: AdapterStore, folder: Path) -> None:
    for _ in range(2):
        store.import_folder("sql", folder)
    store.set_alias("sql", {1: 0.5, 2: 0.5})
    catalog = catalog_of(store)
    chosen = {key: catalog.resolve("sql", key).expression for key in map(str, range(40))}
    assert set(chosen.values()) == {"sql@1", "sql@2"}
    assert chosen == {key: catalog.resolve("sql", key).expression for key in chosen}
    assert catalog.entry("sql").meaning == "sql@1:0.5, sql@2:0.5"
    catalog.quarantine(AdapterRef("sql", 2), "because")
    assert {catalog.resolve("sql", key).expression for key in chosen} == {"sql@1"}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"base": OTHER}, "trained on the base other"),
        ({"base": BASE, "quantization": FP4}, "base weights in fp4.*server holds them in nf4"),
    ],
)
def test_mismatches_are_errors_or_warnings(
    store: AdapterStore, folder: Path, manifest: dict[str, object], message: str
) -> None:
    facts = {"name": "sql", "created_unix_seconds": 1, "method": "lora", "rank": 2, **manifest}
    store.publish("sql", folder, Manifest.model_validate(facts))
    served = ServedBase(BASE, NF4, "sha256:here")
    strict = StoreCatalog(store, served=served, base_modules=MODULES, allowed_roots=[])
    for expression in ("sql", "sql@1"):
        with pytest.raises(RequestError, match=f"{message}.*allow_mismatch"):
            strict.resolve(expression)
    assert strict.list() == []
    lax = StoreCatalog(
        store, served=served, base_modules=MODULES, allowed_roots=[], allow_mismatch=True
    )
    assert [entry.name for entry in lax.list()] == ["sql"]
    (warning,) = lax.warnings(lax.resolve("sql"))
    assert re.search(message, warning)


def _with_template(folder: Path, record: TemplateRecord = TEMPLATE) -> Manifest:
    facts = {"name": "sql", "created_unix_seconds": 1, "method": "lora", "rank": 2, "base": BASE}
    manifest = Manifest.model_validate({**facts, "template": record})
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def test_another_template_is_not_used_until_it_is_allowed(
    store: AdapterStore, folder: Path
) -> None:
    store.publish("sql", folder, _with_template(folder))
    served = ServedBase(BASE, NF4, template_hash("the base's"))
    catalog = StoreCatalog(store, served=served, base_modules=MODULES, allowed_roots=[])
    version = catalog.resolve("sql").members[0].adapter
    assert version.chat_template == "", "the base's"
    assert version.template_note is not None
    assert "`adapters allow-template sql@1`" in version.template_note
    (warning,) = catalog.warnings(catalog.resolve("sql"))
    assert warning.startswith("adapter sql@1: it was trained with the chat template sha256:")
    assert [entry.name for entry in catalog.list()] == ["sql"], "served all the same"
    store.allow_template(AdapterRef("sql", 1))
    catalog.refresh()
    version = catalog.resolve("sql").members[0].adapter
    assert (version.chat_template, version.template_note) == ("t", None)
    assert catalog.warnings(catalog.resolve("sql")) == ()


def test_a_claimed_template_hash_is_not_believed(store: AdapterStore, folder: Path) -> None:
    """A manifest in the store, of whatever age, may lie about its template; nobody renders it."""
    here = template_hash("the base's")
    lying = TEMPLATE.model_copy(update={"hash": here})
    store.publish("sql", folder, _with_template(folder, lying))
    served = ServedBase(BASE, NF4, here)
    for opened in (store, AdapterStore(store.root)):
        catalog = StoreCatalog(opened, served=served, base_modules=MODULES, allowed_roots=[])
        version = catalog.resolve("sql").members[0].adapter
        assert version.chat_template == ""
        assert version.template_note is not None


def test_the_bases_template_is_nobodys_own(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, _with_template(folder))
    store.import_folder("plain", write_folder(folder.parent / "plain"))
    served = ServedBase(BASE, NF4, TEMPLATE.text_hash)
    catalog = StoreCatalog(store, served=served, base_modules=MODULES, allowed_roots=[])
    templates = [m.adapter.chat_template for m in catalog.resolve("sql+plain").members]
    assert templates == ["", None]
    assert catalog.warnings(catalog.resolve("sql")) == ()


def test_loading_refuses_another_template_and_other_tokens(
    store: AdapterStore, folder: Path
) -> None:
    golden = {"golden_messages": [{"role": "user", "content": "Hi"}], "golden_token_ids": [1]}
    _with_template(folder, TEMPLATE.model_copy(update=golden))
    for base, message in (
        (BaseTemplate(template_hash("other"), lambda _: [1]), "`adapters import --allow-template`"),
        (BaseTemplate(TEMPLATE.text_hash, lambda _: [2]), "golden tokens"),
    ):
        catalog = StoreCatalog(
            store,
            served=ServedBase(BASE),
            base_modules=MODULES,
            base_template=base,
            allowed_roots=[folder],
        )
        with pytest.raises(InspectionError, match=message):
            catalog.load("sql", str(folder), replace=False)
    assert store.names() == ()


async def test_a_permission_is_noticed(store: AdapterStore, folder: Path) -> None:
    store.publish("sql", folder, _with_template(folder))
    catalog = catalog_of(store)
    watching = asyncio.create_task(catalog.watch())
    assert catalog.resolve("sql").members[0].adapter.chat_template == ""
    for _ in range(100):
        # A change before the watch begins isn't one that it sees.
        (store.root / ".templates.json").unlink(missing_ok=True)
        store.allow_template(AdapterRef("sql", 1))
        await asyncio.sleep(0.1)
        if catalog.resolve("sql").members[0].adapter.chat_template == "t":
            break
    assert catalog.resolve("sql").members[0].adapter.chat_template == "t"
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


def test_what_fits_or_does_not_say_gives_no_warning(store: AdapterStore, folder: Path) -> None:
    store.import_folder("sql", folder)
    catalog = StoreCatalog(
        store,
        served=ServedBase(BASE, NF4, "sha256:here"),
        base_modules=MODULES,
        allowed_roots=[],
        allow_mismatch=True,
    )
    assert catalog.warnings(catalog.resolve("sql")) == ()


def test_a_rank_over_the_bank_is_refused_at_load(store: AdapterStore, folder: Path) -> None:
    catalog = StoreCatalog(
        store,
        served=ServedBase(BASE),
        base_modules=MODULES,
        allowed_roots=[folder.parent],
        max_rank=1,
    )
    with pytest.raises(AdapterTooLargeError, match=r"rank 2.*up to 1 \(setting max_lora_rank\)"):
        catalog.load("sql", str(folder), replace=False)
    assert store.names() == ()


def test_only_what_changed_is_read_again(store: AdapterStore, folder: Path) -> None:
    for index in range(20):
        store.import_folder(f"a{index}", folder)
    catalog = catalog_of(AdapterStore(store.root))
    reader = catalog.store
    assert reader.num_files_parsed == 0, "nothing is read before it is asked for"
    assert len(catalog.list()) == 20
    assert reader.num_files_parsed == 40, "an alias and a manifest each"
    catalog.refresh()
    assert reader.num_files_parsed == 40
    told: list[CatalogChange] = []
    catalog.subscribe(told.append)
    store.import_folder("a7", folder)
    catalog.refresh(["a7", "a8"])
    assert reader.num_files_parsed == 42
    meant = frozenset({catalog.resolve("a7").digest})
    assert told == [CatalogChange(frozenset({"a7"}), frozenset(), meant)], "same bytes"
    assert catalog.resolve("a7").expression == "a7@2"


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


def test_a_damaged_current_version_hides_no_other(store: AdapterStore, folder: Path) -> None:
    for _ in range(3):
        store.import_folder("sql", folder)
    catalog = catalog_of(store)
    assert catalog.resolve("sql").expression == "sql@3"
    (store.root / "sql" / "3" / "manifest.json").unlink()
    for known in (catalog, catalog_of(store)):
        known.refresh(["sql"])
        assert [entry.name for entry in known.list()] == ["sql@1", "sql@2"]
        assert [entry.root for entry in known.list()] == ["sql/1", "sql/2"]
        assert known.resolve("sql@2").expression == "sql@2"
        for reference in ("sql", "sql@3"):
            with pytest.raises(AdapterUnreadableError, match="adapters alias sql 2"):
                known.resolve(reference)
        with pytest.raises(AdapterUnreadableError, match="points at nothing"):
            known.entry("sql")
    store.set_alias("sql", 2)
    catalog.refresh(["sql"])
    assert [entry.name for entry in catalog.list()] == ["sql"]
    assert catalog.strays() == []


def test_what_was_only_staged_is_there_by_version(store: AdapterStore, folder: Path) -> None:
    store.import_folder("sql", folder, set_alias=False)
    catalog = catalog_of(store)
    assert [entry.name for entry in catalog.list()] == ["sql@1"]
    with pytest.raises(AdapterUnavailableError, match="`adapters alias sql 1` makes it live"):
        catalog.resolve("sql")


@pytest.mark.parametrize("path", ["a\0b", "/\0", "x" * 5000, "a/" * 3000, "\ud800"])
def test_no_path_that_can_not_be_one_is_our_failure(
    store: AdapterStore, folder: Path, path: str
) -> None:
    for given in (path, f"{folder.parent}/{path}"):
        with pytest.raises(AdapterNotFoundError, match="No adapter found"):
            catalog_of(store, folder.parent).load("sql", given, replace=False)
