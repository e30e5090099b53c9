"""Damaged versions are found when they are first loaded, and go to quarantine."""

from pathlib import Path

import pytest

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage, TemplateRecord, template_hash
from adapters.store.store import AdapterStore
from adapters.template_check import BaseTemplate
from server.core.errors import AdapterUnreadableError
from server.core.stack import AdapterVersion
from server.engine.hosting.catalog import StoreCatalog
from server.engine.hosting.store_keeper import StoreKeeper
from server.engine.hosting.verified_loader import VerifiedLoader
from tests.fakes.runner import FakeLoader
from tests.unit.adapters.peft_folder import MODULES, manifest, write_folder

SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))


@pytest.fixture
def catalog(tmp_path: Path) -> StoreCatalog:
    store = AdapterStore(tmp_path / "store")
    for fill in (1, 2):
        store.import_folder("sql", write_folder(tmp_path / str(fill), fill=fill))
    return StoreCatalog(store, served=SERVED, base_modules=MODULES, allowed_roots=[])


def _current(catalog: StoreCatalog, expression: str = "sql") -> AdapterVersion:
    return catalog.resolve(expression).members[0].adapter


def test_a_flipped_bit_takes_the_version_out(catalog: StoreCatalog) -> None:
    loader = VerifiedLoader(FakeLoader(), catalog.quarantine)
    version = _current(catalog)
    assert loader.load(version).digest == version.digest
    weights = version.path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(AdapterUnreadableError, match="changed or damaged since"):
        loader.load(version)
    for expression in ("sql", "sql@2"):
        with pytest.raises(AdapterUnreadableError, match=r"in quarantine.*damaged since"):
            catalog.resolve(expression)
    assert loader.load(_current(catalog, "sql@1")), "the other versions are served"


def test_what_this_server_cannot_serve_is_kept(catalog: StoreCatalog) -> None:
    class Refusing(FakeLoader):
        def load(self, adapter: AdapterVersion, image: object = None) -> object:  # type: ignore[override]
            raise AdapterUnreadableError("this method isn't served")

    with pytest.raises(AdapterUnreadableError, match="isn't served"):
        VerifiedLoader(Refusing(), catalog.quarantine).load(_current(catalog))
    assert catalog.store.quarantined() == ()


def test_an_added_template_takes_the_version_out(catalog: StoreCatalog) -> None:
    version = _current(catalog)
    (version.path / "chat_template.jinja").write_text("{{ injected }}")
    with pytest.raises(AdapterUnreadableError, match=r"chat_template\.jinja was added"):
        VerifiedLoader(FakeLoader(), catalog.quarantine).load(version)
    assert [str(q.ref) for q in catalog.store.quarantined()] == ["sql@2"]


def test_golden_tokens_are_made_again_at_load(catalog: StoreCatalog, tmp_path: Path) -> None:
    record = TemplateRecord(
        text="t",
        hash=template_hash("t"),
        golden_messages=[{"role": "user", "content": "Hi"}],
        golden_token_ids=[1, 2],
    )
    folder = write_folder(tmp_path / "golden")
    catalog.store.publish("golden", folder, manifest(template=record))
    version = _current(catalog, "golden")
    for tokens, is_served in (([1, 2], True), ([1, 3], False)):
        base = BaseTemplate(record.hash, lambda _, tokens=tokens: tokens)
        loader = VerifiedLoader(FakeLoader(), catalog.quarantine, base)
        if is_served:
            assert loader.load(version).digest == version.digest
        else:
            with pytest.raises(AdapterUnreadableError, match=r"golden tokens.*allow_mismatch"):
                loader.load(version)
    assert catalog.store.quarantined() == (), "it is sound, and for another tokenizer"


def test_what_was_removed_is_no_damage(catalog: StoreCatalog) -> None:
    version = _current(catalog, "sql@1")
    catalog.store.prune("sql", 1)
    with pytest.raises(AdapterUnreadableError, match="was removed from the store"):
        VerifiedLoader(FakeLoader(), catalog.quarantine).load(version)
    assert catalog.store.quarantined() == ()


def test_the_keeper_stops_offering_what_it_takes(catalog: StoreCatalog) -> None:
    keeper = StoreKeeper(catalog, settle_seconds=0)
    keeper.sweep()
    assert len(catalog.list()) == 1
    (_current(catalog).path / "adapter_config.json").write_text("[" * 1000)
    keeper.sweep()
    assert [entry.name for entry in catalog.list()] == ["sql@1"], "what is sound stays"
    with pytest.raises(AdapterUnreadableError, match="changed since it was published"):
        catalog.resolve("sql")
