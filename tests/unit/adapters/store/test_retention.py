"""Versions go by the store's policy, whoever publishes, and never one that somebody needs."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.errors import AdapterNotFoundError, DocumentError, InvalidNameError
from adapters.merging.order import MergeSpec
from adapters.names import AdapterRef, parse_ref
from adapters.stack import parse_stack
from adapters.store.keep_policy import KeepPolicy
from adapters.store.store import AdapterStore
from adapters.store.writer import StoreWriter
from tests.unit.adapters.peft_folder import manifest, write_folder

ROOT = Path(__file__).parents[4]
HOLDER = """
import sys
from pathlib import Path
from adapters.names import parse_ref
from adapters.store.store import AdapterStore

store = AdapterStore(Path(sys.argv[1]))
store.hold([parse_ref(text) for text in sys.argv[2:]])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "trained")


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> AdapterStore:
    """Four versions of `sql`, of which two are to be kept."""
    store = AdapterStore(tmp_path / "store")
    for _ in range(4):
        store.publish("sql", folder, manifest())
    store.set_policy(KeepPolicy(2))
    return store


def test_without_a_policy_everything_stays(tmp_path: Path, folder: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    for _ in range(7):
        store.publish("sql", folder, manifest())
    assert store.policy == KeepPolicy(None)
    assert store.versions("sql") == (1, 2, 3, 4, 5, 6, 7)
    assert store.prune("sql") == ()


def test_setting_a_policy_removes_nothing(store: AdapterStore) -> None:
    assert store.versions("sql") == (1, 2, 3, 4)


def test_every_way_of_publishing_keeps_to_it(
    store: AdapterStore, tmp_path: Path, folder: Path
) -> None:
    other = AdapterStore(store.root)
    other.publish("polite", folder, manifest())
    other.publish("sql", folder, manifest())
    assert store.versions("sql") == (4, 5)
    store.import_folder("sql", folder)
    assert store.versions("sql") == (5, 6)
    store.export_archive(AdapterRef("sql"), tmp_path / "sql.tar")
    other.import_archive("sql", tmp_path / "sql.tar")
    assert store.versions("sql") == (6, 7)
    store.publish("sql", folder, manifest(), set_alias=False)
    assert store.versions("sql") == (7, 8)
    assert store.current_version("sql") == 7
    assert store.versions("polite") == (1,)


def test_a_merge_keeps_to_it(store: AdapterStore, folder: Path) -> None:
    merging = pytest.importorskip("adapters.merging.merge")
    store.publish("polite", folder, manifest())
    spec = MergeSpec("sql", parse_stack("sql:0.5+polite:0.5"))
    assert merging.merge_adapters(store, spec).stored.label == "sql@5"
    assert store.versions("sql") == (4, 5)


def test_what_the_name_means_and_meant_stays(store: AdapterStore, folder: Path) -> None:
    store.set_alias("sql", {1: 0.5, 2: 0.5})
    store.publish("sql", folder, manifest(), set_alias=False)
    assert store.versions("sql") == (1, 2, 4, 5), "a canary's versions are needed"
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (1, 2, 5, 6), "requests may be on their way to them"
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (6, 7)


def test_with_one_to_keep_the_replaced_version_outlives_its_replacement(
    store: AdapterStore, folder: Path
) -> None:
    store.set_policy(KeepPolicy(1))
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (4, 5)
    store.set_alias("sql", 4)
    assert store.prune("sql") == ()
    store.set_alias("sql", 5)
    assert store.prune("sql") == (4,)


def test_numbers_are_not_used_again(store: AdapterStore, folder: Path) -> None:
    for wanted in range(5, 12):
        assert store.publish("sql", folder, manifest()).version == wanted


def test_pruning_by_hand(store: AdapterStore) -> None:
    assert store.prune("sql", 3) == (1,)
    assert store.prune("sql") == (2,)
    with pytest.raises(AdapterNotFoundError):
        store.prune("none")
    with pytest.raises(InvalidNameError):
        store.prune("../sql")


def test_a_held_version_stays_until_it_is_let_go(store: AdapterStore, folder: Path) -> None:
    other = AdapterStore(store.root)
    other.hold([parse_ref("sql@1"), parse_ref("polite@2")])
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (1, 4, 5)
    other.hold([parse_ref("sql@4")])
    store.publish("sql", folder, manifest())
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (4, 6, 7)
    assert store.prune("sql", 1) == (6,)
    other.hold([])
    assert store.prune("sql", 1) == (4,)
    assert list((store.root / ".holds").iterdir()) == []


def test_a_dead_process_holds_nothing(store: AdapterStore, folder: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root), "sql@1", "sql@2"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        store.publish("sql", folder, manifest())
        assert store.versions("sql") == (1, 2, 4, 5)
    finally:
        holder.kill()
        holder.communicate()
    assert len(list((store.root / ".holds").iterdir())) == 1
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (5, 6)
    assert list((store.root / ".holds").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"keep": 0}', "keep is 0"),
        ('{"keep": true}', "keep is True"),
        ('{"keep": "5"}', "keep is '5'"),
        ('{"keep": 2, "days": 3}', "unknown field 'days'"),
        ("keep: 2", "isn't valid JSON"),
        ("[2]", "must hold a JSON object"),
    ],
)
def test_a_policy_that_cannot_be_read_removes_nothing(
    store: AdapterStore, folder: Path, caplog: pytest.LogCaptureFixture, text: str, problem: str
) -> None:
    (store.root / ".policy.json").write_text(text)
    assert store.publish("sql", folder, manifest()).version == 5
    assert store.versions("sql") == (1, 2, 3, 4, 5)
    assert "old versions of sql stay" in caplog.text
    assert problem in caplog.text
    for look in (lambda: store.policy, lambda: store.prune("sql")):
        with pytest.raises(DocumentError, match=r"policy\.json"):
            look()
    assert store.prune("sql", 4) == (1,)


def test_what_cannot_be_removed_is_no_failure_of_the_publisher(
    store: AdapterStore,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remove = StoreWriter.remove_version

    def remove_some(self: StoreWriter, name: str, version: int) -> None:
        if version == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        remove(self, name, version)

    monkeypatch.setattr(StoreWriter, "remove_version", remove_some)
    assert store.publish("sql", folder, manifest()).version == 5
    assert store.versions("sql") == (2, 3, 4, 5)
    assert "Input/output error" in caplog.text
    monkeypatch.undo()
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (5, 6)


def test_the_file_can_be_written_by_hand(store: AdapterStore, folder: Path) -> None:
    (store.root / ".policy.json").write_text(json.dumps({"keep": 3}))
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (3, 4, 5)
    (store.root / ".policy.json").unlink()
    store.publish("sql", folder, manifest())
    assert store.versions("sql") == (3, 4, 5, 6)
