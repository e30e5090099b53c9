"""What the methods share that train vectors in front of the text, and leave the weights alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from trainer.config import defaults
from trainer.config.section import Section
from trainer.config.written import is_changed, written_value
from trainer.methods.method import AdapterMethod, MethodSection, TrainingForward
from trainer.methods.targets import Shape

if TYPE_CHECKING:
    from trainer.config import TrainerConfig

_TYPICAL_ROW_TOKENS = 100
"""Each row has its own virtual tokens; a row of a plan has about a hundred of its own."""


class PromptSection(Section):
    """Trained vectors in front of the text; methods prompt_tuning, prefix_tuning, p_tuning."""

    num_virtual_tokens: int = Field(
        default=defaults.NUM_VIRTUAL_TOKENS, ge=1, le=1024, description="how many vectors"
    )
    init_text: str | None = Field(
        default=None,
        min_length=1,
        description="prompt_tuning: begin with the embeddings of this text; default random words",
    )
    encoder_hidden: int | None = Field(
        default=None,
        ge=1,
        le=1 << 16,
        description="p_tuning, prefix_tuning: width of the network that makes the vectors; default "
        "the model's width (p_tuning), no network (prefix_tuning)",
    )


PROMPT_SECTION = MethodSection(
    "prompt", PromptSection, "methods prompt_tuning, prefix_tuning, p_tuning"
)

_FOR = {"init_text": "prompt_tuning", "encoder_hidden": "p_tuning, prefix_tuning"}
"""Keys of the section that aren't for all of them, and whom they are for."""


class PromptMethod(AdapterMethod):
    """Virtual tokens before each row; each method says how its vectors come about."""

    sections: ClassVar[tuple[MethodSection[Any], ...]] = (PROMPT_SECTION,)
    packs_rows = False

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        problems = []
        if written_value(document, "data", "packing") is True:
            problems.append(
                f"data.packing: the virtual tokens of {self.name} stand before a whole sequence, "
                "so rows can't share one; leave it off"
            )
        return problems + [
            f"prompt.{key}: has no effect with method {self.name}; it is for {methods}"
            for key, methods in _FOR.items()
            if f"prompt.{key}" in self.ignored_keys
            and is_changed(document, "prompt", PromptSection, key)
        ]

    def describe(self, config: "TrainerConfig") -> str:
        return f"{PROMPT_SECTION.of(config).num_virtual_tokens} virtual tokens"

    def match_modules(
        self, config: "TrainerConfig", modules: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """None: the virtual tokens stand before the text."""
        return {}

    def padded_tokens(self, config: "TrainerConfig", tokens: int) -> int:
        count = PROMPT_SECTION.of(config).num_virtual_tokens
        return tokens + tokens * count // _TYPICAL_ROW_TOKENS

    def kept_bytes(self, config: "TrainerConfig", forward: TrainingForward) -> int:
        return 0

    def common_peft_fields(self, config: "TrainerConfig") -> dict[str, Any]:
        """Fields that PEFT's configs of all of them share."""
        count = PROMPT_SECTION.of(config).num_virtual_tokens
        return {"num_virtual_tokens": count, "task_type": "CAUSAL_LM"}
