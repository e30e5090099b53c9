"""P-tuning (arXiv:2103.10385): a small network makes the embeddings of the virtual tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.methods.prompt_family import PROMPT_SECTION, PromptMethod
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from trainer.config import TrainerConfig


class PTuning(PromptMethod):
    """An MLP of three linears over trained vectors."""

    name = "p_tuning"
    ignored_keys = frozenset({"prompt.init_text"})
    learning_rate = 1e-3

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        section, hidden = PROMPT_SECTION.of(config), geometry.hidden
        inner = section.encoder_hidden or hidden
        network = (hidden + 1) * inner + (inner + 1) * inner + (inner + 1) * hidden
        return section.num_virtual_tokens * hidden + network

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import PromptEncoderConfig

        inner = PROMPT_SECTION.of(config).encoder_hidden
        return PromptEncoderConfig(
            encoder_hidden_size=inner or geometry.hidden, **self.common_peft_fields(config)
        )
