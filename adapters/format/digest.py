"""Content digest of an adapter: equal digests compute the same function on the same base."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.format.adapter_image import AdapterImage, read_image

# Keys that say how an adapter was made or found, not what it computes. The tensors' names say
# which modules it changes, so the target lists are here too.
_KEYS_WITHOUT_EFFECT = frozenset({
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "lora_dropout", "init_lora_weights", "megatron_config", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "runtime_config", "ensure_weight_tying", "qalora_group_size", "modules_to_save",
    "feedforward_modules", "init_ia3_weights", "init_weights", "prompt_tuning_init",
    "prompt_tuning_init_text", "prompt_tuning_init_state_dict_path", "tokenizer_name_or_path",
    "tokenizer_kwargs", "encoder_reparameterization_type", "encoder_hidden_size",
    "encoder_num_layers", "encoder_dropout", "prefix_projection", "target_r", "tinit", "tfinal",
    "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
})  # fmt: skip

# The first pattern that matches counts, so their order does too.
_ORDERED_TABLES = frozenset({"rank_pattern", "alpha_pattern"})


def adapter_digest(folder: Path) -> str:
    """The digest of a PEFT folder; see `image_digest`.

    Raises `DocumentError` or `TensorFileError` for a malformed file, or one that can't be read.
    """
    return image_digest(read_image(folder))


def image_digest(image: AdapterImage) -> str:
    """`sha256:` over what changes the function: config keys and tensors (name, type, shape, bytes).

    Metadata, file names, key order and the order of tensors in the file don't matter; keys that are
    empty, false or null count as absent, so that a newer PEFT's defaults don't change the digest.
    """
    sha = hashlib.sha256()
    sha.update(_canonical_config(image.config))
    data = memoryview(image.data)
    for name in sorted(image.entries):
        entry = image.entries[name]
        sha.update(json.dumps([name, entry.dtype, entry.shape]).encode() + b"\n")
        sha.update(data[entry.begin : entry.end])
    return "sha256:" + sha.hexdigest()


def _canonical_config(document: Mapping[str, Any]) -> bytes:
    kept: dict[str, Any] = {}
    for key, value in document.items():
        if key in _KEYS_WITHOUT_EFFECT or not value or (key, value) == ("bias", "none"):
            continue
        if key in _ORDERED_TABLES and isinstance(value, dict):
            value = [list(pair) for pair in value.items()]
        kept[key] = _canonical_value(value)
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _canonical_value(value: Any) -> Any:
    """16.0 and 16 are the same number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical_value(item) for key, item in value.items()}
    return value
