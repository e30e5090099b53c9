"""Names that don't mean what their alias says: shown as they are, with the way out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from adapters.commands.cli import app
from adapters.errors import AdapterInUseError, AdapterNotFoundError, UnsoundError
from adapters.names import AdapterRef, parse_ref
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, write_folder

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """`sql` 1 to 3, `polite` 1."""
    store = AdapterStore(tmp_path / "store")
    folder = write_folder(tmp_path / "trained")
    for name in ("sql", "sql", "sql", "polite"):
        store.publish(name, folder, manifest())
    return store


def run(store: AdapterStore, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(store.root)])


def rows(store: AdapterStore) -> dict[str, list[str]]:
    lines = (line.split() for line in run(store, "ls").output.splitlines())
    found = [words for words in lines if words[1:2] and words[1] not in ("points", "adapters")]
    return {words[0]: words[1:] for words in found}


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _torn_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [_no_manifest, _torn_manifest, _gone])
@pytest.mark.parametrize("sweeps", [False, True])
def test_a_damaged_current_version_hides_no_other(
    store: AdapterStore, harm: Callable[[Path], None], sweeps: bool
) -> None:
    harm(store.root / "sql" / "3")
    if sweeps:
        store.sweep(settle_seconds=0)
    again = AdapterStore(store.root)
    text = run(again, "ls").output
    assert "sql points at nothing: sql@3 is " in text
    assert "`adapters alias sql 2` rolls back" in text
    assert "sql@1, sql@2" in text
    assert text.splitlines()[2].split()[:3] == ["sql", "nothing", "2"]
    (_, entry) = json.loads(run(again, "ls", "--json").output)
    assert (entry["name"], entry["version"], entry["versions"]) == ("sql", None, [1, 2])
    assert entry["alias"] == {"3": 1.0}
    assert "adapters alias sql 2" in entry["remedy"]
    shown = run(again, "show", "sql")
    assert (shown.exit_code, "`adapters alias sql 2`" in shown.stderr) == (1, True)
    assert "points at nothing" in run(again, "show", "sql@1").output
    assert run(again, "alias", "sql", "2").exit_code == 0
    assert "points at nothing" not in run(again, "ls").output
    assert again.strays() == ()


def test_a_name_without_any_sound_version_is_listed(store: AdapterStore) -> None:
    shutil.rmtree(store.root / "polite" / "1")
    text = run(store, "ls").output
    assert "polite points at nothing: polite@1 is missing" in text
    assert "adapters quarantine ls" in text
    with pytest.raises(AdapterNotFoundError, match=r"polite@1 is missing"):
        store.get(parse_ref("polite"))


def test_damage_that_the_manifest_does_not_show_is_listed(store: AdapterStore) -> None:
    (store.root / "sql" / "3" / WEIGHTS).write_bytes(b"short")
    text = run(store, "ls").output
    assert "sql@3 is damaged: adapter_model.safetensors: it has 5 bytes" in text
    assert "`adapters alias sql 2` rolls back" in text
    assert "it has 5 bytes" in run(store, "show", "sql").output


def test_half_a_canary_is_told(store: AdapterStore) -> None:
    store.set_alias("sql", {2: 0.9, 3: 0.1})
    shutil.rmtree(store.root / "sql" / "3")
    (stray,) = store.strays()
    assert not stray.points_at_nothing
    assert stray.problem == "misses a part of its canary: sql@3 is missing"
    assert [s.label for s in store.list()] == ["polite@1", "sql@2"]
    assert "misses a part of its canary" in run(store, "ls").output


def test_canaries_show_their_weights(store: AdapterStore) -> None:
    store.set_alias("sql", {2: 0.75, 3: 0.25})
    text = run(store, "ls").output
    assert "2:0.75 3:0.25" in text
    assert "2:0.75 3:0.25" in run(store, "show", "sql").output
    assert json.loads(run(store, "show", "sql", "--json").output)["alias"] == {"2": 0.75, "3": 0.25}


def test_an_import_says_that_it_ends_a_canary(store: AdapterStore, tmp_path: Path) -> None:
    folder = str(tmp_path / "trained")
    assert "canary" not in run(store, "import", "sql", folder).output
    store.set_alias("sql", {2: 0.75, 3: 0.25})
    text = run(store, "import", "sql", folder).output
    assert "this ends the canary 2:0.75 3:0.25: sql means 5 now" in text
    assert "`adapters alias sql 2:0.75 3:0.25` brings it back" in text


@pytest.mark.parametrize("as_archive", [False, True])
def test_a_staged_import_does_not_go_live(
    store: AdapterStore, tmp_path: Path, as_archive: bool
) -> None:
    source = str(tmp_path / "trained")
    if as_archive:
        source = str(tmp_path / "sql.tar")
        store.export_archive(parse_ref("sql"), Path(source))
    store.set_alias("sql", {2: 0.75, 3: 0.25})
    text = run(store, "import", "sql", source, "--stage").output
    assert "staged: sql still means 2:0.75 3:0.25; `adapters alias sql 4` makes sql@4 live" in text
    assert store.alias("sql").targets == ((2, 0.75), (3, 0.25))
    run(store, "import", "fresh", source, "--stage")
    with pytest.raises(AdapterNotFoundError, match="`adapters alias fresh 1` makes it live"):
        store.get(parse_ref("fresh"))
    assert rows(store)["fresh"][:2] == ["nothing", "1"]
    assert store.get(parse_ref("fresh@1")).label == "fresh@1"


def test_an_alias_to_an_unsound_version_is_refused(store: AdapterStore) -> None:
    weights = store.root / "sql" / "2" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for target in (2, {2: 0.5, 3: 0.5}):
        with pytest.raises(UnsoundError, match="sql@2 can't be what sql means"):
            store.set_alias("sql", target)
    assert store.alias("sql").version == 3
    result = run(store, "alias", "sql", "2")
    assert (result.exit_code, "changed or damaged since" in result.stderr) == (1, True)


def test_restoring_verifies(store: AdapterStore) -> None:
    manifest_file = store.root / "sql" / "3" / "manifest.json"
    text = manifest_file.read_text()
    manifest_file.unlink()
    store.sweep(settle_seconds=0)
    (quarantined,) = store.quarantined()
    with pytest.raises(UnsoundError, match=r"is still damaged.*manifest\.json is missing"):
        store.restore(quarantined.key)
    (quarantined.path / "manifest.json").write_text(text)
    weights = quarantined.path / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = run(store, "quarantine", "restore", quarantined.key)
    assert (result.exit_code, "changed or damaged since" in result.stderr) == (1, True)
    assert store.versions("sql") == (1, 2)
    weights.write_bytes(whole)
    assert store.restore(quarantined.key) == AdapterRef("sql", 3)


def test_removing_what_a_name_means_is_an_error_of_its_own(store: AdapterStore) -> None:
    with pytest.raises(AdapterInUseError, match="adapters alias sql 2"):
        store.remove(parse_ref("sql@3"))
