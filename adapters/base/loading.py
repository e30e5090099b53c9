"""The one function that loads a base model, for trainer and server alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.chat_template import ChatTemplate
from adapters.base.errors import BaseUnreadableError
from adapters.base.quantization import NF4, QuantizationSpec
from adapters.base.reference import ResolvedBase, resolve_base


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory: transformers' own model in eval mode, its linears in 4 bit.

    `model` and `tokenizer` are transformers objects and owned by the caller; `template` has empty
    text for a base without a chat template.
    """

    model: Any
    tokenizer: Any
    template: ChatTemplate
    resolved: ResolvedBase
    quantization: QuantizationSpec


def default_compute_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def load_tokenizer(resolved: ResolvedBase) -> tuple[Any, ChatTemplate]:
    """The tokenizer and chat template of a resolved base, without its weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(resolved.path))
    template = tokenizer.chat_template
    return tokenizer, ChatTemplate(template if isinstance(template, str) else "")


def _cast(model: nn.Module, dtype: torch.dtype, *, is_quantized: bool) -> None:
    """Bring all weights but the 4-bit codes to `dtype`; codes dequantise to it from here on.

    On a CPU the weights of a file are a map of it. Beside 4-bit codes what is left of them is
    copied: one embedding would keep all that was read of the file resident, 4-bit linears too.
    """
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            state.dtype = dtype
        elif parameter.is_floating_point():
            copy = is_quantized and parameter.device.type == "cpu"
            parameter.data = parameter.data.to(dtype, copy=copy)
    config: Any = model.config
    config.dtype = dtype


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws bars on stderr, in the middle of a server's log."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def load_base(
    reference: str,
    quantization: QuantizationSpec = NF4,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    cache_dir: Path | None = None,
) -> LoadedBase:
    """Load `reference` with its linear layers in the format of `quantization`.

    Embeddings, norms and the output head stay in `dtype` (default: the device's compute dtype).
    The 4-bit codes are bitsandbytes' own, of the stored values: the same bytes wherever this is
    called and whatever `dtype` is. `attention` is transformers' name; None is torch's own kernel
    where the architecture takes it (Gemma 2 and Bloom don't), else the plain way. Raises
    `BaseNotFoundError` or `BaseUnreadableError`.
    """
    from transformers import BitsAndBytesConfig

    resolved = resolve_base(reference, cache_dir)
    dtype = dtype or default_compute_dtype(device)
    options: dict[str, Any] = {}
    if quantization.is_quantized:
        import_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.scheme,
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    with _no_progress_bars():
        return _load(resolved, quantization, dtype, device, attention, options)


def _load(
    resolved: ResolvedBase,
    quantization: QuantizationSpec,
    dtype: torch.dtype,
    device: str,
    attention: str | None,
    options: dict[str, Any],
) -> LoadedBase:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(resolved.path),
            # The codes come from the values as stored, whatever the compute dtype is.
            dtype="auto" if quantization.is_quantized else dtype,
            device_map={"": device},
            attn_implementation=attention,
            **options,
        )
        tokenizer, template = load_tokenizer(resolved)
    except (OSError, ValueError, KeyError) as error:
        raise BaseUnreadableError(f"{resolved.reference} can't be loaded: {error}") from error
    _cast(model, dtype, is_quantized=quantization.is_quantized)
    model.eval()
    return LoadedBase(model, tokenizer, template, resolved, quantization)
