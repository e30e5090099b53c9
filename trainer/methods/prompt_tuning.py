"""Prompt tuning (arXiv:2104.08691): the embeddings of virtual tokens, trained as they are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import MethodError
from trainer.methods.prompt_family import PROMPT_SECTION, PromptMethod
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from trainer.config import TrainerConfig
    from trainer.tuning.attachment import RunStart
    from trainer.tuning.tuning import Tuning


class PromptTuning(PromptMethod):
    """Begins with words of the vocabulary, or with the embeddings of a text."""

    name = "prompt_tuning"
    ignored_keys = frozenset({"prompt.encoder_hidden"})
    # 3e-1 with Adafactor in the paper.
    learning_rate = 3e-2

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        return PROMPT_SECTION.of(config).num_virtual_tokens * geometry.hidden

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import PromptTuningConfig, PromptTuningInit

        # A text is written over it afterwards, so that the published config names no tokenizer.
        has_text = PROMPT_SECTION.of(config).init_text is not None
        return PromptTuningConfig(
            prompt_tuning_init=PromptTuningInit.RANDOM
            if has_text
            else PromptTuningInit.SAMPLE_VOCAB,
            **self.common_peft_fields(config),
        )

    def attach(self, start: "RunStart") -> "Tuning":
        tuning = super().attach(start)
        text = PROMPT_SECTION.of(start.config).init_text
        if text is not None:
            _begin_at_text(tuning.model, start, text)
        return tuning


def _begin_at_text(peft_model: Any, start: "RunStart", text: str) -> None:
    """Write the embeddings of `text`, repeated or cut to fit, over the virtual tokens."""
    import torch

    ids = start.base.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise MethodError(f"prompt.init_text: the tokenizer makes nothing of {text!r}")
    embedding = peft_model.prompt_encoder["default"].embedding.weight
    count = embedding.shape[0]
    repeated = torch.tensor((ids * (count // len(ids) + 1))[:count])
    words = start.base.model.get_input_embeddings()
    with torch.no_grad():
        embedding.copy_(words(repeated.to(words.weight.device)))
