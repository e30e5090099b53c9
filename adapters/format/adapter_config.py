"""`adapter_config.json` of every served PEFT method, as one type each.

Field names and meanings are those of PEFT 0.21's config classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.format import peft_methods
from adapters.format.bounded_json import read_json_object
from adapters.format.config_values import (
    base_reference,
    module_targets,
    name_set,
    shown_value,
    token_table,
    whole_number,
)
from adapters.format.lora_config import LoraConfig, parse_adalora_config, parse_lora_config

MAX_CONFIG_BYTES = 4 << 20
MAX_VIRTUAL_TOKENS = 65536
_MAX_DEPTH = 16
_MAX_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class Ia3Config:
    """IA3 (arXiv:2205.05638): learned factors of a module's outputs, or inputs (feedforward).

    Which of the two a vector is, its shape says: [out, 1] or [1, in].
    """

    method: str
    target_modules: frozenset[str] | str | None
    base_reference: str | None
    modules_to_save: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TokensConfig:
    """Trained embeddings of a few tokens, and nothing else."""

    method: str
    token_ids: tuple[int, ...]
    base_reference: str | None


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """Virtual tokens before the prompt: embeddings, or for prefix tuning keys and values.

    A prefix's tensor is [virtual tokens, layers * 2 * token_dim], token_dim being that of a
    layer's keys.
    """

    method: str
    num_virtual_tokens: int
    token_dim: int
    num_layers: int
    base_reference: str | None

    @property
    def is_prefix(self) -> bool:
        return self.method == peft_methods.PREFIX_TUNING.lower()

    @property
    def shape(self) -> tuple[int, int]:
        """Of the tensor `prompt_embeddings`."""
        width = 2 * self.num_layers * self.token_dim if self.is_prefix else self.token_dim
        return self.num_virtual_tokens, width


AdapterConfig = LoraConfig | Ia3Config | TokensConfig | PromptConfig


def read_adapter_config(path: Path) -> dict[str, Any]:
    """The JSON object of an `adapter_config.json`. Raises `DocumentError`."""
    return read_json_object(path, max_bytes=MAX_CONFIG_BYTES, max_depth=_MAX_DEPTH)


def parse_adapter_config(document: Mapping[str, Any], problems: list[str]) -> AdapterConfig | None:
    """The config by its `peft_type`, or None where it can't be served; appends to `problems`."""
    method = document.get("peft_type")
    if not isinstance(method, str):
        problems.append("adapter_config.json has no peft_type: not a PEFT adapter")
        return None
    if (problem := peft_methods.method_problem(method)) is not None:
        problems.append(problem)
        return None
    return _PARSERS[method.upper()](document, problems)


def token_ids_of(config: AdapterConfig) -> Mapping[str, tuple[int, ...]]:
    """The tokens with trained embeddings, by module ("" is any)."""
    if isinstance(config, LoraConfig):
        return config.token_ids
    if isinstance(config, TokensConfig):
        return {"": config.token_ids}
    return MappingProxyType({})


def _parse_ia3(document: Mapping[str, Any], problems: list[str]) -> Ia3Config:
    return Ia3Config(
        "ia3",
        module_targets(document, problems),
        base_reference(document),
        name_set(document, "modules_to_save", problems),
    )


def _parse_tokens(document: Mapping[str, Any], problems: list[str]) -> TokensConfig | None:
    table = token_table(document, "token_indices", problems)
    if "" not in table:
        problems.append(
            f"token_indices is {shown_value(document.get('token_indices'))}; it must list the "
            "trained tokens"
        )
        return None
    return TokensConfig("trainable_tokens", table[""], base_reference(document))


def _parse_prompt(document: Mapping[str, Any], problems: list[str]) -> PromptConfig | None:
    count = whole_number(document, "num_virtual_tokens", problems, at_most=MAX_VIRTUAL_TOKENS)
    token_dim = whole_number(document, "token_dim", problems, at_most=_MAX_SIZE)
    num_layers = whole_number(document, "num_layers", problems, at_most=_MAX_SIZE)
    if document.get("num_transformer_submodules", 1) not in (1, None):
        problems.append(
            f"num_transformer_submodules is {document['num_transformer_submodules']!r}: an "
            "encoder-decoder's adapter, and only causal models are served"
        )
    if count is None or token_dim is None or num_layers is None:
        return None
    return PromptConfig(
        document["peft_type"].lower(), count, token_dim, num_layers, base_reference(document)
    )


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], list[str]], AdapterConfig | None]] = {
    peft_methods.LORA: parse_lora_config,
    peft_methods.ADALORA: parse_adalora_config,
    peft_methods.IA3: _parse_ia3,
    peft_methods.TRAINABLE_TOKENS: _parse_tokens,
    peft_methods.PROMPT_TUNING: _parse_prompt,
    peft_methods.P_TUNING: _parse_prompt,
    peft_methods.PREFIX_TUNING: _parse_prompt,
}
"""By PEFT's name: one for each of `SERVED_METHODS`."""
