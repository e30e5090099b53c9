import os
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import InspectionError
from adapters.format import config_values, tensor_header
from adapters.format.inspection import inspect_adapter
from adapters.format.lora_config import parse_lora_config
from tests.unit.adapters.peft_folder import (
    MODULES,
    Tensors,
    lora_config,
    lora_tensors,
    raw_safetensors,
    write_folder,
)

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


def _problems(folder: Path, base: dict[str, tuple[int, int]] | None = None) -> tuple[str, ...]:
    with pytest.raises(InspectionError) as caught:
        inspect_adapter(folder, base)
    return caught.value.problems


def _only_problem(folder: Path, base: dict[str, tuple[int, int]] | None = None) -> str:
    problems = _problems(folder, base)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_sound_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    inspection = inspect_adapter(folder, MODULES)
    assert inspection.method == "lora"
    assert inspection.rank == 2
    assert inspection.alpha == 4.0
    assert set(inspection.matched) == set(MODULES)
    assert inspection.unmatched == ()
    assert dict(inspection.ranks) == dict.fromkeys(MODULES, 2)
    assert inspection.base_reference == "tiny-base"
    assert inspection.size_bytes == (folder / "adapter_model.safetensors").stat().st_size


def test_without_a_base_nothing_is_matched(tmp_path: Path) -> None:
    inspection = inspect_adapter(write_folder(tmp_path / "a"))
    assert inspection.matched == ()
    assert set(inspection.unmatched) == set(MODULES)


def test_patterns_and_rslora(tmp_path: Path) -> None:
    document = lora_config(
        rank_pattern={"layers.1.mlp.up_proj": 4},
        alpha_pattern={r"self_attn\.q_proj": 6},
        use_rslora=True,
    )
    up = "model.layers.1.mlp.up_proj"
    tensors = lora_tensors() | lora_tensors({up: MODULES[up]}, rank=4)
    inspection = inspect_adapter(write_folder(tmp_path / "a", config=document, tensors=tensors))
    assert inspection.rank == 4
    assert inspection.ranks[up] == 4
    assert inspection.ranks["model.layers.0.mlp.up_proj"] == 2
    config = parse_lora_config(document, [])
    assert config is not None
    assert config.scaling_of(up) == 4 / 4**0.5
    assert config.scaling_of("model.layers.0.self_attn.q_proj") == 6 / 2**0.5


def test_plain_scaling_is_alpha_over_rank() -> None:
    config = parse_lora_config(lora_config(), [])
    assert config is not None
    assert config.scaling_of("model.layers.0.self_attn.q_proj") == 2.0


def test_missing_folder_and_files(tmp_path: Path) -> None:
    assert "can't be read: No such file" in _only_problem(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert _problems(tmp_path / "empty") == (
        "adapter_config.json is missing",
        "adapter_model.safetensors is missing",
    )
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in _only_problem(tmp_path / "file")


@pytest.mark.parametrize("name", ["adapter_model.bin", "more.pt", "more.PKL", "deep/optimizer.pth"])
def test_pickles_are_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04N.")
    problem = _only_problem(folder)
    assert problem.startswith(f"{name} is a pickle, which can run code")
    assert ("safe_serialization=True" in problem) == (name == "adapter_model.bin")


def test_a_folder_with_only_a_pickle(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    problems = _problems(folder)
    assert "safe_serialization=True" in problems[0]
    assert problems[1] == "adapter_model.safetensors is missing"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md"])
def test_links_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "a")
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("secret")
    (folder / name).symlink_to(outside)
    problem = _only_problem(folder)
    assert problem.startswith(f"{name} is a link that leaves the folder")
    assert "cp -rL" in problem


def test_other_odd_entries(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    (folder / "disguised.txt").symlink_to("weights.pt")
    (folder / "weights.pt").write_text("x")
    os.mkfifo(folder / "pipe")
    problems = _problems(folder)
    assert [problem.split(" ")[0] for problem in problems] == [
        "dangling", "disguised.txt", "loop", "pipe", "up", "weights.pt",
    ]  # fmt: skip


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "real.safetensors")
    (folder / "adapter_model.safetensors").symlink_to("real.safetensors")
    assert inspect_adapter(folder, MODULES).rank == 2
    (tmp_path / "link").symlink_to(folder)
    assert inspect_adapter(tmp_path / "link", MODULES).rank == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"peft_type": "OFT"},
            "the method OFT isn't served as it is: it multiplies the base weight",
        ),
        ({"peft_type": "LOHA"}, "the method LOHA isn't served as it is: .* --fold --base BASE"),
        ({"peft_type": "XLORA"}, "the method XLORA isn't served: it chooses its weights anew"),
        ({"peft_type": "NEW"}, "the method NEW isn't served; served are LORA, ADALORA, IA3"),
        ({"peft_type": "IA3"}, "has a LoRA factor A .r, in., which ia3 adapters don't"),
        ({"peft_type": None}, "has no peft_type"),
        ({"use_dora": True}, "has no DoRA magnitude, but use_dora is set"),
        ({"use_dora": "yes"}, "use_dora is 'yes'; it must be true or false"),
        ({"modules_to_save": ["lm_head"]}, None),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'; it must be a list"),
        ({"lora_bias": True}, None),
        ({"bias": "lora_only"}, None),
        ({"bias": "some"}, "bias is 'some'; it is one of none, lora_only, all"),
        ({"trainable_token_indices": [1]}, None),
        ({"trainable_token_indices": [1, 1]}, "trainable_token_indices names a token twice"),
        ({"trainable_token_indices": [-1]}, "it must list token ids"),
        ({"alora_invocation_tokens": ["a"]}, "alora_invocation_tokens is .'a'.; it must list"),
        ({"layer_replication": [[0, 1]]}, "replicated layers, which isn't served"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
        ({"r": 0}, "r is 0; a rank is a whole number from 1"),
        ({"r": "8"}, "r is '8'; a rank"),
        ({"r": True}, "r is True; a rank"),
        ({"lora_alpha": None}, "lora_alpha is None; an alpha is a finite number"),
        ({"lora_alpha": 10**400}, "an alpha is a finite number"),
        ({"rank_pattern": {"q_proj": 1.5}}, r"rank_pattern\[q_proj\] is 1.5"),
        ({"rank_pattern": []}, None),
        ({"rank_pattern": [1]}, "rank_pattern must map"),
        ({"rank_pattern": {"(a+)+": 2}}, "could take forever to match"),
        ({"alpha_pattern": {".*.*.*x": 2}}, "could take forever to match"),
        ({"alpha_pattern": {"(": 2}}, "isn't a regular expression"),
        ({"alpha_pattern": {"a" * 300: 2}}, "has 300 characters"),
        ({"alpha_pattern": {f"m{i}": 2 for i in range(5000)}}, "5000 patterns; at most 4096"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'; it must be true or false"),
        ({"fan_in_fan_out": 2}, "fan_in_fan_out is 2"),
        ({"target_modules": 7}, "target_modules must be a list"),
        ({"target_modules": r".*\.(q|up)_proj"}, None),
    ],
)
def test_configs(tmp_path: Path, changes: dict[str, Any], reason: str | None) -> None:
    folder = write_folder(tmp_path / "a", config=lora_config(**changes))
    if reason is None:
        assert inspect_adapter(folder).rank == 2
    else:
        with pytest.raises(InspectionError, match=reason):
            inspect_adapter(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        (" " * (5 << 20), "larger than"),
        ("nonsense", "isn't valid JSON"),
        ('{"r": 1, "r": 2}', "occurs twice"),
    ],
)
def test_config_bombs(tmp_path: Path, text: str, reason: str) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "adapter_config.json").write_text(text)
    assert reason in _only_problem(folder)


def test_a_bad_weights_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "the file is truncated" in _only_problem(folder)
    weights.write_bytes((2 << 30).to_bytes(8, "little") + b"{}")
    assert "claims 2147483648 bytes" in _only_problem(folder)


def _with(name: str, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> Tensors:
    size = {"F32": 4, "I8": 1}[dtype]
    for length in shape:
        size *= length
    return {name: (dtype, shape, b"\1" * size)}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (_with(f"{Q_PROJ}.lora_magnitude_vector"), "DoRA magnitude [out], but use_dora isn't set"),
        (_with("base_model.model.model.embed_tokens.lora_embedding_A"), "lora_embedding_A without"),
        (_with(f"{Q_PROJ}.lora_B.bias"), "the LoRA bias [out] is [1], and B has 8 outputs"),
        (_with(f"{Q_PROJ}.base_layer.bias"), "trained bias [out], but bias is 'none'"),
        (_with("base_model.model.x.ia3_l"), "has a IA3 vector, which lora adapters don't"),
        (_with("prompt_embeddings"), "the file has a virtual tokens, which lora adapters don't"),
        (_with("base_model.model.lm_head.weight"), "isn't among modules_to_save"),
        (_with("base_model.model.x.trainable_tokens_delta"), "names no tokens for it"),
        (_with("base_model.vera_A"), "1 tensor of unknown meaning, such as base_model.vera_A"),
        (_with("model.layers.0.q_proj.lora_A.weight"), "a LoRA factor is base_model.model.MODULE"),
        (_with(f"{Q_PROJ}.lora_A.default.weight"), "unknown meaning"),
        (_with(f"{Q_PROJ}.lora_A.weight", "I8", (2, 8)), "[r, in] is I8; adapters' tensors are"),
        (_with(f"{Q_PROJ}.lora_A.weight", shape=(16,)), "don't multiply"),
        (_with(f"{Q_PROJ}.lora_A.weight", shape=(3, 8)), "don't multiply"),
        (_with(f"{Q_PROJ}.lora_A.weight", shape=(2, 0)), "don't multiply"),
        (_with("base_model.model.x.v_proj.lora_A.weight", shape=(2, 8)), "lora_A without lora_B"),
        (_with("base_model.model.x.v_proj.lora_B.weight", shape=(8, 2)), "lora_B without lora_A"),
        (lora_tensors({"model.layers.0.mlp.up_proj": (8, 12)}, rank=3), "has rank 3, but"),
        (lora_tensors({"model.layers.0.mlp.gate_proj": (8, 12)}), "isn't among target_modules"),
    ],
)
def test_tensors(tmp_path: Path, tensors: Tensors, reason: str) -> None:
    folder = write_folder(tmp_path / "a", tensors=lora_tensors() | tensors)
    assert reason in _only_problem(folder)


def test_no_tensor_at_all(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(raw_safetensors(b"{}"))
    assert _only_problem(folder) == "adapter_model.safetensors holds no tensor of a lora adapter"


def test_no_module_matches(tmp_path: Path) -> None:
    base = {f"transformer.h.{layer}.attn.c_attn": (8, 24) for layer in range(4)}
    problem = _only_problem(write_folder(tmp_path / "a"), base)
    assert "no module of the adapter (made for tiny-base) is in this base" in problem
    assert "The adapter has model.layers.*.mlp.up_proj, model.layers.*.self_attn.q_proj" in problem
    assert "the base has transformer.h.*.attn.c_attn" in problem


def test_some_modules_match(tmp_path: Path) -> None:
    base = {name: shape for name, shape in MODULES.items() if ".0." in name}
    problem = _only_problem(write_folder(tmp_path / "a"), base)
    assert problem.startswith("2 of 4 modules of the adapter (made for tiny-base) aren't in this")


def test_shapes_of_another_base(tmp_path: Path) -> None:
    base = MODULES | {"model.layers.0.mlp.up_proj": (8, 16), "model.layers.1.mlp.up_proj": (4, 12)}
    problems = _problems(write_folder(tmp_path / "a"), base)
    assert len(problems) == 2
    assert "don't fit this base's 8 inputs and 16 outputs" in problems[0]


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    tensors = lora_tensors()
    del tensors[f"{Q_PROJ}.lora_B.weight"]
    document = lora_config(use_dora=True, r=4, layer_replication=[[0, 1]])
    folder = write_folder(tmp_path / "a", config=document, tensors=tensors)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    base = MODULES | {"model.layers.1.mlp.up_proj": (8, 16)}
    text = "\n".join(_problems(folder, base))
    for part in (
        "adapter_model.bin is a pickle",
        "replicated layers, which isn't served",
        "has no DoRA magnitude, but use_dora is set",
        "lora_A without lora_B",
        "has rank 2, but adapter_config.json says 4",
        "don't fit this base",
    ):
        assert part in text


def test_lists_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (config_values.MAX_MODULE_NAMES, tensor_header.MAX_TENSORS) == (65536, 131072)
    monkeypatch.setattr(config_values, "MAX_MODULE_NAMES", 100)
    monkeypatch.setattr(tensor_header, "MAX_TENSORS", 100)
    many = [f"m{index}" for index in range(101)]
    for changes, limit in (
        ({"target_modules": many}, "target_modules lists 101 names; at most 100"),
        ({"modules_to_save": many}, "modules_to_save lists 101 names; at most 100"),
        (
            {"trainable_token_indices": {name: [1] for name in many}},
            "trainable_token_indices names 101 modules; at most 64",
        ),
        ({"target_modules": "*q_proj"}, "'*q_proj' isn't a regular expression"),
    ):
        folder = write_folder(tmp_path / "a", config=lora_config(**changes))
        assert limit in _only_problem(folder)
    tensors = {f"junk.{index}": ("F32", (1,), b"\0\0\0\0") for index in range(101)}
    folder = write_folder(tmp_path / "b", tensors=tensors)
    assert "its header lists 101 tensors; at most 100 are read" in _only_problem(folder)


def test_patterns_that_these_modules_make_dear_are_not_matched(tmp_path: Path) -> None:
    """Each takes milliseconds on a real name, and seconds on names made for it."""
    modules = {"a." * 120 + f"{index}": (8, 8) for index in range(100)}
    patterns = {f".*b.*{index}": 2 for index in range(10)}
    folder = write_folder(
        tmp_path / "a",
        config=lora_config(rank_pattern=patterns, target_modules=None),
        tensors=lora_tensors(modules),
    )
    problem = _only_problem(folder)
    assert problem.startswith("rank_pattern and alpha_pattern could take")
    assert problem.endswith("Write the module names out")


def test_a_dozen_of_a_kind_are_told(tmp_path: Path) -> None:
    modules = {f"model.layers.{layer}.self_attn.k_proj": (8, 8) for layer in range(40)}
    problems = _problems(write_folder(tmp_path / "a", tensors=lora_tensors(modules)))
    assert len(problems) == 13
    assert problems[-1] == "and 28 more like these"


def test_nested_folders_count_as_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    for index in range(2100):
        (folder / f"d{index}").mkdir()
    assert "more than 2000 files" in _problems(folder)[0]
