"""Adapters of dense methods (OFT, LoHa, LoKr, VeRA ...) as LoRA, with what that loses.

PEFT runs the adapter over the base with the values that a server holds, dequantised. What it adds
to each linear is read off its answers to the unit vectors, cut to a rank, and written as a LoRA.
Then the base with those deltas added is compared with PEFT's own model on a few prompts: what
isn't a change of linears, or is lost, shows there. Needs torch.
"""

import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.base.dense import make_dense
from adapters.base.loading import LoadedBase, load_base
from adapters.base.training_guard import prepare_for_training
from adapters.errors import AdapterNotFoundError, FoldError
from adapters.folding.linear_change import LinearChange, find_changes
from adapters.folding.low_rank import LowRank, relative_error
from adapters.folding.order import FoldSpec
from adapters.folding.source import DenseSource
from adapters.format.adapter_config import read_adapter_config
from adapters.format.folder_files import CONFIG_FILE
from adapters.format.manifest import BaseLineage, Manifest, QuantizationRecord
from adapters.format.peft_folder import Factors, write_lora
from adapters.names import AdapterRef
from adapters.store.store import AdapterStore, StoredAdapter

_PROMPTS = (
    "The sea is blue and the sky is",
    "def largest(numbers):\n    return",
    "用一句话介绍你自己。",
)
_LARGEST_SHARE = 0.5
"""Of the adapter's effect on the logits: a fold that misses more of it isn't the adapter."""


@dataclass(frozen=True, slots=True)
class FoldedAdapter:
    """A published fold. Relative errors are of modules, logits those of the golden prompts."""

    stored: StoredAdapter
    method: str
    worst_error: float
    mean_error: float
    logit_difference: float
    logit_effect: float


def fold_adapter(
    store: AdapterStore, folder: Path, spec: FoldSpec, *, set_alias: bool = True
) -> FoldedAdapter:
    """Fold the PEFT folder and publish the result as the current version of `spec.name`.

    Raises `FoldError` for what can't be folded or would lose more than `spec.max_error`,
    `InspectionError` for a folder that may not be read, and what loading the base and publishing
    raise.
    """
    source = DenseSource.read(folder)
    base = load_base(spec.base, spec.quantization, dtype=torch.float32)
    prepare_for_training(base.model)
    source.check_base(base.resolved.digest)
    make_dense(base.model)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="fold-") as scratch:
        prompts = _prompts(base)
        plain = _logits(base.model, prompts)
        changes, served = _ask_peft(base.model, source.copy_to(Path(scratch) / "source"), prompts)
        folded, errors = _fold(changes, spec)
        for change in changes:
            change.apply(base.model, *folded[change.module])
        difference = _largest(served, _logits(base.model, prompts))
        effect = _largest(served, plain)
        _check_logits(source.method, difference, effect)
        target = Path(scratch) / "folded"
        rank = write_lora(
            target,
            folded,
            base_reference=spec.base,
            biases={c.module: c.bias for c in changes if c.bias is not None},
            is_transposed=all(c.is_transposed for c in changes),
        )
        metrics = {
            "fold_relative_error_max": max(errors),
            "fold_relative_error_mean": sum(errors) / len(errors),
            "fold_logit_difference": difference,
            "fold_logit_effect": effect,
        }
        manifest = _manifest(store, base, source, spec, rank, metrics)
        stored = store.publish(spec.name, target, manifest, set_alias=set_alias)
    return FoldedAdapter(
        stored, source.method, max(errors), sum(errors) / len(errors), difference, effect
    )


def _ask_peft(
    model: Any, folder: Path, prompts: Sequence[torch.Tensor]
) -> tuple[list[LinearChange], list[torch.Tensor]]:
    """What PEFT changes in each linear, and its logits. `model` is as it was afterwards."""
    linears = dict(model.named_modules())
    method = str(read_adapter_config(folder / CONFIG_FILE)["peft_type"]).upper()
    try:
        peft_model = _load(model, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's and torch's, on how they do what they do
            logits = _logits(peft_model, prompts)
            changes = find_changes(peft_model, linears, method)
    except (
        ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError,
    ) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0]
        raise FoldError(f"PEFT can't apply this {method} adapter to the base: {reason}") from error
    for change in changes:
        model.set_submodule(change.module, linears[change.module])
    if not changes:
        raise FoldError(f"this {method} adapter changes no linear of the base: it has no effect")
    return changes, logits


def _load(model: Any, folder: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peft_model = PeftModel.from_pretrained(model, str(folder)).eval()
    missing = [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
    if missing:
        raise FoldError(f"the adapter's file isn't whole: {missing[0][:300]}")
    given = set(load_file(folder / "adapter_model.safetensors"))
    unknown = sorted(given - set(get_peft_model_state_dict(peft_model)))
    if unknown:
        raise FoldError(
            f"PEFT passes over {len(unknown)} of the adapter's tensors, such as {unknown[0][:200]}:"
            " they fit nothing in this base"
        )
    return peft_model


def _fold(
    changes: Sequence[LinearChange], spec: FoldSpec
) -> tuple[dict[str, Factors], list[float]]:
    """Module -> factors whose scale is 1, and the measured errors. Raises `FoldError`."""
    parts = [LowRank.of(change.delta_NK, spec.largest_rank) for change in changes]
    rank = spec.choose_rank([part.errors for part in parts])
    folded: dict[str, Factors] = {}
    errors = {}
    for change, part in zip(changes, parts, strict=True):
        folded[change.module] = part.factors(rank)
        errors[change.module] = relative_error(change.delta_NK, *folded[change.module])
    worst = max(errors, key=errors.__getitem__)
    if errors[worst] > spec.max_error:
        wanted = max(
            next((r for r, e in enumerate(p.errors, 1) if e <= spec.max_error), len(p.errors))
            for p in parts
        )
        raise FoldError(
            f"at rank {rank} the fold loses {errors[worst]:.1%} of the change of {worst} "
            f"({sum(errors.values()) / len(errors):.1%} of a module's on average), and "
            f"{spec.max_error:.1%} is the limit (--max-error): rank {wanted} would keep to it "
            f"(--rank {wanted}, and a server with --max-lora-rank {wanted})"
        )
    return folded, list(errors.values())


def _check_logits(method: str, difference: float, effect: float) -> None:
    if difference > _LARGEST_SHARE * effect:
        raise FoldError(
            f"the fold's logits differ by {difference:.4f} from PEFT's, and the adapter changes "
            f"them by {effect:.4f}: this {method} adapter does more than add to linears, so no LoRA"
            " is the same"
        )


def _manifest(
    store: AdapterStore,
    base: LoadedBase,
    source: DenseSource,
    spec: FoldSpec,
    rank: int,
    metrics: dict[str, float],
) -> Manifest:
    resolved, held = base.resolved, base.quantization
    try:
        parent = store.get(AdapterRef(spec.name)).label
    except AdapterNotFoundError:
        parent = None
    return Manifest(
        name=spec.name,
        created_unix_seconds=int(time.time()),
        method="lora",
        rank=rank,
        base=BaseLineage(
            reference=resolved.reference, revision=resolved.revision, digest=resolved.digest
        ),
        quantization=QuantizationRecord(
            scheme=held.scheme, block_size=held.block_size, double_quant=held.double_quant
        ),
        config={"fold": {"method": source.method, "digest": source.digest, **spec.as_data()}},
        metrics=metrics,
        parent=parent,
        source=str(source.folder),
    )


def _prompts(base: LoadedBase) -> list[torch.Tensor]:
    return [torch.tensor([base.tokenizer.encode(text)]) for text in _PROMPTS]


def _logits(model: Any, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [model(input_ids=ids).logits[0].float() for ids in prompts]


def _largest(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))
