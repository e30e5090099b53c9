"""Where A and B begin when they begin at something of the base: PiSSA, OLoRA, CorDA, LoftQ, QERA.

PiSSA (arXiv:2404.02948), OLoRA (arXiv:2406.01775) and CorDA (`corda.py`) take a part of the weight
out of the base and train it. A server holds the base as it is, so the base stays as it is here
too: the part that would be taken out is subtracted by a second, frozen adapter, and what is
published is the difference of the two - a plain LoRA of twice the rank. That is also exact on a
4-bit base, where taking something out of the weight would need another quantisation.

LoftQ (arXiv:2310.08659) and QERA (`qera.py`) begin at the quantisation's error. The fresh adapter
then has an effect, which is wanted; nothing need be subtracted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from trainer.batches.collator import collate_rows
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError
from trainer.tuning.calibration import calibration_rows
from trainer.tuning.corda import corda_factors, input_covariances
from trainer.tuning.qera import grouped, input_autocorrelations, output_error_factors

START = "start"
"""The frozen adapter that subtracts what A and B began at."""

_EVA_BATCH_ROWS = 8


def dequantized_weight(layer: nn.Module) -> torch.Tensor:
    """The weight that a linear computes with, float32, (out, in)."""
    weight: Any = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        functional = import_bitsandbytes().functional
        dense: torch.Tensor = functional.dequantize_4bit(weight.data, state).float()
        return dense
    dense = weight.detach().float()
    return dense.T.contiguous() if type(layer).__name__ == "Conv1D" else dense


def base_factors(
    init: str, weight: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) that `init` takes from `weight` (out, in).

    PiSSA: the first singular triplets, split evenly, so that scaling * B A is their part of the
    weight. OLoRA: the first columns of Q and rows of R, unscaled, as its authors have it.
    """
    if init == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    _, _, iterations = init.partition("_niter_")
    if iterations:
        u, s, v = torch.svd_lowrank(weight, q=rank, niter=int(iterations))
        vh = v.T
    else:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return _split(u[:, :rank], s[:rank] / scaling, vh[:rank])


def residual_factors(
    residual: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B whose scaled product is the best rank-`rank` part of `residual` (out, in)."""
    u, s, vh = torch.linalg.svd(residual, full_matrices=False)
    return _split(u[:, :rank], s[:rank] / scaling, vh[:rank])


def difference_factors(
    a: torch.Tensor, b: torch.Tensor, a_start: torch.Tensor, b_start: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (2r, in) and B (out, 2r) with B A = scaling (b a - b_start a_start), evenly split.

    The sum is decomposed anew, in float64, because both products are large and their difference is
    small: stacked as they are, rounding to bfloat16 would leave more error than update.
    """
    left = torch.cat([b, b_start], dim=1).double()
    right = torch.cat([a, -a_start], dim=0).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T * scaling)
    factor_a, factor_b = _split(q_left @ u, s, vh @ q_right.T)
    return factor_a.float(), factor_b.float()


def begin_at_base(peft_model: Any, init: str, rows: Sequence[LabelledRow] = ()) -> None:
    """Put `default` at its part of every weight, and add the frozen adapter that subtracts it.

    `rows` are what CorDA looks at; without any it raises `MethodError`.
    """
    from peft.tuners.lora import LoraLayer

    layers = {n: layer for n, layer in peft_model.named_modules() if isinstance(layer, LoraLayer)}
    covariances = {}
    if init == "corda":
        inner = {name: layer.get_base_layer() for name, layer in layers.items()}
        covariances = input_covariances(peft_model, inner, calibration_rows(init, rows))
    peft_config = peft_model.peft_config["default"]
    start_config = type(peft_config)(**{**peft_config.to_dict(), "lora_dropout": 0.0})
    start_config.inference_mode = True
    peft_model.add_adapter(START, start_config)
    for name, layer in layers.items():
        weight = dequantized_weight(layer.get_base_layer())
        rank, scaling = layer.r["default"], layer.scaling["default"]
        if init == "corda":
            a, b = corda_factors(weight, covariances.pop(name), rank, scaling)
        else:
            a, b = base_factors(init, weight, rank, scaling)
        _set(layer, "default", a, b)
        _set(layer, START, a, -b)
    peft_model.base_model.set_adapter(["default", START])
    for name, parameter in peft_model.named_parameters():
        if f".{START}." in name:
            parameter.requires_grad_(False)


def begin_at_quantization_error(
    peft_model: Any, init: str, folder: Path, rows: Sequence[LabelledRow] = ()
) -> None:
    """Put `default` at what 4 bits lost of the weights in the safetensors files of `folder`.

    `rows` are what QERA looks at; without any it raises `MethodError`.
    """
    from peft.tuners.lora import LoraLayer

    if init == "qera":
        rows = calibration_rows(init, rows)
    stored = _StoredWeights(folder, init)
    transposed = peft_model.get_base_model().config.model_type == "gpt2"
    layers = {n: layer for n, layer in peft_model.named_modules() if isinstance(layer, LoraLayer)}
    for group in grouped(layers, {n: layer.in_features for n, layer in layers.items()}):
        seen = {}
        if init == "qera":
            inner = {name: layer.get_base_layer() for name, layer in group.items()}
            seen = input_autocorrelations(peft_model, inner, rows)
        for name, layer in group.items():
            weight = stored.read(f"{name.removeprefix('base_model.model.')}.weight")
            weight = weight.T if transposed else weight
            exact = dequantized_weight(layer.get_base_layer())
            residual = weight.float().to(exact.device) - exact
            rank, scaling = layer.r["default"], layer.scaling["default"]
            if init == "qera":
                a, b = output_error_factors(residual, seen.pop(name), rank, scaling)
            else:
                a, b = residual_factors(residual, rank, scaling)
            _set(layer, "default", a, b)


def begin_at_activations(peft_model: Any, rows: Sequence[LabelledRow], pad_id: int) -> None:
    """EVA (arXiv:2410.07170): A begins at the main directions of what each module sees."""
    from peft import initialize_lora_eva_weights

    chosen = calibration_rows("eva", rows)
    batches: list[Mapping[str, torch.Tensor]] = []
    for begin in range(0, len(chosen), _EVA_BATCH_ROWS):
        batch = collate_rows(chosen[begin : begin + _EVA_BATCH_ROWS], pad_id)
        batches.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    initialize_lora_eva_weights(peft_model, batches, show_progress_bar=False)
    peft_model.train()


class _StoredWeights:
    """Tensors of a model folder by name; `init` is what wants them."""

    def __init__(self, folder: Path, init: str) -> None:
        from safetensors import safe_open

        self._folder = folder
        self._init = init
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            opened: Any = safe_open(str(path), framework="pt")
            self._files |= dict.fromkeys(opened.keys(), path)

    def read(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        path = self._files.get(name) or self._files.get(name.partition(".")[2])
        if path is None:
            raise MethodError(
                f"lora.init: {self._init} needs the stored weight {name}, and {self._folder} names "
                "its weights otherwise; use default"
            )
        with safe_open(str(path), framework="pt") as file:
            stored = name if name in self._files else name.partition(".")[2]
            tensor: torch.Tensor = file.get_tensor(stored)
        return tensor


def _split(u: torch.Tensor, s: torch.Tensor, vh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B) of u diag(s) vh, the singular values shared evenly."""
    root = s.sqrt()
    return (root[:, None] * vh).contiguous(), (u * root).contiguous()


def _set(layer: Any, adapter: str, a: torch.Tensor, b: torch.Tensor) -> None:
    with torch.no_grad():
        layer.lora_A[adapter].weight.copy_(a)
        layer.lora_B[adapter].weight.copy_(b)
