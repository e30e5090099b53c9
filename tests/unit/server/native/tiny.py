"""Tiny random models of the llama family, in transformers and native, on equal weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.rank_pages import PAGE_RANK
from server.native.build import NativeLibrary
from server.native.llama import LlamaLayer, LlamaShape, NativeLlama
from server.native.ops import (
    NativeBank,
    NativeOps,
    PagedBatch,
    Projection,
    Segment,
    WorkList,
)
from server.native.weights import PackedWeight, pack_bf16, pack_bitsandbytes

BLOCK_SIZE = 4
NUM_BLOCKS = 64
MAX_POSITIONS = 640
VOCAB = 99

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": MAX_POSITIONS,
    "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-scaled-rope": {
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"sliding_window": 7, "head_dim": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "granite": {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "phi3": {"partial_rotary_factor": 0.5},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7},
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True},
}  # fmt: skip


def make_model(name: str, seed: int = 0) -> Any:
    """A transformers model with 4-bit representable linear weights, fp32, eager attention."""
    torch.manual_seed(seed)
    kind = name.split("-")[0]
    overrides = {**_COMMON, **ARCHITECTURES[name]}
    config = transformers.AutoConfig.for_model(kind, **overrides)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
                parameter.copy_(parameter.to(torch.bfloat16).float())
            elif parameter_name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@dataclass
class QuantizedLinears:
    """Quantises linears in place (to their dequantised values) and keeps the codes."""

    library: NativeLibrary

    def pack(self, *linears: Any) -> PackedWeight:
        functional = import_bitsandbytes().functional
        pairs = []
        for linear in linears:
            codes, state = functional.quantize_4bit(
                linear.weight.data.to(torch.bfloat16), quant_type="nf4", compress_statistics=True
            )
            linear.weight.data.copy_(functional.dequantize_4bit(codes, state).float())
            pairs.append((codes, state))
        return pack_bitsandbytes(self.library, *pairs)


def _bias(*linears: Any) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    parts = [torch.zeros(x.out_features) if x.bias is None else x.bias.data for x in linears]
    return torch.cat(parts).contiguous()


@dataclass
class TinyNative:
    """A native model beside its oracle. `modules` are the linears that a bank adapts, in order."""

    oracle: Any
    llama: NativeLlama
    modules: list[Any]
    keys: Tensor
    values: Tensor

    @classmethod
    def build(
        cls, name: str, library: NativeLibrary, ops: NativeOps, seed: int = 0
    ) -> "TinyNative":
        oracle = make_model(name, seed)
        config = oracle.config
        quantized = QuantizedLinears(library)
        modules: list[Any] = []
        is_gemma = name.startswith("gemma")

        def project(*linears: Any) -> Projection:
            segments, column = [], 0
            for linear in linears:
                segments.append(Segment(len(modules), column, linear.out_features))
                modules.append(linear)
                column += linear.out_features
            return Projection(quantized.pack(*linears), _bias(*linears), tuple(segments))

        def norm(module: Any) -> Any:
            if module is None:
                return None
            return (module.weight.data + (1.0 if is_gemma else 0.0)).contiguous()

        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        cos, sin = oracle.model.rotary_emb(
            torch.zeros(1, MAX_POSITIONS, 1), torch.arange(MAX_POSITIONS)[None]
        )
        half = cos.shape[-1] // 2
        layers = []
        for index, layer in enumerate(oracle.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            fused_qkv = getattr(attention, "qkv_proj", None)
            fused_up = getattr(mlp, "gate_up_proj", None)
            if is_gemma:
                norms = {
                    "mlp_norm": norm(layer.pre_feedforward_layernorm),
                    "post_attn_norm": norm(layer.post_attention_layernorm),
                    "post_mlp_norm": norm(layer.post_feedforward_layernorm),
                }
            elif name == "glm4":
                norms = {
                    "mlp_norm": norm(layer.post_attention_layernorm),
                    "post_attn_norm": norm(layer.post_self_attn_layernorm),
                    "post_mlp_norm": norm(layer.post_mlp_layernorm),
                }
            else:
                norms = {"mlp_norm": norm(layer.post_attention_layernorm)}
            window = getattr(config, "sliding_window", None) or 0
            types = getattr(config, "layer_types", None)
            if types is not None and types[index] != "sliding_attention":
                window = 0
            layers.append(
                LlamaLayer(
                    qkv=project(fused_qkv)
                    if fused_qkv is not None
                    else project(attention.q_proj, attention.k_proj, attention.v_proj),
                    o=project(attention.o_proj),
                    gate_up=project(fused_up)
                    if fused_up is not None
                    else project(mlp.gate_proj, mlp.up_proj),
                    down=project(mlp.down_proj),
                    attn_norm=norm(layer.input_layernorm),
                    cos=cos[0, :, :half].contiguous(),
                    sin=sin[0, :, :half].contiguous(),
                    window=window,
                    q_norm=norm(getattr(attention, "q_norm", None)),
                    k_norm=norm(getattr(attention, "k_norm", None)),
                    **norms,
                )
            )
        attention_scale = oracle.model.layers[0].self_attn.scaling
        embedding = pack_bf16(library, oracle.model.embed_tokens.weight)
        head = (
            embedding if config.tie_word_embeddings else pack_bf16(library, oracle.lm_head.weight)
        )
        shape = LlamaShape(
            hidden=config.hidden_size, intermediate=config.intermediate_size, num_heads=heads,
            num_kv_heads=kv_heads, head_dim=head_dim, vocab=VOCAB, norm_eps=config.rms_norm_eps,
            attention_scale=attention_scale, rotary_dim=2 * half,
            rotary_interleaved=name == "glm4", activation="gelu_tanh" if is_gemma else "silu",
            embedding_scale=config.hidden_size**0.5
            if is_gemma
            else getattr(config, "embedding_multiplier", 1.0),
            residual_scale=getattr(config, "residual_multiplier", 1.0),
            attention_softcap=getattr(config, "attn_logit_softcapping", None) or 0.0,
            logits_scale=1.0 / getattr(config, "logits_scaling", 1.0),
            logits_softcap=getattr(config, "final_logit_softcapping", None) or 0.0,
        )  # fmt: skip
        cache = (len(layers), NUM_BLOCKS, BLOCK_SIZE, kv_heads, head_dim)
        # NaN where nothing was written: reading a key that isn't there shows at once.
        keys = torch.full(cache, torch.nan, dtype=torch.bfloat16)
        values = torch.full(cache, torch.nan, dtype=torch.bfloat16)
        llama = NativeLlama(
            ops, shape, tuple(layers), embedding, head, norm(oracle.model.norm), keys, values,
            max_tokens=512,
        )  # fmt: skip
        return cls(oracle, llama, modules, keys, values)

    def oracle_logits(self, token_ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.oracle(torch.tensor([list(token_ids)])).logits
        return logits[0]


@dataclass
class RowStep:
    """One row of a step: tokens from position `start` on, over its blocks, with its adapters."""

    token_ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    work: Sequence[tuple[int, float]] = ()


def run_step(llama: NativeLlama, rows: Sequence[RowStep], bank: NativeBank | None = None) -> Tensor:
    """Logits of every token of every row, in order."""
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row.token_ids))
    width = max(len(row.blocks) for row in rows)
    tables = [list(row.blocks) + [-1] * (width - len(row.blocks)) for row in rows]
    batch = PagedBatch(
        torch.tensor(starts, dtype=torch.int32),
        torch.tensor([row.start + len(row.token_ids) for row in rows], dtype=torch.int32),
        torch.tensor(tables, dtype=torch.int32),
    )
    tokens = torch.tensor([t for row in rows for t in row.token_ids], dtype=torch.int32)
    samples = torch.arange(starts[-1], dtype=torch.int32)
    work = WorkList.from_rows([row.work for row in rows])
    return llama.step(tokens, batch, samples, bank, work)


def random_bank(
    features: Sequence[tuple[int, int]], num_pages: int, seed: int = 0, absent: float = 0.0
) -> NativeBank:
    """Random pages for modules of (in, out) `features`; a share `absent` of scales is 0."""
    generator = torch.Generator().manual_seed(seed)
    a_offsets, b_offsets, offset = [], [], 0
    for inputs, outputs in features:
        a_offsets.append(offset)
        b_offsets.append(offset + PAGE_RANK * inputs)
        offset += PAGE_RANK * (inputs + outputs)
    pages = (torch.randn(num_pages, offset, generator=generator) * 0.1).to(torch.bfloat16)
    scales = torch.rand(num_pages, len(features), generator=generator) + 0.5
    scales[torch.rand(scales.shape, generator=generator) < absent] = 0.0
    return NativeBank(
        pages, torch.tensor(a_offsets), torch.tensor(b_offsets),
        torch.tensor([i for i, _ in features], dtype=torch.int32),
        torch.tensor([o for _, o in features], dtype=torch.int32), scales,
    )  # fmt: skip


def explicit_delta(bank: NativeBank, module: int, work: Sequence[tuple[int, float]]) -> Tensor:
    """The summed delta [out, in] of a row's work, fp32."""
    inputs, outputs = int(bank.in_features_M[module]), int(bank.out_features_M[module])
    delta = torch.zeros(outputs, inputs)
    for page, scale in work:
        a0, b0 = int(bank.a_offsets_M[module]), int(bank.b_offsets_M[module])
        a = bank.pages_PE[page, a0 : a0 + PAGE_RANK * inputs].view(PAGE_RANK, inputs).float()
        b = bank.pages_PE[page, b0 : b0 + PAGE_RANK * outputs].view(PAGE_RANK, outputs).float()
        delta += scale * float(bank.module_scales_PM[page, module]) * (b.T @ a)
    return delta
