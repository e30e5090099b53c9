"""What each tensor of a PEFT file is, told from its name (`peft.get_peft_model_state_dict`).

A name is `base_model.model.MODULE.PART`; PART says the role. Prompt methods save one tensor,
`prompt_embeddings`, whose encoder PEFT has already applied.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

KEY_PREFIX = "base_model.model."
PROMPT_KEY = "prompt_embeddings"
_MAX_MODULE_LENGTH = 256


class TensorRole(Enum):
    """The value says it to a person."""

    LORA_A = "LoRA factor A [r, in]"
    LORA_B = "LoRA factor B [out, r]"
    LORA_B_BIAS = "LoRA bias [out]"
    MAGNITUDE = "DoRA magnitude [out]"
    SINGULAR_VALUES = "AdaLoRA singular values [r, 1]"
    EMBEDDING_A = "LoRA factor A of an embedding [r, vocabulary]"
    EMBEDDING_B = "LoRA factor B of an embedding [hidden, r]"
    IA3 = "IA3 vector"
    TOKENS = "trained token embeddings [tokens, hidden]"
    WEIGHT = "fully trained weight"
    BIAS = "trained bias [out]"
    BASE_COPY = "copy of a base weight"
    PROMPT = "virtual tokens"


# The first suffix that fits counts, so longer ones come first.
_SUFFIXES: tuple[tuple[str, TensorRole], ...] = (
    (".lora_A.weight", TensorRole.LORA_A),
    (".lora_A", TensorRole.LORA_A),
    (".lora_B.weight", TensorRole.LORA_B),
    (".lora_B.bias", TensorRole.LORA_B_BIAS),
    (".lora_B", TensorRole.LORA_B),
    (".lora_E", TensorRole.SINGULAR_VALUES),
    (".lora_magnitude_vector.weight", TensorRole.MAGNITUDE),
    (".lora_magnitude_vector", TensorRole.MAGNITUDE),
    (".lora_embedding_A", TensorRole.EMBEDDING_A),
    (".lora_embedding_B", TensorRole.EMBEDDING_B),
    (".ia3_l", TensorRole.IA3),
    (".token_adapter.trainable_tokens_delta", TensorRole.TOKENS),
    (".trainable_tokens_delta", TensorRole.TOKENS),
    (".base_layer.weight", TensorRole.BASE_COPY),
    (".base_layer.bias", TensorRole.BIAS),
    (".modules_to_save.weight", TensorRole.WEIGHT),
    (".bias", TensorRole.BIAS),
    (".weight", TensorRole.WEIGHT),
)


@dataclass(frozen=True, slots=True)
class TensorKey:
    """A tensor's module (empty for virtual tokens) and role."""

    module: str
    role: TensorRole


@lru_cache(maxsize=8192)
def parse_tensor_key(key: str) -> TensorKey | None:
    """What the tensor `key` is; None when it can't be told."""
    if key == PROMPT_KEY:
        return TensorKey("", TensorRole.PROMPT)
    if not key.startswith(KEY_PREFIX):
        return None
    name = key[len(KEY_PREFIX) :]
    for suffix, role in _SUFFIXES:
        if name.endswith(suffix):
            module = name[: -len(suffix)]
            is_module = 0 < len(module) <= _MAX_MODULE_LENGTH and ".lora_" not in module
            # A line's end would mean something to a pattern, and nobody names a module so.
            is_module = is_module and module.isprintable()
            return TensorKey(module, role) if is_module else None
    return None
