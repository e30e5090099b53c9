"""The one function that loads a base model, for trainer and server alike."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.base.architecture import (
    base_config,
    drop_senses,
    empty_model,
    model_class,
    sense_parts,
)
from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.chat_template import ChatTemplate
from adapters.base.errors import BaseUnreadableError
from adapters.base.loading_report import check_report
from adapters.base.packing import codes_held, misshapen, pack, unpack
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from adapters.base.reference import ResolvedBase, resolve_base
from adapters.base.stored_format import Stored, StoredFormat, first_line, stored_format
from adapters.base.weight_files import check_weight_files

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


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
    """The tokenizer and chat template of a resolved base, without its weights.

    Raises `BaseUnreadableError` where there is none, or only one without a fast implementation.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(resolved.path), trust_remote_code=False)
        is_fast, num_tokens = tokenizer.is_fast, len(tokenizer.get_vocab())
    except Exception as error:
        raise BaseUnreadableError(
            f"{resolved.reference} has no tokenizer that can be read ({first_line(error)}); put "
            "tokenizer.json and tokenizer_config.json of the model into its folder"
        ) from error
    has_files = any((resolved.path / name).is_file() for name in _TOKENIZER_FILES)
    if not has_files or num_tokens <= len(tokenizer.all_special_ids):
        # transformers then makes one that knows no text.
        raise BaseUnreadableError(
            f"{resolved.reference} has no tokenizer; put tokenizer.json and "
            "tokenizer_config.json of the model into its folder"
        )
    if not is_fast:
        raise BaseUnreadableError(
            f"{resolved.reference} has a tokenizer without a fast implementation "
            f"({type(tokenizer).__name__}); save its tokenizer.json into the folder"
        )
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
def _quiet_transformers() -> Iterator[None]:
    """transformers draws bars and tables on stderr, in the middle of a server's log.

    What its tables say, `check_report` says in a sentence.
    """
    from transformers.utils import logging as library

    was_enabled, level = library.is_progress_bar_enabled(), library.get_verbosity()
    library.disable_progress_bar()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if was_enabled:
            library.enable_progress_bar()


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

    Files that hold 4-bit codes keep them, unless `quantization` is none: the format of what was
    loaded stands in the result. Embeddings, norms and the output head stay in `dtype` (default:
    the device's compute dtype). The codes are bitsandbytes' own, of the stored values: the same
    bytes wherever this is called and whatever `dtype` is. `attention` is transformers' name; None
    is torch's own kernel where the architecture takes it (Gemma 2 and Bloom don't), else the plain
    way. What only images and sounds go through is left out. Raises `BaseNotFoundError`, and
    `BaseUnreadableError` with what is wrong: no base is loaded of which a part is missing, made up,
    or not a number.
    """
    resolved = resolve_base(reference, cache_dir)
    dtype = dtype or default_compute_dtype(device)
    try:
        config = base_config(resolved.path)
        stored = stored_format(resolved.path)
        check_weight_files(resolved.path)
    except BaseUnreadableError as error:
        raise BaseUnreadableError(f"{reference} can't be loaded: {error}") from error
    tokenizer, template = load_tokenizer(resolved)
    try:
        with _quiet_transformers():
            model, held = _load(
                resolved.path, config, stored, quantization, dtype, device, attention
            )
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, BaseUnreadableError) else first_line(error)
        if "automatic conversion" in reason:  # of which only a table would tell more
            reason = "parts of its weights don't fit each other or config.json; fetch it again"
        raise BaseUnreadableError(f"{reference} can't be loaded: {reason}") from error
    if held != quantization:
        logger.info("base %s is held as its files are, %s, not %s", reference, held, quantization)
    model.eval()
    return LoadedBase(model, tokenizer, template, resolved, held)


def _load(
    folder: Path,
    config: Any,
    stored: StoredFormat,
    wanted: QuantizationSpec,
    dtype: torch.dtype,
    device: str,
    attention: str | None,
) -> tuple[Any, QuantizationSpec]:
    """The model, and the format that it holds."""
    senses: tuple[str, ...] = ()
    if config.get_text_config(decoder=True) is not config:
        senses = sense_parts(empty_model(config))
    options = dict(stored.options)
    is_plain = stored.stored is Stored.PLAIN
    if stored.stored in (Stored.FOUR_BIT, Stored.EIGHT_BIT):
        import_bitsandbytes()
    if is_plain and wanted.is_quantized:
        options["quantization_config"] = _packing_config(config, wanted, dtype, senses)
    model, report = model_class(config).from_pretrained(
        str(folder),
        # The codes come from the values as stored, whatever the compute dtype is.
        dtype=dtype if is_plain and not wanted.is_quantized else "auto",
        device_map={"": device},
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # or they are told without their names
        **options,
    )
    report["mismatched_keys"] = [*report["mismatched_keys"], *misshapen(model)]
    check_report(report, dropped=senses)
    drop_senses(model)
    held = wanted
    if stored.stored is Stored.FOUR_BIT:
        held = codes_held(model) or UNQUANTIZED
    if not wanted.is_quantized and not is_plain:
        unpack(model, dtype)
        held = wanted
    elif stored.stored in (Stored.EIGHT_BIT, Stored.DEQUANTIZED):
        pack(model, wanted, dtype)
    _cast(model, dtype, is_quantized=held.is_quantized)
    return model, held


def _packing_config(
    config: Any, spec: QuantizationSpec, dtype: torch.dtype, senses: tuple[str, ...]
) -> Any:
    """How transformers packs plain weights while it reads them."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.base import get_keys_to_not_convert

    import_bitsandbytes()
    skipped = [*get_keys_to_not_convert(empty_model(config)), *senses] if senses else None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.scheme,
        bnb_4bit_use_double_quant=spec.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )
