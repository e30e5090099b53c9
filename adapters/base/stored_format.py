"""How the linear weights of a checkpoint are stored, and what can be made of them.

A quantised checkpoint says so in its config (`quantization_config`), or in a file beside it.
bitsandbytes' 4-bit codes are held as they are, whatever was asked for; what the installed
libraries can turn back into plain weights is, and then held as asked; all else is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from adapters.base.errors import BaseUnreadableError

_SIDE_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}
"""Where tools write the format of the weights, if not into the config."""

_REMEDY = (
    "name the model that it was made from, whose bf16 weights become 4-bit when they are loaded, "
    "or a bitsandbytes checkpoint"
)


class Stored(Enum):
    """What the files hold for a linear layer."""

    PLAIN = "plain"
    FOUR_BIT = "bitsandbytes 4-bit"
    EIGHT_BIT = "bitsandbytes LLM.int8"
    DEQUANTIZED = "dequantised while it is read"


@dataclass(frozen=True)
class StoredFormat:
    """`name` is the format's own, for people. `options` are for `from_pretrained`."""

    stored: Stored
    name: str = "plain weights"
    options: Mapping[str, Any] = field(default_factory=dict)


def stored_format(folder: Path) -> StoredFormat:
    """What the files of `folder` hold. Raises `BaseUnreadableError` for what can't be read here."""
    settings = _settings(folder)
    if settings is None:
        return StoredFormat(Stored.PLAIN)
    if settings.get("load_in_8bit"):
        return StoredFormat(Stored.EIGHT_BIT, Stored.EIGHT_BIT.value)
    if settings.get("load_in_4bit"):
        return StoredFormat(Stored.FOUR_BIT, Stored.FOUR_BIT.value)
    return _dequantized(settings)


def _settings(folder: Path) -> Mapping[str, Any] | None:
    """The quantisation settings of a checkpoint; None where its weights are plain."""
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = [document, document.get("text_config")]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            settings = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(settings, Mapping):
                return settings
    for name, method in _SIDE_FILES.items():
        if (folder / name).is_file():
            return {"quant_method": method}
    return None


def _dequantized(settings: Mapping[str, Any]) -> StoredFormat:
    """Ask transformers to give plain weights. Raises `BaseUnreadableError` if it can't."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    method = str(settings.get("quant_method"))
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    if kind is None:
        raise BaseUnreadableError(
            f"its weights are quantised with {method}, which can't be read; {_REMEDY}"
        )
    try:
        config = kind.from_dict(dict(settings))
    except Exception as error:
        raise BaseUnreadableError(
            f"its weights are quantised with {method}, which can't be read here "
            f"({first_line(error)}); {_REMEDY}"
        ) from error
    if not hasattr(config, "dequantize"):
        raise BaseUnreadableError(
            f"its weights are quantised with {method}, which can't be turned into 4-bit weights; "
            f"{_REMEDY}"
        )
    config.dequantize = True
    return StoredFormat(Stored.DEQUANTIZED, method, {"quantization_config": config})


def first_line(error: BaseException) -> str:
    """What `error` says, without the pages that may follow."""
    text = str(error).strip()
    return f"{type(error).__name__}: {error}" if not text else text.partition("\n")[0]
