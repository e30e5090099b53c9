"""A loaded base with plain linears that hold the values of its 4-bit codes."""

from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes


def make_dense(model: Any) -> None:
    """Put a float32 linear with the same values in the place of every 4-bit linear of `model`.

    Call it before the first forward, or after `prepare_for_training`, which keeps the codes
    readable. Takes four bytes a weight.
    """
    bitsandbytes = import_bitsandbytes()
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            codes = module.weight
            weight = bitsandbytes.functional.dequantize_4bit(codes.data, codes.quant_state)
            with torch.device("meta"):
                plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            plain.weight = nn.Parameter(weight.float(), requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(name, plain)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # transformers would else save 4-bit codes, and PEFT would expect them.
    model.hf_quantizer = None
    model.quantization_method = None
    model.is_quantized = model.is_loaded_in_4bit = False
