"""A method as PEFT's own config class."""

import math
from collections.abc import Mapping
from typing import Any

from trainer.config import TrainerConfig
from trainer.config.method import QUANTIZATION_INITS
from trainer.errors import MethodError
from trainer.methods.starting_point import changes_the_base
from trainer.methods.targets import BaseGeometry, Shape, ia3_targets


def peft_config_for(
    config: TrainerConfig,
    modules: Mapping[str, Shape],
    geometry: BaseGeometry,
    *,
    num_steps: int,
    is_transposed: bool,
) -> Any:
    """PEFT's config of any method but full.

    `modules` are all linears of the base, `num_steps` the optimiser steps of the run (AdaLoRA's
    schedule), `is_transposed` whether the linears hold their weights as (in, out), as GPT-2 does.
    """
    if config.method == "ia3":
        return _ia3(config, modules, is_transposed)
    if config.method in ("prompt_tuning", "prefix_tuning", "p_tuning"):
        return _prompt(config, geometry)
    if config.method == "adalora":
        return _adalora(config, num_steps, is_transposed)
    return _lora(config, is_transposed)


def _lora(config: TrainerConfig, is_transposed: bool) -> Any:
    from peft import LoraConfig

    lora = config.lora
    init = lora.init
    # What would change the base, or needs weights that PEFT doesn't have, is written over the
    # plain start afterwards.
    plain = init in ("default", *QUANTIZATION_INITS) or changes_the_base(init)
    return LoraConfig(
        r=lora.r,
        init_lora_weights=True if plain else init,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern={name: _whole(alpha) for name, alpha in lora.alpha_pattern.items()},
        use_rslora=config.uses_rslora,
        use_dora=config.method == "dora" or lora.use_dora,
        **_eva(init),
        **_common(config, is_transposed),
    )


def _eva(init: str) -> dict[str, Any]:
    if init != "eva":
        return {}
    from peft import EvaConfig

    # rho 1: every module keeps its rank, so that what was checked is what is trained.
    return {"eva_config": EvaConfig(rho=1.0)}


def _adalora(config: TrainerConfig, num_steps: int, is_transposed: bool) -> Any:
    from peft import AdaLoraConfig

    section = config.adalora
    tinit, tfinal, delta = adalora_schedule(config, num_steps)
    return AdaLoraConfig(
        init_r=section.init_r,
        target_r=section.target_r,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=delta,
        beta1=section.beta1,
        beta2=section.beta2,
        orth_reg_weight=section.orth_reg_weight,
        total_step=num_steps,
        **_common(config, is_transposed),
    )


def adalora_schedule(config: TrainerConfig, num_steps: int) -> tuple[int, int, int]:
    """(tinit, tfinal, deltaT) in steps: a tenth, a third, and about 20 moves between them.

    Raises `MethodError` for a schedule that doesn't fit into the steps.
    """
    section = config.adalora
    tinit = num_steps // 10 if section.tinit is None else section.tinit
    tfinal = math.ceil(num_steps / 3) if section.tfinal is None else section.tfinal
    moving = num_steps - tinit - tfinal
    if moving < 1:
        raise MethodError(
            f"adalora.tinit {tinit} and adalora.tfinal {tfinal} leave no step of {num_steps} in "
            "which ranks could move; lower them, or train longer"
        )
    return tinit, tfinal, section.deltaT or max(1, moving // 20)


def _common(config: TrainerConfig, is_transposed: bool) -> dict[str, Any]:
    """What LoRA and AdaLoRA share."""
    lora = config.lora
    targets = lora.target_modules
    return {
        "lora_alpha": _whole(config.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "exclude_modules": sorted(lora.exclude_modules) or None,
        "modules_to_save": sorted(lora.modules_to_save) or None,
        "bias": lora.bias,
        "fan_in_fan_out": is_transposed,
        "task_type": "CAUSAL_LM",
    }


def _ia3(config: TrainerConfig, modules: Mapping[str, Shape], is_transposed: bool) -> Any:
    from peft import IA3Config

    targets, feedforward = ia3_targets(config, modules)
    return IA3Config(
        target_modules=sorted(targets),
        feedforward_modules=sorted(feedforward),
        fan_in_fan_out=is_transposed,
        task_type="CAUSAL_LM",
    )


def _prompt(config: TrainerConfig, geometry: BaseGeometry) -> Any:
    import peft

    prompt = config.prompt
    common = {"num_virtual_tokens": prompt.num_virtual_tokens, "task_type": "CAUSAL_LM"}
    if config.method == "prompt_tuning":
        # A text is written over it afterwards, so that the published config names no tokenizer.
        return peft.PromptTuningConfig(
            prompt_tuning_init=peft.PromptTuningInit.RANDOM
            if prompt.init_text
            else peft.PromptTuningInit.SAMPLE_VOCAB,
            **common,
        )
    if config.method == "p_tuning":
        return peft.PromptEncoderConfig(
            encoder_hidden_size=prompt.encoder_hidden or geometry.hidden, **common
        )
    return peft.PrefixTuningConfig(
        prefix_projection=prompt.encoder_hidden is not None,
        encoder_hidden_size=prompt.encoder_hidden,
        # Random keys and values would drown the text that they stand before.
        init_weights="zero",
        **common,
    )


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
