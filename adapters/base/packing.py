"""The linears of a loaded model as 4-bit codes, made in memory or as they came from its files."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.errors import BaseUnreadableError
from adapters.base.quantization import BLOCK_SIZE, QuantizationSpec


def codes_held(model: nn.Module) -> QuantizationSpec | None:
    """The format of the model's 4-bit linears, by the codes themselves; None without any.

    Codes that are stored as another dtype's bytes (`bnb_4bit_quant_storage`) become the bytes that
    they are. Raises `BaseUnreadableError` for codes of several formats, and for blocks of another
    size than ours.
    """
    bitsandbytes = import_bitsandbytes()
    found: dict[tuple[str, int, bool], str] = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight: Any = module.weight
            state = weight.quant_state
            if weight.dtype != torch.uint8:
                weight.data = weight.data.view(torch.uint8).reshape(-1, 1)
                weight.quant_storage = module.quant_storage = torch.uint8
            found.setdefault((state.quant_type, state.blocksize, bool(state.nested)), name)
    if not found:
        return None
    if len(found) > 1:
        first, second = list(found.items())[:2]
        raise BaseUnreadableError(
            f"its 4-bit weights are of several formats ({first[1]}: {_shown(*first[0])}, "
            f"{second[1]}: {_shown(*second[0])}); save it with one"
        )
    ((scheme, block_size, is_double), _), *_ = found.items()
    if block_size != BLOCK_SIZE:
        raise BaseUnreadableError(
            f"its 4-bit weights come in blocks of {block_size}, and only blocks of {BLOCK_SIZE} "
            "are read; save it with those, or name the model that it was made from"
        )
    return QuantizationSpec(scheme, double_quant=is_double)  # type: ignore[arg-type]


def _shown(scheme: str, block_size: int, is_double: bool) -> str:
    return f"{scheme}, blocks of {block_size}, {'with' if is_double else 'no'} double quantisation"


def misshapen(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Name, stored and wanted shape of quantised weights that don't fit their linears.

    transformers compares no shapes of what it packs, nor of codes.
    """
    bitsandbytes = import_bitsandbytes()
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = getattr(weight, "quant_state", None)
            if state is None:  # its codes are missing, which the report says
                continue
            stored = tuple(state.shape)
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            stored = tuple(weight.shape)
        else:
            continue
        wanted = (int(module.out_features), int(module.in_features))
        if stored != wanted:
            yield f"{name}.weight", stored, wanted


def unpack(model: nn.Module, dtype: torch.dtype) -> None:
    """Put a plain linear in `dtype` in the place of each 4-bit and 8-bit linear, one by one."""
    for name, module in list(model.named_modules()):
        weight = _plain_values(module)
        if weight is not None:
            model.set_submodule(name, _plain_linear(module, weight.to(dtype)))
    _forget_quantizer(model)


def pack(model: Any, spec: QuantizationSpec, compute_dtype: torch.dtype) -> None:
    """Put codes of `spec` in the place of each linear that transformers would quantise, one by one.

    The codes are those of the values, 8-bit linears' too: the same bytes for any `compute_dtype`.
    """
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.auto import AutoHfQuantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    bitsandbytes = import_bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.scheme,
        bnb_4bit_use_double_quant=spec.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    for name, module in list(model.named_modules()):
        weight = _plain_values(module)
        if weight is None:
            weight = _stored_values(module)
        if weight is not None and should_convert_module(name, kept):
            model.set_submodule(name, _packed(bitsandbytes, module, weight, spec, compute_dtype))
    _forget_quantizer(model)
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    model.quantization_method = model.hf_quantizer.quantization_config.quant_method
    model.is_quantized = model.is_loaded_in_4bit = True


def _plain_values(module: nn.Module) -> torch.Tensor | None:
    """The weight [out, in] of a quantised linear; None for other modules."""
    bitsandbytes = import_bitsandbytes()
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, bitsandbytes.nn.Linear4bit):
        values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
        if weight.SCB is None:
            raise BaseUnreadableError(
                "its files hold 8-bit weights without their scales (SCB); fetch it again"
            )
        values = bitsandbytes.functional.int8_vectorwise_dequant(weight.data, weight.SCB)
    else:
        return None
    assert isinstance(values, torch.Tensor)
    return values


def _stored_values(module: nn.Module) -> torch.Tensor | None:
    """The weight [out, in] of a plain linear of the kinds that transformers quantises, else None"""
    weight: Any = getattr(module, "weight", None)
    if type(module) is nn.Linear:
        return weight.data  # type: ignore[no-any-return]
    if type(module).__name__ == "Conv1D":
        return weight.data.T  # type: ignore[no-any-return]
    return None


def _plain_linear(module: Any, weight: torch.Tensor) -> nn.Module:
    with torch.device("meta"):
        plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = module.bias
    return plain


def _packed(
    bitsandbytes: Any, module: Any, weight: torch.Tensor, spec: QuantizationSpec, dtype: torch.dtype
) -> nn.Module:
    out_features, in_features = weight.shape
    with torch.device("meta"):
        packed = bitsandbytes.nn.Linear4bit(
            in_features,
            out_features,
            module.bias is not None,
            dtype,
            compress_statistics=spec.double_quant,
            quant_type=spec.scheme,
        )
    codes = bitsandbytes.nn.Params4bit(
        weight.contiguous(),
        requires_grad=False,
        compress_statistics=spec.double_quant,
        quant_type=spec.scheme,
        module=packed,
    )
    packed.weight = codes.to(weight.device)
    packed.bias = module.bias
    assert isinstance(packed, nn.Module)
    return packed


def _forget_quantizer(model: Any) -> None:
    """What transformers noted of the format that the files had."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = model.quantization_method = None
    model.is_quantized = model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
