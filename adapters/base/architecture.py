"""Which class of transformers a base is, and which parts of it a text model needs.

A multimodal base is loaded as a whole and left without what sees and hears: towers and projectors
are neither quantised nor adapted nor kept. Its text part keeps its place (`model.language_model`),
so the names in adapters that were trained on the whole model fit.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.base.errors import BaseUnreadableError
from adapters.base.stored_format import first_line

_SENSES = frozenset({
    "vision_tower", "visual", "vision_model", "vision_encoder", "image_tower",
    "audio_tower", "audio_encoder", "speech_encoder",
    "multi_modal_projector", "vision_adapter", "vision_projection", "connector", "aligner",
})  # fmt: skip
"""transformers' names of the parts that only images and sounds go through."""

_EMBEDDERS = frozenset({"embed_vision", "embed_audio"})
"""Such parts too, but in Gemma 3n, where they also embed tokens of text."""


def base_config(folder: Path) -> Any:
    """The transformers config of a base.

    Raises `BaseUnreadableError` where config.json isn't one, for an architecture that the installed
    transformers doesn't have, and for rotary embeddings that it doesn't know.
    """
    from transformers import AutoConfig

    if (folder / "adapter_config.json").is_file():
        raise BaseUnreadableError(
            "it holds an adapter too (adapter_config.json), which transformers would put on it; "
            "move that into a folder of its own, and import it"
        )
    try:
        # Without the flag transformers would ask on the terminal whether to run the model's code.
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        raise BaseUnreadableError(f"its config.json can't be used: {first_line(error)}") from error
    _check_ropes(config)
    return config


def _check_ropes(config: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    known = {"default", *ROPE_INIT_FUNCTIONS}
    for part in (config, config.get_text_config(decoder=True)):
        parameters = getattr(part, "rope_parameters", None) or {}
        for settings in (parameters, *parameters.values()):
            if not isinstance(settings, dict):
                continue
            kind = settings.get("rope_type", settings.get("type", "default"))
            if kind not in known:
                raise BaseUnreadableError(
                    f"its rotary embeddings are of type {kind!r}, and there are "
                    f"{', '.join(sorted(known))}; mend rope_parameters in config.json, or use a "
                    "transformers release that knows it"
                )


def model_class(config: Any) -> Any:
    """The auto class that makes the model of a config.

    Raises `BaseUnreadableError` for what generates no text.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise BaseUnreadableError(
        f"{config.model_type} models generate no text by themselves: transformers has no causal "
        "model of this type; name a causal model"
    )


def empty_model(config: Any) -> Any:
    """The model of a config without its weights, all parts of it."""
    with torch.device("meta"):
        return model_class(config).from_config(config)


def sense_parts(model: nn.Module) -> tuple[str, ...]:
    """The names of the parts that only images and sounds go through; the outermost ones."""
    parts: list[str] = []
    for name, module in model.named_modules():
        is_within = any(name.startswith(f"{part}.") for part in parts)
        if not is_within and _is_sense(name.rpartition(".")[2], module):
            parts.append(name)
    return tuple(parts)


def _is_sense(name: str, module: nn.Module) -> bool:
    if name in _EMBEDDERS:
        return not any(isinstance(part, nn.Embedding) for part in module.children())
    return name in _SENSES


def is_sense_weight(name: str) -> bool:
    """Whether a weight in a file is of such a part, which the model of a text may not have."""
    return not (_SENSES | _EMBEDDERS).isdisjoint(name.split("."))


def drop_senses(model: nn.Module) -> None:
    """Take them out of `model`, which goes on without images and sounds."""
    for name in sense_parts(model):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, None)
