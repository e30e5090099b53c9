"""Adapters of every kind that is served, made by PEFT over a given base, with effect."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch

Configure = Callable[[Any], Any]

INVOCATION = (11, 12)
"""Tokens that an activated LoRA begins at."""

TRAINED_TOKENS = (7, 5, 11)
NUM_VIRTUAL = 6

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")


def _embedding_name(model: Any) -> str:
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return next(name for name in _EMBEDDINGS if name in names)


def _head_name(model: Any) -> str:
    return "embed_out" if hasattr(model, "embed_out") else "lm_head"


def _lora(**changes: Any) -> Configure:
    def configure(model: Any) -> Any:
        values = {k: v(model) if callable(v) else v for k, v in changes.items()}
        return peft.LoraConfig(
            **{
                "r": 4,
                "lora_alpha": 8,
                "target_modules": "all-linear",
                "task_type": "CAUSAL_LM",
                "fan_in_fan_out": model.config.model_type == "gpt2",
                **values,
            }
        )

    return configure


def _linear_names(model: Any) -> list[str]:
    return {
        "gpt2": ["c_attn", "c_fc"],
        "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    }.get(model.config.model_type, ["q_proj", "v_proj", "down_proj"])


def _adalora(model: Any) -> Any:
    return peft.AdaLoraConfig(
        init_r=6,
        target_r=4,
        lora_alpha=8,
        total_step=10,
        tinit=1,
        tfinal=1,
        target_modules=_linear_names(model),
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )


def _ia3(model: Any) -> Any:
    is_gpt2 = model.config.model_type == "gpt2"
    names = _linear_names(model)
    down = "mlp.c_proj" if is_gpt2 else "dense_4h_to_h" if names[0].startswith("query") else None
    return peft.IA3Config(
        task_type="CAUSAL_LM",
        fan_in_fan_out=is_gpt2,
        target_modules=names if down is None else [*names, down],
        feedforward_modules=["down_proj"] if down is None else [down],
    )


def _prompt(kind: str, **options: Any) -> Configure:
    return lambda _: getattr(peft, kind)(
        num_virtual_tokens=NUM_VIRTUAL, task_type="CAUSAL_LM", **options
    )


KINDS: Mapping[str, Configure] = {
    "lora": _lora(),
    "rslora": _lora(use_rslora=True, r=12),
    "patterns": _lora(
        rank_pattern=lambda m: {_linear_names(m)[0]: 10},
        alpha_pattern=lambda m: {_linear_names(m)[-1]: 3},
    ),
    "dora": _lora(use_dora=True),
    "adalora": _adalora,
    "lora_bias": _lora(lora_bias=True),
    "bias_lora_only": _lora(bias="lora_only"),
    "bias_all": _lora(bias="all"),
    "saved_head": _lora(modules_to_save=lambda m: [_head_name(m)]),
    "saved_embedding": _lora(modules_to_save=lambda m: [_embedding_name(m)]),
    "lora_with_tokens": _lora(trainable_token_indices=list(TRAINED_TOKENS)),
    "trained_tokens": lambda m: peft.TrainableTokensConfig(
        token_indices=list(TRAINED_TOKENS),
        target_modules=[_embedding_name(m)],
        task_type="CAUSAL_LM",
    ),
    "lora_on_embedding": _lora(target_modules=lambda m: [_embedding_name(m), _linear_names(m)[0]]),
    "lora_on_head": _lora(target_modules=lambda m: [_head_name(m), _linear_names(m)[0]]),
    "ia3": _ia3,
    "prompt_tuning": _prompt("PromptTuningConfig"),
    "p_tuning": _prompt("PromptEncoderConfig", encoder_hidden_size=32),
    "prefix_tuning": _prompt("PrefixTuningConfig"),
    "prefix_projected": _prompt(
        "PrefixTuningConfig", prefix_projection=True, encoder_hidden_size=32
    ),
    "alora": _lora(alora_invocation_tokens=list(INVOCATION)),
}
"""Name -> PEFT config for a base."""

VIRTUAL_KINDS = ("prompt_tuning", "p_tuning", "prefix_tuning", "prefix_projected")

# A part of a parameter's name -> the spread of what is added to it. The first that fits counts.
_SPREADS: tuple[tuple[str, float], ...] = (
    ("lora_embedding_", 0.05),
    ("lora_magnitude_vector", 0.1),
    ("lora_B", 0.05),
    ("lora_E", 0.5),
    ("ia3_l", 0.3),
    ("trainable_tokens_delta", 0.1),
    ("prompt_encoder", 0.1),
    ("modules_to_save", 0.05),
    ("bias", 0.1),
)


def make_kind(name: str, model: Any, folder: Path, *, seed: int) -> Any:
    """Give `model` (which is taken over) an adapter of this kind and save it; the PeftModel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, on what merging couldn't do
        return _make_kind(name, model, folder, seed)


def _make_kind(name: str, model: Any, folder: Path, seed: int) -> Any:
    torch.manual_seed(seed)
    peft_model = peft.get_peft_model(model, KINDS[name](model))
    for parameter_name, parameter in peft_model.named_parameters():
        if not parameter.requires_grad:
            continue
        spread = next((s for part, s in _SPREADS if part in parameter_name), None)
        if spread is not None:
            parameter.data += spread * torch.randn_like(parameter)
        if "lora_E" in parameter_name:
            parameter.data[1::3] = 0.0  # as if pruned
    peft_model.save_pretrained(folder)
    return peft_model.eval()


def peft_logits(peft_model: Any, tokens: list[int]) -> torch.Tensor:
    """PEFT's own next-token logits [vocabulary], computed anew over all tokens."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits: torch.Tensor = peft_model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[0, -1].float()
