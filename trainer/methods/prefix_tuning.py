"""Prefix tuning (arXiv:2101.00190): keys and values of virtual tokens, in every layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.methods.prompt_family import PROMPT_SECTION, PromptMethod
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from trainer.config import TrainerConfig


class PrefixTuning(PromptMethod):
    """The keys and values themselves, or with `encoder_hidden` a network that makes them."""

    name = "prefix_tuning"
    ignored_keys = frozenset({"prompt.init_text"})
    learning_rate = 1e-2

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        section, token_dim = PROMPT_SECTION.of(config), geometry.key_width
        tokens, inner = section.num_virtual_tokens, section.encoder_hidden
        width = 2 * geometry.num_layers * token_dim
        if inner is None:
            return tokens * width
        return tokens * token_dim + (token_dim + 1) * inner + (inner + 1) * width

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import PrefixTuningConfig

        inner = PROMPT_SECTION.of(config).encoder_hidden
        return PrefixTuningConfig(
            prefix_projection=inner is not None,
            encoder_hidden_size=inner,
            # Random keys and values would drown the text that they stand before.
            init_weights="zero",
            **self.common_peft_fields(config),
        )
