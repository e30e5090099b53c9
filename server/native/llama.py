"""A llama-family model as data, and its whole step as one native call."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from server.native import abi
from server.native.ops import NativeBank, NativeOps, PagedBatch, Projection, WorkList
from server.native.weights import PackedWeight, require_tensor

PHASES = (
    "embed", "qkv_shrink", "qkv", "attention", "o_shrink", "o", "mlp_norm", "gate_up_shrink",
    "gate_up", "down_shrink", "down", "next_norm", "head",
)  # fmt: skip
"""What `phase_seconds` tells apart: `*_shrink` are the adapters' first halves; their second halves,
like rotary embedding, the KV write and the activation, are part of the products."""


class NativeStepError(Exception):
    """The native step refused its batch; the message says what is wrong with it."""


@dataclass(frozen=True)
class LlamaShape:
    """Sizes and scalar options, as the HF config has them.

    `rotary_dim` elements of each head are rotated, in halves (Llama) or, when
    `rotary_interleaved`, in neighbouring pairs (GLM). Granite's multipliers and Gemma's soft caps
    are plain factors; the defaults are Llama's. logits = cap(head(x) * logits_scale).
    """

    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    attention_scale: float
    rotary_dim: int
    rotary_interleaved: bool = False
    activation: str = "silu"
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_softcap: float = 0.0
    logits_scale: float = 1.0
    logits_softcap: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.num_heads % self.num_kv_heads:
            problems.append(
                f"{self.num_heads} heads don't divide over {self.num_kv_heads} kv heads"
            )
        if self.head_dim % 2 or self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            problems.append(f"head_dim {self.head_dim} / rotary_dim {self.rotary_dim} must be even")
        if self.intermediate % 32:
            problems.append(f"intermediate {self.intermediate} must be a multiple of 32")
        if self.activation not in abi.ACTIVATIONS:
            problems.append(f"activation {self.activation!r}: use one of {list(abi.ACTIVATIONS)}")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class RowExtras:
    """What single rows need of a step beside rank pages.

    `has_vectors`: some page of the work list is a vector page. `embedding_rows` int32 [T] says
    which row of `embeddings` (fp32 [n, hidden], every scale applied) a token gets instead of its
    own, or -1. `sample_hidden` bf16 [S, hidden] is filled with what the head gets of each sample.
    """

    has_vectors: bool = False
    embedding_rows: Tensor | None = None
    embeddings: Tensor | None = None
    sample_hidden: Tensor | None = None


@dataclass(frozen=True)
class LlamaLayer:
    """One layer. Packed order of outputs: q, k, v in `qkv`; gate, up in `gate_up`.

    Norm weights are fp32 (Gemma's "+ 1" already added). `cos`, `sin` fp32 [positions,
    rotary_dim / 2], scaling included; layers may share them. `window` 0 sees all keys.
    `post_attn_norm`, `post_mlp_norm` norm a sublayer's output before it is added (Gemma, GLM 4).
    """

    qkv: Projection
    o: Projection
    gate_up: Projection
    down: Projection
    attn_norm: Tensor
    mlp_norm: Tensor
    cos: Tensor
    sin: Tensor
    window: int = 0
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    post_attn_norm: Tensor | None = None
    post_mlp_norm: Tensor | None = None

    def check(self, shape: LlamaShape, num_positions: int) -> None:
        """Raises `ValueError` when a tensor's shape contradicts `shape`."""
        heads = shape.num_heads * shape.head_dim
        outputs = heads + 2 * shape.num_kv_heads * shape.head_dim
        for name, projection, want in (
            ("qkv", self.qkv, (outputs, shape.hidden)),
            ("o", self.o, (shape.hidden, heads)),
            ("gate_up", self.gate_up, (2 * shape.intermediate, shape.hidden)),
            ("down", self.down, (shape.hidden, shape.intermediate)),
        ):
            have = (projection.weight.num_outputs, projection.weight.num_inputs)
            if have != want:
                raise ValueError(f"{name} is {have}; the model's shape makes it {want}")
        for name in ("attn_norm", "mlp_norm", "post_attn_norm", "post_mlp_norm"):
            norm = getattr(self, name)
            if norm is not None:
                require_tensor(name, norm, torch.float32, (shape.hidden,))
        for name in ("q_norm", "k_norm"):
            norm = getattr(self, name)
            if norm is not None:
                require_tensor(name, norm, torch.float32, (shape.head_dim,))
        for name in ("cos", "sin"):
            table = getattr(self, name)
            require_tensor(name, table, torch.float32, (num_positions, shape.rotary_dim // 2))

    def structure(self) -> abi.Layer:
        """The C view; borrows this object's tensors."""

        def pointer(tensor: Tensor | None) -> int | None:
            return None if tensor is None else tensor.data_ptr()

        return abi.Layer(
            self.qkv.structure, self.o.structure, self.gate_up.structure, self.down.structure,
            pointer(self.attn_norm), pointer(self.mlp_norm), pointer(self.post_attn_norm),
            pointer(self.post_mlp_norm), pointer(self.q_norm), pointer(self.k_norm),
            pointer(self.cos), pointer(self.sin), self.window, 0,
        )  # fmt: skip


class NativeLlama:
    """The model's weights and KV cache behind one call per step.

    `keys_LBSHD`, `values_LBSHD`: bf16 [layers, blocks, block_size, kv_heads, head_dim], owned by
    the caller, written here. `embedding` is any packed weight or row-major bf16; a tied model
    passes the same object as `head`. Steps of up to `max_tokens` tokens.
    """

    def __init__(
        self, ops: NativeOps, shape: LlamaShape, layers: tuple[LlamaLayer, ...],
        embedding: PackedWeight, head: PackedWeight, final_norm: Tensor,
        keys_LBSHD: Tensor, values_LBSHD: Tensor, *, max_tokens: int,
    ) -> None:  # fmt: skip
        num_positions = layers[0].cos.shape[0]
        for layer in layers:
            layer.check(shape, num_positions)
        require_tensor("final_norm", final_norm, torch.float32, (shape.hidden,))
        for name, matrix in (("embedding", embedding), ("head", head)):
            if (matrix.num_outputs, matrix.num_inputs) != (shape.vocab, shape.hidden):
                raise ValueError(f"{name} is {matrix.num_outputs} x {matrix.num_inputs}")
        if head.kind == abi.KIND_ROWS_BF16:
            raise ValueError("the head must be packed: pack_bf16, pack_int8 or a 4-bit weight")
        cache_shape = (len(layers), None, None, shape.num_kv_heads, shape.head_dim)
        require_tensor("keys", keys_LBSHD, torch.bfloat16, cache_shape)
        require_tensor("values", values_LBSHD, torch.bfloat16, tuple(keys_LBSHD.shape))
        self.shape = shape
        self.max_tokens = max_tokens
        self.num_positions = num_positions
        self._ops = ops
        self._functions = ops.library.functions
        self._owned = (layers, embedding, head, final_norm, keys_LBSHD, values_LBSHD)
        self._logits_width = -(-shape.vocab // 32) * 32
        layer_array = (abi.Layer * len(layers))(*(layer.structure() for layer in layers))
        model = abi.Llama(
            len(layers), shape.hidden, shape.intermediate, shape.num_heads, shape.num_kv_heads,
            shape.head_dim, shape.vocab, shape.rotary_dim, int(shape.rotary_interleaved),
            abi.ACTIVATIONS[shape.activation], num_positions, keys_LBSHD.shape[2],
            keys_LBSHD.shape[1], max_tokens, shape.norm_eps, shape.embedding_scale,
            shape.residual_scale, shape.attention_scale, shape.attention_softcap,
            shape.logits_scale, shape.logits_softcap, embedding.structure, head.structure,
            final_norm.data_ptr(), layer_array, keys_LBSHD.data_ptr(), values_LBSHD.data_ptr(),
        )  # fmt: skip
        self._handle: int | None = self._functions.sy_llama_create(model, ops.pool)

    def step(
        self, token_ids: Tensor, batch: PagedBatch, sample_tokens: Tensor,
        bank: NativeBank | None = None, work: WorkList | None = None,
        extras: RowExtras | None = None,
    ) -> Tensor:  # fmt: skip
        """One forward over ragged rows; writes KV of all tokens.

        `token_ids` int32 [T]; `sample_tokens` int32 [S]: which tokens' logits are wanted. Returns
        fp32 [S, vocab]. Raises `NativeStepError` for a batch that doesn't fit.
        """
        assert self._handle is not None, "this NativeLlama is closed"
        batch.check()
        require_tensor("token_ids", token_ids, torch.int32, (None,))
        require_tensor("sample_tokens", sample_tokens, torch.int32, (None,))
        num_rows = batch.num_rows
        num_samples = sample_tokens.shape[0]
        logits = torch.empty(num_samples, self._logits_width, dtype=torch.float32)
        has_work = bank is not None and work is not None
        work_structure = (
            work.checked_structure(num_rows) if has_work and work is not None else abi.Work()
        )
        extras = extras or RowExtras()
        pointers = self._extra_pointers(extras, token_ids.shape[0], num_samples)
        arguments = abi.Batch(
            num_rows, token_ids.shape[0], num_samples, batch.block_tables.shape[1],
            token_ids.data_ptr(), batch.query_starts.data_ptr(), batch.seq_lens.data_ptr(),
            batch.block_tables.data_ptr(), sample_tokens.data_ptr(), logits.data_ptr(),
            self._logits_width, work_structure, *pointers,
            int(extras.has_vectors), 0,
        )  # fmt: skip
        bank_structure = bank.structure if has_work and bank is not None else None
        status = self._functions.sy_llama_step(self._handle, arguments, bank_structure)
        if status:
            raise NativeStepError(abi.STATUS_MESSAGES.get(status, f"status {status}"))
        return logits[:, : self.shape.vocab]

    def _extra_pointers(
        self, extras: RowExtras, num_tokens: int, num_samples: int
    ) -> tuple[int | None, int | None, int | None]:
        rows, values, hidden = extras.embedding_rows, extras.embeddings, extras.sample_hidden
        size = self.shape.hidden
        if hidden is not None:
            require_tensor("sample_hidden", hidden, torch.bfloat16, (num_samples, size))
        if rows is None or values is None:
            return None, None, None if hidden is None else hidden.data_ptr()
        require_tensor("embedding_rows", rows, torch.int32, (num_tokens,))
        require_tensor("embeddings", values, torch.float32, (None, size))
        if num_tokens and int(rows.max()) >= values.shape[0]:
            raise ValueError(f"an embedding row is {int(rows.max())}; there are {values.shape[0]}")
        return (
            rows.data_ptr(), values.data_ptr(), None if hidden is None else hidden.data_ptr()
        )  # fmt: skip

    @property
    def workspace_bytes(self) -> int:
        """Activations' memory."""
        assert self._handle is not None, "this NativeLlama is closed"
        return int(self._functions.sy_llama_workspace_bytes(self._handle))

    def phase_seconds(self) -> dict[str, float]:
        """Seconds spent in each phase since creation, over all steps."""
        assert self._handle is not None, "this NativeLlama is closed"
        seconds = (ctypes.c_double * len(PHASES))()
        self._functions.sy_llama_phase_seconds(self._handle, seconds, len(PHASES))
        return dict(zip(PHASES, seconds, strict=True))

    def close(self) -> None:
        """Frees the workspace; a second close does nothing. Close it before its `NativeOps`."""
        if self._handle is not None:
            self._functions.sy_llama_destroy(self._handle)
            self._handle = None
