"""The C structures of csrc/abi.h and the signatures of csrc/api.h, field by field."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_void_p
from typing import Any, ClassVar

KIND_NONE, KIND_NF4, KIND_BF16, KIND_INT8, KIND_ROWS_BF16 = range(5)
KIND_NF4_BYTES, KIND_INT8_BYTES = 5, 6
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
MAX_SEGMENTS = 3
STATUS_MESSAGES = {
    1: "more tokens or samples than the workspace was made for (max_tokens)",
    2: "a token id outside the vocabulary",
    3: "a row whose length doesn't fit its tokens or the rotary table (max_positions)",
    4: "a block id outside the KV cache, or a block table too short for its row",
    5: "an adapter page outside the bank",
}


class Weight(ctypes.Structure):
    """SyWeight"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("kind", c_int32), ("n", c_int32), ("k", c_int32), ("code_step", c_float),
        ("data", c_void_p), ("scales", c_void_p), ("code", c_void_p),
    ]  # fmt: skip


class Segment(ctypes.Structure):
    """SySegment"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("module", c_int32), ("column", c_int32), ("columns", c_int32), ("reserved", c_int32),
    ]  # fmt: skip


class Projection(ctypes.Structure):
    """SyProjection"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("weight", Weight), ("bias", c_void_p), ("segments", Segment * MAX_SEGMENTS),
        ("num_segments", c_int32), ("reserved", c_int32),
    ]  # fmt: skip


class Layer(ctypes.Structure):
    """SyLayer"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("qkv", Projection), ("o", Projection), ("gate_up", Projection), ("down", Projection),
        ("attn_norm", c_void_p), ("mlp_norm", c_void_p),
        ("post_attn_norm", c_void_p), ("post_mlp_norm", c_void_p),
        ("q_norm", c_void_p), ("k_norm", c_void_p), ("cos", c_void_p), ("sin", c_void_p),
        ("window", c_int32), ("reserved", c_int32),
    ]  # fmt: skip


class Llama(ctypes.Structure):
    """SyLlama"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        *((name, c_int32) for name in (
            "num_layers", "hidden", "intermediate", "num_heads", "num_kv_heads", "head_dim",
            "vocab", "rotary_dim", "rotary_interleaved", "activation", "max_positions",
            "block_size", "num_blocks", "max_tokens",
        )),
        *((name, c_float) for name in (
            "norm_eps", "embedding_scale", "residual_scale", "attention_scale",
            "attention_softcap", "logits_scale", "logits_softcap",
        )),
        ("embedding", Weight), ("head", Weight), ("final_norm", c_void_p),
        ("layers", POINTER(Layer)), ("keys", c_void_p), ("values", c_void_p),
    ]  # fmt: skip


class Bank(ctypes.Structure):
    """SyBank"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("pages", c_void_p), ("page_elements", c_int64), ("num_pages", c_int32),
        ("num_modules", c_int32), ("a_offsets", c_void_p), ("b_offsets", c_void_p),
        ("in_features", c_void_p), ("out_features", c_void_p), ("module_scales", c_void_p),
        ("vector_flags", c_void_p), ("num_vectors", c_int64),
    ]  # fmt: skip


class Work(ctypes.Structure):
    """SyWork"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("offsets", c_void_p), ("pages", c_void_p), ("scales", c_void_p),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """SyBatch"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("num_rows", c_int32), ("num_tokens", c_int32), ("num_samples", c_int32),
        ("max_blocks", c_int32), ("token_ids", c_void_p), ("query_starts", c_void_p),
        ("seq_lens", c_void_p), ("block_tables", c_void_p), ("sample_tokens", c_void_p),
        ("logits", c_void_p), ("logits_stride", c_int64), ("work", Work),
        ("embedding_rows", c_void_p), ("embeddings", c_void_p), ("sample_hidden", c_void_p),
        ("has_vectors", c_int32), ("reserved", c_int32),
    ]  # fmt: skip


class Attention(ctypes.Structure):
    """SyAttention"""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("queries", c_void_p), ("output", c_void_p), ("token_stride", c_int64),
        ("keys", c_void_p), ("values", c_void_p), ("query_starts", c_void_p),
        ("seq_lens", c_void_p), ("block_tables", c_void_p),
        *((name, c_int32) for name in (
            "num_rows", "max_blocks", "num_heads", "num_kv_heads", "head_dim", "block_size",
            "window", "reserved",
        )),
        ("scale", c_float), ("softcap", c_float),
    ]  # fmt: skip


def declare_functions(library: ctypes.CDLL) -> None:
    """Sets argument and result types of every exported function."""
    p, i32, i64 = c_void_p, c_int32, c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sy_pool_create": (p, [i32]),
        "sy_pool_destroy": (None, [p]),
        "sy_pack_nf4": (None, [p, p, i32, i32, i32, p, p]),
        "sy_pack_bf16": (None, [p, i32, i32, p]),
        "sy_pack_int8": (None, [p, i32, i32, i32, p, p]),
        "sy_unpack_nf4": (None, [POINTER(Weight), p]),
        "sy_embed": (None, [POINTER(Weight), p, i32, p]),
        "sy_linear": (None, [p, POINTER(Weight), p, p, i64, i32, p, i64, p]),
        "sy_lora": (
            None,
            [p, POINTER(Bank), POINTER(Projection), POINTER(Work), p, i32, p, i64, p, i64],
        ),
        "sy_attention": (None, [p, POINTER(Attention)]),
        "sy_rms_norm": (None, [p, p, i32, i32, c_float, p]),
        "sy_llama_create": (p, [POINTER(Llama), p]),
        "sy_llama_destroy": (None, [p]),
        "sy_llama_step": (i32, [p, POINTER(Batch), POINTER(Bank)]),
        "sy_llama_workspace_bytes": (i64, [p]),
        "sy_llama_phase_seconds": (i32, [p, POINTER(c_double), i32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
