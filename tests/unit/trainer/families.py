"""Chat templates of the model families that people train, each with a tokenizer that fits it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.unit.trainer.tiny import byte_tokenizer
from trainer.data.labels import ConversationLabeller

_TEMPLATES = Path(__file__).parent / "templates"
_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "sop", "<|system|>", "<|user|>", "<|assistant|>")
_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_PHI3 = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


@dataclass(frozen=True)
class Family:
    """One template, and what stands around an answer that the model has to write."""

    name: str
    special: tuple[str, ...]
    eos: str
    before: str
    end: str
    bos: str = "<s>"
    takes_system: bool = True
    drops_thinking: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def template(self) -> str:
        return (_TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")

    @cache  # noqa: B019 - a handful of families, for a whole test session
    def tokenizer(self) -> Any:
        return byte_tokenizer(self.template, self.special, eos=self.eos, bos=self.bos)

    def labeller(self) -> ConversationLabeller:
        return ConversationLabeller(self.tokenizer(), self.template)


_SENTENCEPIECE = ("<s>", "</s>")
FAMILIES = (
    Family("smollm2", _CHATML, "<|im_end|>", "", "<|im_end|>", bos="<|im_start|>"),
    Family("chatml_generation_tags", _CHATML, "<|im_end|>", "", "<|im_end|>", bos="<|im_start|>"),
    Family("llama3", _LLAMA3, "<|eot_id|>", "", "<|eot_id|>", bos="<|begin_of_text|>"),
    Family("qwen2_5", _CHATML, "<|im_end|>", "", "<|im_end|>", bos="<|endoftext|>"),
    Family(
        "qwen3", _CHATML, "<|im_end|>", "<think>\n\n</think>\n\n", "<|im_end|>",
        bos="<|endoftext|>", drops_thinking=True,
    ),
    Family("chatglm3", _GLM, "<|endoftext|>", "\n ", "<|user|>", bos="sop"),
    Family("glm4", _GLM, "<|endoftext|>", "\n", "<|user|>", bos="<sop>"),
    Family(
        "mistral_v1", (*_SENTENCEPIECE, "[INST]", "[/INST]"), "</s>", "", "</s>",
        takes_system=False,
    ),
    Family("mistral_v3", (*_SENTENCEPIECE, "[INST]", "[/INST]"), "</s>", " ", "</s>"),
    Family(
        "gemma2", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "",
        "<end_of_turn>", bos="<bos>", takes_system=False,
    ),
    Family(
        "gemma3", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "",
        "<end_of_turn>", bos="<bos>",
    ),
    Family("phi3", _PHI3, "<|endoftext|>", "", "<|end|>"),
    Family("zephyr", _SENTENCEPIECE, "</s>", "", "</s>"),
)  # fmt: skip
