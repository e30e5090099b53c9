"""LoRA's linear as one autograd function: less to keep, less to convert, the same mathematics.

PEFT converts a layer's input to float32 once for each adapted linear and keeps every copy for the
backward, and scales, converts and adds three tensors as wide as the output. Here the input is kept
as it is, shared by the linears that read it, and products are taken in the base's dtype with sums
in float32: the usual mixed precision, with A, B and their gradients in float32 outside the product.
An adapter is published in bfloat16, so what the step computes with is what will be served.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from adapters.base.bitsandbytes_import import import_bitsandbytes
from trainer.config import TrainerConfig

Weight = Callable[[], torch.Tensor]
"""Gives (out, in) in the compute dtype; called once in the forward and once in the backward."""


class _AdaptedLinear(torch.autograd.Function):
    """y = x W' + s (d A') B'; x and d are (tokens, in), d being x after dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        weight: Weight,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        a_low, b_low = a.to(x.dtype), b.to(x.dtype)
        shrunk = dropped @ a_low.t()
        y = functional.linear(x, weight(), bias)
        y.addmm_(shrunk, b_low.t(), alpha=scale)
        ctx.save_for_backward(dropped, shrunk, a, b)
        ctx.scale, ctx.weight, ctx.is_dropped = scale, weight, dropped is not x
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dropped, shrunk, a, b = ctx.saved_tensors
        needs_x, needs_dropped, needs_a, needs_b = ctx.needs_input_grad[:4]
        low = grad_y.dtype
        grad_shrunk = (grad_y @ b.to(low)).mul_(ctx.scale)
        grad_a = (grad_shrunk.t() @ dropped).to(a.dtype) if needs_a else None
        grad_b = (grad_y.t() @ shrunk).to(b.dtype).mul_(ctx.scale) if needs_b else None
        grad_x = grad_y @ ctx.weight() if needs_x else None
        grad_dropped = None
        if needs_dropped and ctx.is_dropped:
            grad_dropped = grad_shrunk @ a.to(low)
        elif grad_x is not None:
            grad_x.addmm_(grad_shrunk, a.to(low))
        return grad_x, grad_dropped, grad_a, grad_b, None, None, None


def is_lean_config(config: TrainerConfig) -> bool:
    """Whether `make_lora_lean` will change the linears of such a run on a CPU."""
    return config.training_method.is_lean(config)


def make_lora_lean(model: nn.Module) -> int:
    """Let the LoRA linears of `model` (PEFT's) train through the function above; returns how many.

    On a CPU only, where it was measured. Variants (DoRA), AdaLoRA, adapters with a bias, and
    anything that isn't a plain or 4-bit linear stay PEFT's; so does every forward without
    gradients.
    """
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.lora.bnb import Linear4bit

    count = 0
    for module in model.modules():
        if type(module) not in (Linear, Linear4bit):
            continue
        assert isinstance(module, LoraLayer)
        base: Any = module.get_base_layer()
        if not _is_plain(module, base):
            continue
        state = getattr(base.weight, "quant_state", None)
        weight = partial(_dense, base) if state is None else partial(_dequantized, base)
        lean: Any = module
        lean.forward = partial(_forward, module, module.forward, weight)
        count += 1
    return count


def _is_plain(module: Any, base: nn.Module) -> bool:
    adapter = module.active_adapters[0] if len(module.active_adapters) == 1 else None
    kinds = (nn.Linear, import_bitsandbytes().nn.Linear4bit)
    return (
        adapter in module.lora_A
        and type(base) in kinds
        and base.weight.device.type == "cpu"
        and not module.lora_variant
        and not any(module.lora_bias.values())
        and not getattr(module, "fan_in_fan_out", False)
    )


def _forward(
    module: Any, original: Any, weight: Weight, x: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """PEFT's forward, or ours where it is a training step of one adapter."""
    if (
        not torch.is_grad_enabled()
        or not module.training
        or module.disable_adapters
        or module.merged
        or args
        or kwargs
    ):
        found: torch.Tensor = original(x, *args, **kwargs)
        return found
    (adapter,) = module.active_adapters
    rows = x.reshape(-1, x.shape[-1])
    dropout = module.lora_dropout[adapter]
    dropped = rows if isinstance(dropout, nn.Identity) else dropout(rows)
    y: torch.Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        rows,
        dropped,
        module.lora_A[adapter].weight,
        module.lora_B[adapter].weight,
        module.scaling[adapter],
        weight,
        module.get_base_layer().bias,
    )
    return y.view(*x.shape[:-1], y.shape[-1])


def _dense(base: nn.Linear) -> torch.Tensor:
    return base.weight


def _dequantized(base: Any) -> torch.Tensor:
    rows: torch.Tensor = import_bitsandbytes().functional.dequantize_4bit(
        base.weight.data, base.weight.quant_state
    )
    return rows
