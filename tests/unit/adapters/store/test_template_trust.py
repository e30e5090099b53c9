"""No chat template is believed, and none but the base's is used unless the operator allows it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from adapters.errors import AdapterError, InspectionError, StoreError
from adapters.format.manifest import TemplateRecord, template_hash
from adapters.names import AdapterRef
from adapters.store.store import AdapterStore
from adapters.store.verification import verify_stored
from adapters.template_check import BaseTemplate, golden_problem, record_problem
from tests.unit.adapters.peft_folder import manifest, write_folder

TEXT = "{{ messages }}"
INJECTED = "do as I say {{ messages }}"
GOLDEN = [{"role": "user", "content": "Hi"}]


def _tokens(messages: Sequence[Mapping[str, str]]) -> list[int]:
    return [len(message["content"]) for message in messages]


BASE = BaseTemplate(template_hash(TEXT), _tokens)


def _record(text: str = TEXT, **changes: object) -> TemplateRecord:
    facts = {"golden_messages": GOLDEN, "golden_token_ids": [2], "hash": template_hash(text)}
    return TemplateRecord.model_validate({"text": text, **facts, **changes})


def _folder(path: Path, record: TemplateRecord) -> Path:
    folder = write_folder(path)
    (folder / "manifest.json").write_text(manifest(template=record).to_json())
    return folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


def test_a_claimed_hash_is_not_believed(store: AdapterStore, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a", _record(INJECTED, hash=BASE.hash))
    for base in (None, BASE):
        for allow in (False, True):
            with pytest.raises(InspectionError, match=f"hashes to .*, not {BASE.hash}"):
                store.import_folder("sql", folder, base_template=base, allow_template=allow)
    assert store.names() == ()


def test_the_lineage_has_the_hash_of_the_text() -> None:
    lineage = manifest(template=_record(INJECTED, hash=BASE.hash)).lineage
    assert lineage.template_hash == template_hash(INJECTED)


def test_another_template_needs_the_operators_word(store: AdapterStore, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a", _record(INJECTED))
    with pytest.raises(InspectionError, match="`adapters import --allow-template`"):
        store.import_folder("sql", folder, base_template=BASE)
    without = BaseTemplate(None, _tokens)
    with pytest.raises(InspectionError, match="this base's is none"):
        store.import_folder("sql", folder, base_template=without)
    allowed = store.import_folder("sql", folder, base_template=BASE, allow_template=True)
    assert store.allows_template(allowed)
    own = store.import_folder(
        "own", _folder(tmp_path / "b", _record()), base_template=BASE, allow_template=True
    )
    assert not store.allows_template(own), "it is the base's: nothing to allow"
    # A base that isn't known can't be compared with: it is kept, and not used.
    unknown = store.import_folder("other", folder)
    assert not store.allows_template(unknown)
    store.allow_template(AdapterRef("other", 1))
    assert store.allows_template(unknown)
    assert AdapterStore(store.root).allows_template(unknown)


def test_a_permission_goes_nowhere_with_the_version(store: AdapterStore, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a", _record(INJECTED))
    allowed = store.import_folder("sql", folder, allow_template=True)
    store.export_archive(AdapterRef("sql", 1), tmp_path / "sql.tar")
    other = AdapterStore(tmp_path / "other")
    assert not other.allows_template(other.import_archive("sql", tmp_path / "sql.tar"))
    assert not other.allows_template(other.import_folder("sql", allowed.path))
    shutil.copytree(store.root / "sql", tmp_path / "third" / "sql")
    third = AdapterStore(tmp_path / "third")
    assert not third.allows_template(third.get(AdapterRef("sql", 1)))


def test_a_permission_is_of_these_bytes_and_this_template(
    store: AdapterStore, tmp_path: Path
) -> None:
    first = _folder(tmp_path / "a", _record(INJECTED))
    store.import_folder("sql", first, allow_template=True)
    store.remove(AdapterRef("sql"))
    again = store.import_folder("sql", _folder(tmp_path / "b", _record("worse")))
    assert again.label == "sql@1"
    assert not store.allows_template(again)
    store.remove(AdapterRef("sql"))
    write_folder(first, fill=5)
    assert not store.allows_template(store.import_folder("sql", first))


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "allowed": [1]}'])
def test_a_damaged_file_allows_nothing(store: AdapterStore, tmp_path: Path, text: str) -> None:
    folder = _folder(tmp_path / "a", _record(INJECTED))
    allowed = store.import_folder("sql", folder, allow_template=True)
    path = store.root / ".templates.json"
    assert json.loads(path.read_text())["allowed"].keys() == {"sql@1"}
    path.write_text(text)
    assert not store.allows_template(allowed)


def test_a_version_without_a_template_has_nothing_to_allow(
    store: AdapterStore, tmp_path: Path
) -> None:
    store.import_folder("sql", write_folder(tmp_path / "a"))
    with pytest.raises(StoreError, match="sql@1 has no chat template of its own"):
        store.allow_template(AdapterRef("sql"))


def test_golden_tokens_are_made_again(store: AdapterStore, tmp_path: Path) -> None:
    lies = _folder(tmp_path / "a", _record(golden_token_ids=[3]))
    with pytest.raises(InspectionError, match="records 1 golden tokens, and this base makes 1 oth"):
        store.import_folder("sql", lies, base_template=BASE)
    stored = store.import_folder("sql", lies)
    assert verify_stored(stored) == ()
    (problem,) = verify_stored(stored, base_template=BASE)
    assert "golden tokens" in problem
    refusing = BaseTemplate(BASE.hash, lambda _: None)
    assert "this base refuses the same messages" in (golden_problem(_record(), refusing) or "")
    assert golden_problem(_record(), BASE) is None


def test_only_the_bases_template_is_ever_run() -> None:
    def never(_: object) -> list[int]:
        raise AssertionError("ran")

    assert golden_problem(_record(INJECTED), BaseTemplate(BASE.hash, never)) is None
    clock = "{{ strftime_now('%d') }}"
    daily = BaseTemplate(template_hash(clock), never)
    assert golden_problem(_record(clock), daily) is None, "other tokens every day"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"golden_messages": GOLDEN * 65}, "65 golden messages"),
        ({"golden_messages": [{"content": "x" * 70_000}]}, "of 70000 characters"),
        ({"text": "x" * 300_000, "hash": template_hash("x" * 300_000)}, "300000 characters"),
    ],
)
def test_records_have_limits(
    store: AdapterStore, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    record = _record(**changes)  # type: ignore[arg-type]
    assert reason in (record_problem(record) or "")
    with pytest.raises(AdapterError, match=reason):
        store.import_folder("sql", _folder(tmp_path / "a", record))
