"""Finding a base model, and saying clearly when there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from adapters.base.chat_template import ChatTemplate
from adapters.base.digest import folder_digest
from adapters.base.errors import BaseNotFoundError, BaseUnreadableError
from adapters.base.loading import load_base
from adapters.base.modules import linear_modules, module_shapes_from_config
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from adapters.base.reference import resolve_base
from adapters.file_trust import make_private_folder
from tests.unit.adapters.base.tiny_base import tiny_folder


def test_a_local_folder_resolves_with_its_digest(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny-model")
    resolved = resolve_base(str(folder), tmp_path / "cache")
    assert resolved.path == folder.resolve()
    assert resolved.model_id == "tiny-model"
    assert resolved.digest == folder_digest(folder)
    other = resolve_base(str(tiny_folder(tmp_path / "b", seed=1)), tmp_path / "cache")
    assert other.digest != resolved.digest


def test_a_cached_digest_is_used_until_a_file_changes(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    cache = tmp_path / "digest.json"
    first = folder_digest(folder, cache)
    stored = json.loads(cache.read_text())
    cache.write_text(json.dumps({**stored, "digest": "sha256:cached"}))
    assert folder_digest(folder, cache) == "sha256:cached"
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert folder_digest(folder, cache) not in (first, "sha256:cached")


def test_unknown_references_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match="there is: smollm2-135m-instruct"):
        resolve_base("embedded:gpt5", tmp_path)
    with pytest.raises(BaseNotFoundError, match="isn't a hub id"):
        resolve_base("/no/such/folder", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseUnreadableError, match=r"no config\.json"):
        resolve_base(str(tmp_path / "empty"), tmp_path)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_text("")
    with pytest.raises(BaseUnreadableError, match=r"no \.safetensors file"):
        resolve_base(str(pickled), tmp_path)


def test_a_hub_id_without_network_is_a_clear_error(tmp_path: Path) -> None:
    script = (
        "from adapters.base.reference import resolve_base\n"
        "from adapters.base.errors import BaseNotFoundError\n"
        "try:\n    resolve_base('nobody/no-such-model')\n"
        "except BaseNotFoundError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "the hub can't be reached" in done.stdout
    assert "embedded:smollm2-135m-instruct" in done.stdout


def test_quantization_specs_are_checked() -> None:
    assert NF4.double_quant
    assert NF4.block_size == 64
    assert not UNQUANTIZED.is_quantized
    with pytest.raises(ValueError, match="use nf4, fp4 or none"):
        QuantizationSpec(scheme="int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 64 is supported"):
        QuantizationSpec(block_size=128)


def test_the_template_hash_names_its_text() -> None:
    assert ChatTemplate("a").hash != ChatTemplate("b").hash
    assert ChatTemplate("a").hash.startswith("sha256:")


def test_modules_are_known_without_weights(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    config = transformers.AutoConfig.from_pretrained(folder)
    shapes = module_shapes_from_config(config)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert shapes == linear_modules(model)
    assert shapes["model.layers.1.mlp.down_proj"] == (128, 64)
    assert not any("lm_head" in name for name in shapes)


def test_a_folder_that_is_no_model_is_unreadable(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(BaseUnreadableError, match="can't be loaded"):
        load_base(str(folder), UNQUANTIZED, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_codes_do_not_depend_on_the_compute_dtype(tmp_path: Path, stored: torch.dtype) -> None:
    """A server that computes in float32 serves the codes that a bfloat16 training saw."""
    folder = tiny_folder(tmp_path / "m")
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=stored).save_pretrained(folder)
    models = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_base(str(folder), NF4, dtype=dtype, cache_dir=tmp_path / "cache").model
        assert model.dtype == dtype
        assert model.get_input_embeddings().weight.dtype == dtype
        models.append(model.get_submodule("model.layers.0.mlp.down_proj").weight)
    assert torch.equal(models[0].data, models[1].data)
    assert torch.equal(models[0].quant_state.absmax, models[1].quant_state.absmax)


def test_a_cached_base_that_others_could_have_changed_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    monkeypatch.setattr("adapters.base.embedded.embedded_gguf", lambda _name: gguf)
    cache = tmp_path / "cache"
    folder = cache / "bases" / "tiny"
    make_private_folder(folder)
    record = {"size": len(b"weights"), "digest": "sha256:converted"}
    (folder / "source.json").write_text(json.dumps(record))
    (folder / "model.safetensors").touch()
    resolved = resolve_base("embedded:tiny", cache)
    assert (resolved.path, resolved.digest) == (folder, "sha256:converted")
    for part in (folder / "model.safetensors", folder, folder.parent, cache):
        before = part.stat().st_mode
        part.chmod(0o777)
        with pytest.raises(BaseUnreadableError, match=f"chmod go-w {part}"):
            resolve_base("embedded:tiny", cache)
        part.chmod(before)


def test_a_digest_that_others_could_have_written_is_computed_anew(tmp_path: Path) -> None:
    folder, cache = tiny_folder(tmp_path / "m"), tmp_path / "cache"
    right = resolve_base(str(folder), cache).digest
    [kept] = (cache / "digests").iterdir()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "digest": "sha256:forged"}))
    assert resolve_base(str(folder), cache).digest == "sha256:forged"
    kept.chmod(0o666)
    assert resolve_base(str(folder), cache).digest == right
