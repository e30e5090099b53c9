"""Puts the model floor together: base, cache, bank, runner, loader, tokenizer."""

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adapters.base.chat_template import base_template
from adapters.base.host_memory import return_freed_memory
from adapters.base.loading import LoadedBase, default_compute_dtype, load_base
from adapters.base.quantization import QuantizationSpec
from adapters.base.training_guard import prepare_for_training
from adapters.template_check import BaseTemplate
from server.core.errors import ConfigurationError
from server.core.grammar import GrammarCompiler
from server.core.ports import ChatTokenizer, ModelRunner
from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.base_facts import BaseFacts, BaseWeights
from server.model.adapter_pages.host_adapter import PagedAdapterLoader
from server.model.adapter_pages.page_layout import PageLayout
from server.model.forward.cuda_graphs import DecodeGraphs
from server.model.forward.generic import GenericModel, freeze
from server.model.forward.native import NativeModel, is_native_architecture, native_bank
from server.model.forward.native_description import HeadFormat
from server.model.kernels.backends import KernelBackend, choose_backend, reference_backend
from server.model.kernels.native_kernels import NativeLinear, native_backend
from server.model.kv_cache import KVCache
from server.model.sampling.grammar import GrammarCache, grammar_tokenizer
from server.model.step.runner import StepModel, TorchRunner
from server.model.step.warm_up import full_step_seconds
from server.model.tokenizer import TransformersTokenizer, eos_token_ids
from server.native.build import NativeLibrary, load_native
from server.native.ops import NativeOps
from server.native.weights import Arithmetic

logger = logging.getLogger(__name__)

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the model floor needs to know. None is chosen from the device and the model."""

    base: str
    quantization: QuantizationSpec
    device: str
    dtype: str
    backend: str
    max_model_len: int | None
    block_size: int
    kv_cache_gib: float
    num_adapter_pages: int
    max_batch_tokens: int
    max_num_sequences: int
    head_format: HeadFormat = "bfloat16"
    arithmetic: Arithmetic = "bfloat16"
    allows_special_tokens: bool = False


@dataclass(frozen=True)
class AssembledModel:
    """The model floor, ready to run. `num_blocks` and `max_model_len` are what was chosen, and
    `quantization` is what the base is held in: that of its files where they hold 4-bit codes.

    `full_step_seconds` is what a step of all its tokens takes; 0 where that wasn't measured.
    """

    runner: ModelRunner
    loader: PagedAdapterLoader
    tokenizer: ChatTokenizer
    grammars: GrammarCompiler
    module_shapes: Mapping[str, tuple[int, int]]
    page_layout: PageLayout
    model_id: str
    base_reference: str
    base_digest: str
    base_revision: str | None
    template: BaseTemplate
    quantization: QuantizationSpec
    device: str
    backend: str
    num_blocks: int
    max_model_len: int
    vocab_size: int
    keeps_states: bool = False
    full_step_seconds: float = 0.0


@dataclass(frozen=True)
class _Parts:
    """What every way through the model is built from."""

    base: LoadedBase
    generic: GenericModel
    cache: KVCache
    bank: AdapterBank
    max_model_len: int


@dataclass(frozen=True)
class _Execution:
    """What executes a step: the model, its backend's name for log and metrics, its weights.

    `facts` and `weights` are for the loader of adapters.
    """

    model: StepModel
    backend: str
    weight_bytes: int
    facts: BaseFacts
    weights: BaseWeights


def assemble_model(settings: ModelSettings) -> AssembledModel:
    """Load the base and build everything around it.

    Raises `BaseModelError`, `UnsupportedModelError`, or `ConfigurationError` when the KV cache is
    too small for one sequence.
    """
    device = resolve_device(settings.device)
    library = _native_library(settings, device)
    _check_arithmetic(settings, library)
    dtype = _dtype(settings, device, is_native=library is not None)
    base = load_base(settings.base, settings.quantization, device=device, dtype=dtype)
    freeze(base.model)
    vocab_size = num_token_ids(base.model)
    prepare_for_training(base.model)  # the 4-bit codes stay in the layout that we read
    window = _window(base, settings.max_model_len)
    backend = choose_backend(device) if library is None else reference_backend()
    generic = GenericModel(base.model, max_model_len=window, backend=backend)
    num_blocks = _num_blocks(generic, settings, dtype)
    max_model_len = min(window, num_blocks * settings.block_size)
    has_graphs = backend.make_static_work is not None and generic.is_capturable
    cache = KVCache(
        generic.geometry,
        num_blocks=num_blocks + has_graphs,  # a captured graph's padding writes to the last one
        block_size=settings.block_size,
        dtype=dtype,
        device=device,
    )
    layout = PageLayout.for_modules(generic.module_shapes, generic.norm_sizes)
    bank = AdapterBank(layout, settings.num_adapter_pages, dtype=dtype, device=device)
    parts = _Parts(base, generic, cache, bank, max_model_len)
    if library is None:
        execution = _modules_forward(parts, backend, settings, device)
    elif is_native_architecture(base.model.config) and not generic.keeps_states:
        execution = _native_forward(parts, library, settings)
    else:
        execution = _modules_on_native_kernels(parts, library, settings)
    gc.collect()  # a model whose weights were packed is garbage with reference cycles
    return_freed_memory()
    logger.info(
        "base %s on %s in %s (%s), backend %s, %s arithmetic", settings.base, device,
        base.quantization.scheme, dtype, execution.backend,
        settings.arithmetic if settings.arithmetic == "int8" else dtype,
    )  # fmt: skip
    eos_ids = eos_token_ids(base.model, base.tokenizer)
    token_table = grammar_tokenizer(base.tokenizer, vocab_size=vocab_size, eos_token_ids=eos_ids)
    runner = TorchRunner(
        execution.model,
        cache,
        bank,
        weight_bytes=execution.weight_bytes,
        device=device,
        num_drawable=min(vocab_size, num_named_ids(base.tokenizer)),
    )
    return AssembledModel(
        runner=runner,
        loader=PagedAdapterLoader(
            layout, dtype, execution.facts, execution.weights, pin_memory=device.startswith("cuda")
        ),
        tokenizer=TransformersTokenizer(
            base.tokenizer,
            eos_token_ids=eos_ids,
            token_table=token_table,
            allows_special_tokens=settings.allows_special_tokens,
        ),
        grammars=GrammarCache(token_table),
        module_shapes=generic.adaptable_shapes,
        page_layout=layout,
        model_id=base.resolved.model_id,
        base_reference=base.resolved.reference,
        base_digest=base.resolved.digest,
        base_revision=base.resolved.revision,
        template=base_template(base.tokenizer, base.template),
        quantization=base.quantization,
        device=device,
        backend=execution.backend,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        keeps_states=generic.keeps_states,
        full_step_seconds=full_step_seconds(
            runner,
            max_batch_tokens=settings.max_batch_tokens,
            max_model_len=max_model_len,
            block_size=settings.block_size,
            keeps_states=generic.keeps_states,
        ),
    )


def _modules_forward(
    parts: _Parts, backend: KernelBackend, settings: ModelSettings, device: str
) -> _Execution:
    """transformers' modules over torch or Triton kernels; decode in CUDA graphs where it can be."""
    parts.generic.install_adapters(parts.bank)
    model: StepModel = parts.generic
    if backend.make_static_work is not None and parts.generic.is_capturable:
        graphs = DecodeGraphs(
            parts.generic,
            parts.cache,
            backend.make_static_work,
            max_rows=settings.max_num_sequences,
            max_model_len=parts.max_model_len,
            device=device,
        )
        graphs.capture()
        model = graphs
    generic = parts.generic
    return _Execution(model, backend.name, model_bytes(parts.base), generic.facts, generic.weights)


def _native_forward(parts: _Parts, library: NativeLibrary, settings: ModelSettings) -> _Execution:
    """The whole step as one native call."""
    native = NativeModel(
        library,
        parts.base.model,
        parts.generic,
        parts.bank,
        parts.cache,
        max_batch_tokens=settings.max_batch_tokens,
        max_positions=parts.max_model_len,
        head_format=settings.head_format,
        arithmetic=settings.arithmetic,
    )
    return _Execution(native, "native", native.weight_bytes, native.facts, native.weights)


def _modules_on_native_kernels(
    parts: _Parts, library: NativeLibrary, settings: ModelSettings
) -> _Execution:
    """transformers' modules with native linears, adapter work and attention."""
    layout = parts.bank.layout
    ops, bank = NativeOps(library), native_bank(parts.bank)
    backend = native_backend(ops, bank, layout, settings.arithmetic)
    parts.generic.install_adapters(parts.bank, backend)
    packed = sum(m.size_bytes for m in parts.base.model.modules() if isinstance(m, NativeLinear))
    generic, num_bytes = parts.generic, model_bytes(parts.base) + packed
    return _Execution(generic, backend.name, num_bytes, generic.facts, generic.weights)


def _native_library(settings: ModelSettings, device: str) -> NativeLibrary | None:
    """The native kernels, when they are wanted and can be had."""
    if settings.backend == "reference" or device != "cpu":
        return None
    if settings.dtype not in ("auto", "bfloat16"):
        if settings.backend == "native":
            raise ConfigurationError(
                [f"dtype is {settings.dtype}, but the native kernels compute in bfloat16"]
            )
        return None
    library = load_native()
    if library is None and settings.backend == "native":
        raise ConfigurationError(["backend is native, but the kernels can't be built; see the log"])
    return library


def _check_arithmetic(settings: ModelSettings, library: NativeLibrary | None) -> None:
    """Raises `ConfigurationError` where int8 arithmetic is wanted and can't be had."""
    if settings.arithmetic == "bfloat16":
        return
    if library is None:
        reason = "which only the native CPU kernels have, and they don't run here"
    elif not library.instruction_set.multiplies_bytes:
        kernels = library.instruction_set.value
        reason = f"which needs AVX512-VNNI and AVX512-BF16, but this processor runs {kernels}"
    elif settings.quantization.scheme == "none":
        reason = "which multiplies 4-bit weights, but quantization is none"
    else:
        return
    raise ConfigurationError([f"arithmetic is int8, {reason}; use --arithmetic bfloat16"])


def _dtype(settings: ModelSettings, device: str, *, is_native: bool) -> torch.dtype:
    if settings.dtype != "auto":
        dtype = getattr(torch, settings.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
    return torch.bfloat16 if is_native else default_compute_dtype(device)


def resolve_device(device: str) -> str:
    """`auto` to cuda or cpu. Raises `ConfigurationError` for cuda without a GPU."""
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device == "cuda" and not has_cuda:
        raise ConfigurationError(["device is cuda, but torch sees no GPU here; use --device cpu"])
    return device


def num_token_ids(model: Any) -> int:
    """Token ids that a model both reads and draws: rows of its embedding, and of its head.

    Its config may say otherwise, and its tokenizer may know more.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    configured = int(model.config.get_text_config(decoder=True).vocab_size)
    return min(configured, int(embedding.num_embeddings), int(head.out_features))


def num_named_ids(tokenizer: Any) -> int:
    """One more than the highest token id that has a text; a padded head has further ones."""
    return 1 + max(map(int, tokenizer.get_vocab().values()), default=0)


def model_bytes(base: LoadedBase) -> int:
    """Bytes that the base's weights take, the 4-bit blocks' statistics included."""
    seen: dict[int, int] = {}
    for tensor in (*base.model.parameters(), *base.model.buffers()):
        seen[tensor.data_ptr()] = tensor.nbytes
        state = getattr(tensor, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            absmax = getattr(part, "absmax", None)
            if absmax is not None:
                seen[absmax.data_ptr()] = absmax.nbytes
    return sum(seen.values())


def _window(base: LoadedBase, max_model_len: int | None) -> int:
    config = base.model.config.get_text_config(decoder=True)
    window = getattr(config, "max_position_embeddings", None) or max_model_len or 2048
    if max_model_len is None:
        return int(window)
    if max_model_len > window:
        raise ConfigurationError(
            [f"max_model_len is {max_model_len}; this model's window is {window}"]
        )
    return max_model_len


def _num_blocks(model: GenericModel, settings: ModelSettings, dtype: torch.dtype) -> int:
    block_bytes = model.kv_bytes_per_token(dtype.itemsize) * settings.block_size
    num_blocks = int(settings.kv_cache_gib * _GIB) // block_bytes
    if num_blocks < 1:
        raise ConfigurationError(
            [f"kv_cache_gib is {settings.kv_cache_gib}; one block takes {block_bytes} bytes"]
        )
    return num_blocks
