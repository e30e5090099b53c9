import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adapters.commands.cli import app
from adapters.format.manifest import BaseLineage, QuantizationRecord, TemplateRecord, template_hash
from adapters.names import parse_ref
from adapters.store.keep_policy import KeepPolicy
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import lora_config, manifest, write_folder


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SWITCHYARD_STORE", "SWITCHYARD_BASE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    folder = write_folder(tmp_path / "trained")
    base = BaseLineage(reference="embedded:tiny", digest="sha256:1")
    spec = QuantizationRecord(scheme="nf4", block_size=64, double_quant=True)
    store.publish("sql", folder, manifest(base=base, quantization=spec, metrics={"loss": 1.25}))
    store.publish("sql", folder, manifest())
    store.publish("polite", folder, manifest())
    return store


def _run(store: AdapterStore, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(store.root)], **options)


def _fails(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("command", [None, "ls", "show", "verify", "import", "rm", "alias"])
def test_help_reads_well(command: str | None) -> None:
    arguments = ["--help"] if command is None else [command, "--help"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    for word in ["ls", "show", "verify", "import", "rm", "alias"] if command is None else []:
        assert word in result.output
    if command is not None:
        assert "--store" in result.output
        assert "SWITCHYARD_STORE" in result.output


def test_ls(store: AdapterStore) -> None:
    result = _run(store, "ls")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0][:4] == ["NAME", "VERSION", "VERSIONS", "RANK"]
    assert [line[:4] for line in lines[1:]] == [["polite", "1", "1", "2"], ["sql", "2", "2", "2"]]
    data = json.loads(_run(store, "ls", "--json").output)
    assert [(entry["name"], entry["versions"]) for entry in data] == [
        ("polite", [1]),
        ("sql", [1, 2]),
    ]


def test_ls_of_nothing(tmp_path: Path) -> None:
    runner = CliRunner()
    none = tmp_path / "none"
    result = runner.invoke(app, ["ls", "--store", str(none)])
    assert (result.exit_code, "no adapters" in result.output) == (0, True)
    assert runner.invoke(app, ["ls", "--json", "--store", str(none)]).output == "[]\n"
    assert not none.exists()
    AdapterStore(none)
    assert "adapters import NAME FOLDER" in runner.invoke(app, ["ls", "--store", str(none)]).output


def test_the_store_comes_from_the_environment(store: AdapterStore) -> None:
    result = CliRunner().invoke(app, ["ls", "--json"], env={"SWITCHYARD_STORE": str(store.root)})
    assert len(json.loads(result.output)) == 2


def test_show(store: AdapterStore) -> None:
    text = _run(store, "show", "sql@1").output
    for part in ("sql@1", "embedded:tiny", "nf4, block size 64, double", "1.25", "1, 2"):
        assert part in text
    data = json.loads(_run(store, "show", "sql", "--json").output)
    assert data["version"] == 2
    assert data["manifest"]["digest"] == data["digest"]
    _fails(_run(store, "show", "sqll"), "did you mean sql?")
    _fails(_run(store, "show", "sql@9"), "there is: 1, 2")
    _fails(_run(store, "show", "../sql"), "isn't one")


def test_verify_a_version(store: AdapterStore, tmp_path: Path) -> None:
    stored = store.get(parse_ref("sql"))
    result = _run(store, "verify", "sql")
    assert (result.exit_code, result.output) == (0, f"ok: sql@2 {stored.digest}\n")
    write_folder(stored.path, fill=3)
    _fails(_run(store, "verify", "sql"), "its digest is sha256:")
    write_folder(stored.path, config=lora_config(r=3))
    result = _run(store, "verify", "sql")
    _fails(result, "adapter_config.json says 3")
    assert result.stderr.startswith("error: sql@2 is not sound:\n- ")
    (stored.path / "adapter_model.safetensors").write_bytes(b"short")
    _fails(_run(store, "verify", "sql"), "a safetensors file has at least 8")


def test_verify_what_the_manifest_says(store: AdapterStore, tmp_path: Path) -> None:
    template = TemplateRecord(text="x", hash="sha256:no", golden_messages=[], golden_token_ids=[])
    folder = write_folder(tmp_path / "trained")
    store.publish("odd", folder, manifest(rank=8, method="dora", template=template))
    result = _run(store, "verify", "odd")
    for message in ("its manifest says 8", "its manifest says dora", "not sha256:no"):
        _fails(result, message)


def test_verify_a_folder(store: AdapterStore, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    result = _run(store, "verify", str(folder))
    assert result.exit_code == 0
    assert "is a lora adapter of rank 2 over 4 modules" in result.output
    (folder / "adapter_model.bin").write_bytes(b"x")
    (folder / "adapter_config.json").unlink()
    result = _run(store, "verify", str(folder))
    _fails(result, "- adapter_model.bin is a pickle")
    _fails(result, "- adapter_config.json is missing")


def test_import(store: AdapterStore, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "new", fill=5)
    result = _run(store, "import", "fresh", str(folder))
    assert result.exit_code == 0
    assert result.output.startswith("imported fresh@1 sha256:")
    assert store.get(parse_ref("fresh")).manifest.source == str(folder)
    _fails(_run(store, "import", "../x", str(folder)), "isn't one")
    _fails(_run(store, "import", "fresh@2", str(folder)), "isn't one")
    _fails(_run(store, "import", "fresh", str(tmp_path / "none")), "No such file")


def test_rm(store: AdapterStore) -> None:
    result = _run(store, "rm", "sql", input="n\n")
    assert result.exit_code == 1
    assert "remove sql with all its versions (2)" in result.output
    assert store.versions("sql") == (1, 2)
    _fails(_run(store, "rm", "sql@2", "--yes"), "point it elsewhere first (adapters alias sql 1)")
    assert _run(store, "rm", "sql@1", "--yes").output == "removed sql@1\n"
    assert _run(store, "rm", "sql", input="y\n").exit_code == 0
    assert store.names() == ("polite",)
    _fails(_run(store, "rm", "sql", "--yes"), "has no adapter sql")


def test_alias(store: AdapterStore) -> None:
    assert _run(store, "alias", "sql", "1").output == "sql is now sql@1\n"
    assert store.current_version("sql") == 1
    _fails(_run(store, "alias", "sql", "7"), "has no version 7")
    _fails(_run(store, "alias", "sql", "0"), "versions are 1 to")


def test_no_store(tmp_path: Path) -> None:
    for arguments in (["show", "a"], ["rm", "a", "--yes"], ["alias", "a", "1"], ["verify", "a"]):
        result = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "none")])
        _fails(result, "there is no store")
    (tmp_path / "file").write_text("x")
    folder = write_folder(tmp_path / "new")
    arguments = ["import", "a", str(folder), "--store", str(tmp_path / "file")]
    _fails(CliRunner().invoke(app, arguments), "can't be opened as a store")


def test_policy(store: AdapterStore, tmp_path: Path) -> None:
    assert "keeps every version" in _run(store, "policy").output
    assert "keeps the newest 3 versions" in _run(store, "policy", "--keep", "3").output
    assert store.policy == KeepPolicy(3)
    assert "keeps the newest 3 versions" in _run(store, "policy").output
    assert "keeps every version" in _run(store, "policy", "--keep-all").output
    assert store.policy == KeepPolicy(None)
    _fails(_run(store, "policy", "--keep-all", "--keep", "2"), "contradict")
    assert _run(store, "policy", "--keep", "0").exit_code == 2
    nowhere = CliRunner().invoke(app, ["policy", "--store", str(tmp_path / "nowhere")])
    _fails(nowhere, "there is no store")
    assert not (tmp_path / "nowhere").exists()


def test_prune(store: AdapterStore, tmp_path: Path) -> None:
    for _ in range(2):
        store.publish("sql", tmp_path / "trained", manifest())
        store.publish("polite", tmp_path / "trained", manifest())
    _fails(_run(store, "prune"), "has no policy")
    assert _run(store, "prune", "polite", "--keep", "2").output == "removed polite@1\n"
    store.set_policy(KeepPolicy(1))
    assert _run(store, "prune", "sql", "--keep", "3").output == "removed sql@1\n"
    assert _run(store, "prune").output == "removed polite@2, sql@2, sql@3\n"
    assert _run(store, "prune").output == "removed nothing\n"
    _fails(_run(store, "prune", "none"), "has no adapter none")
    _fails(_run(store, "prune", "../sql"), "isn't one")


def test_a_template_is_allowed_and_shown(store: AdapterStore, tmp_path: Path) -> None:
    text = "{{ messages }}"
    record = TemplateRecord(
        text=text, hash=template_hash(text), golden_messages=[], golden_token_ids=[]
    )
    folder = write_folder(tmp_path / "templated")
    (folder / "manifest.json").write_text(manifest(template=record).to_json())
    assert _run(store, "import", "odd", str(folder)).exit_code == 0
    assert "the base's chat template" in _run(store, "show", "odd").output
    assert " base's " in _run(store, "ls").output
    result = _run(store, "allow-template", "odd@1")
    assert result.output == f"odd@1 may use its chat template {record.hash}\n"
    assert "its own chat template, which was allowed" in _run(store, "show", "odd").output
    assert " own " in _run(store, "ls").output
    _fails(_run(store, "allow-template", "sql"), "sql@2 has no chat template of its own")
    assert _run(store, "import", "odd", str(folder), "--allow-template").exit_code == 0
    assert store.allows_template(store.get(parse_ref("odd@2")))
    assert json.loads(_run(store, "show", "odd", "--json").output)["template"] == "own"
    _fails(_run(store, "import", "x", str(folder), "--fold", "--allow-template"), "not of --fold")
