"""An adapter merged into its base: a full model that plain transformers loads, with what it costs.

An adapter is trained and served over the 4-bit values of its base. Merged, its small update lies in
the same tensor as those values: kept in 16 or 32 bits that is the served model; rounded to 4 bits
again most of the update is lost in the steps of the grid. How much, is measured here.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.base.architecture import base_config, model_class
from adapters.base.dense import make_dense
from adapters.base.loading import LoadedBase, load_base
from adapters.base.quantization import QuantizationSpec
from adapters.base.training_guard import prepare_for_training
from trainer.config import defaults
from trainer.data.labels import ConversationLabeller
from trainer.errors import MethodError
from trainer.evaluate.candidates import Candidate, quantization_of
from trainer.tuning.tuning import bare_base

REPORT_FILE = "export.json"
_PROMPTS = (
    [{"role": "user", "content": "Tell me something about the sea."}],
    [{"role": "user", "content": "用一句话介绍你自己。"}],
)


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """Of all logits on the golden prompts; `same_token_share` is where the likeliest agree."""

    maximum: float
    mean: float
    same_token_share: float

    def __str__(self) -> str:
        return (
            f"max {self.maximum:.4f}, mean {self.mean:.4f}, same likeliest token at "
            f"{self.same_token_share:.1%} of positions"
        )


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How the merged model, and the one quantised again, differ from base plus adapter."""

    adapter: str
    base: str
    dtype: str
    merged: LogitDifference
    requantized: LogitDifference


def export_merged(candidate: Candidate, folder: Path, dtype: torch.dtype) -> ExportReport:
    """Write the full model into the new `folder`, in `dtype`, with its tokenizer and a report.

    Raises `MethodError` for an adapter that can't be merged.
    """
    from peft import PeftModel

    spec = quantization_of(candidate)
    base = load_base(candidate.base, spec, dtype=torch.float32)
    prepare_for_training(base.model)  # or the forward repacks the codes that are read below
    peft_model = PeftModel.from_pretrained(base.model, str(candidate.folder)).eval()
    if peft_model.peft_config["default"].is_prompt_learning:
        raise MethodError(
            f"{candidate.label} is made of virtual tokens, not of changes to weights: it can't be "
            "merged. Serve it, or load it with PeftModel.from_pretrained"
        )
    prompts = _prompts(base)
    served = _logits(peft_model, prompts)
    plain = bare_base(peft_model)
    make_dense(plain)
    merged = PeftModel.from_pretrained(plain, str(candidate.folder)).merge_and_unload()
    merged.to(dtype).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    del peft_model, plain, merged, base
    report = ExportReport(
        adapter=candidate.label,
        base=candidate.base,
        dtype=str(dtype).removeprefix("torch."),
        merged=_difference(served, _reloaded(folder, None, prompts)),
        requantized=_difference(served, _reloaded(folder, spec, prompts)),
    )
    text = json.dumps(asdict(report), indent=2) + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    return report


def _reloaded(
    folder: Path, spec: QuantizationSpec | None, prompts: list[tuple[int, ...]]
) -> list[torch.Tensor]:
    """Logits of the written folder, computed in float32, with its linears in 4 bits or as is."""
    if spec is not None:
        return _logits(load_base(str(folder), spec, dtype=torch.float32).model, prompts)
    model = model_class(base_config(folder)).from_pretrained(str(folder), dtype=torch.float32)
    return _logits(model.eval(), prompts)


def _prompts(base: LoadedBase) -> list[tuple[int, ...]]:
    labeller = ConversationLabeller(base.tokenizer, base.template.text)
    if not base.template.text:
        return [tuple(base.tokenizer.encode("The sea is blue and the sky is"))]
    golden = [dict(message) for message in defaults.GOLDEN_MESSAGES]
    return [labeller.message_ids(messages) for messages in (golden, *_PROMPTS)]


def _logits(model: Any, prompts: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """For each prompt (tokens, words), float32."""
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].float() for ids in prompts]


def _difference(served: list[torch.Tensor], other: list[torch.Tensor]) -> LogitDifference:
    gaps = torch.cat([(a - b).abs().flatten() for a, b in zip(served, other, strict=True)])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(served, other, strict=True)])
    return LogitDifference(float(gaps.max()), float(gaps.mean()), float(same.float().mean()))
