"""Tiny random models of every architecture that we claim to serve, and adapters made by PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from loadtests.fixtures.tiny_engine import BLOCK_SIZE, WINDOW, TinyEngine, greedy
from tests.unit.adapters.base.tiny_base import save_tokenizer

__all__ = [
    "BLOCK_SIZE",
    "CONFIGS",
    "WINDOW",
    "TinyEngine",
    "greedy",
    "make_adapter",
    "recurrent_folder",
    "tiny_model",
]

VOCABULARY = 256

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}


def _with(name: str, **extra: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**_COMMON, **extra)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _with("LlamaConfig"),
    "mistral-sliding": _with("MistralConfig", sliding_window=8, head_dim=16),
    "qwen2": _with("Qwen2Config"),
    "qwen2-sliding": _with(
        "Qwen2Config", use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": _with("Qwen3Config", head_dim=16),
    "gemma2": _with("Gemma2Config", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3": _with("Gemma3TextConfig", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "phi3": _with("Phi3Config"),
    "gpt2": lambda: transformers.GPT2Config(n_embd=64, n_positions=256, **_GPT),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}
    ),
    "glm": _with("GlmConfig", head_dim=16),
    "glm4": _with("Glm4Config", head_dim=16),
    "granite": _with("GraniteConfig"),
    "gemma": _with("GemmaConfig", head_dim=32),
    "seed-oss": _with("SeedOssConfig", head_dim=32, attention_bias=True),
    "ministral": _with(
        "MinistralConfig",
        sliding_window=8,
        head_dim=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "cwm": _with(
        "CwmConfig",
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "smollm3": _with("SmolLM3Config", no_rope_layer_interval=2),
    "ernie4-5": _with("Ernie4_5Config", head_dim=16),
    "helium": _with("HeliumConfig", head_dim=16),
    "bloom": lambda: transformers.BloomConfig(hidden_size=64, pad_token_id=0, **_GPT),
}


def tiny_model(name: str) -> Any:
    """A float32 model with weights random enough that greedy decoding doesn't repeat itself."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval().float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.08)
    model.generation_config.eos_token_id = None
    return model


def make_adapter(model: Any, folder: Path, *, rank: int, seed: int, **options: Any) -> Any:
    """Give `model` a random LoRA with effect and save it; returns the PeftModel."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
        **options,
    )
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    peft_model.save_pretrained(folder)
    return peft_model.eval()


def recurrent_folder(path: Path) -> Path:
    """A base on disk that can be trained and not served: its layers keep a sequence's state."""
    save_tokenizer(path)
    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=1, lru_width=64, attention_window_size=16,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path
