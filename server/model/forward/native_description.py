"""A llama-family model described as data for the native step: read from transformers' own modules.

One table row per architecture says what differs; everything else (shapes, windows, scales, biases,
fused projections) is read off the model itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.model.adapter_pages.page_layout import PageLayout
from server.model.geometry import LayerAttention
from server.native.build import NativeLibrary
from server.native.llama import LlamaLayer, LlamaShape
from server.native.ops import Projection, Segment
from server.native.weights import (
    BLOCK_SIZE,
    Arithmetic,
    PackedWeight,
    pack_bf16,
    pack_bitsandbytes,
    pack_int8,
)

HeadFormat = Literal["bfloat16", "int8", "nf4"]


@dataclass(frozen=True, slots=True)
class Family:
    """What one architecture does differently from Llama.

    The four norm names are of the layer's submodules: before attention, before the MLP, and over
    the output of each where there is one. `norm_offset` is added to every norm weight.
    """

    attn_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    post_attn_norm: str | None = None
    post_mlp_norm: str | None = None
    norm_offset: float = 0.0
    rotary_interleaved: bool = False
    rope_per_layer_type: bool = False


_GEMMA = Family(
    mlp_norm="pre_feedforward_layernorm",
    post_attn_norm="post_attention_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
    norm_offset=1.0,
)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "phi3": Family(),
    "granite": Family(),
    "seed_oss": Family(),
    "ministral": Family(),
    "cwm": Family(),
    "smollm3": Family(),
    "ernie4_5": Family(rotary_interleaved=True),
    "helium": Family(rotary_interleaved=True),
    "gemma": Family(norm_offset=1.0),
    "glm": Family(rotary_interleaved=True),
    "glm4": Family(
        rotary_interleaved=True,
        post_attn_norm="post_self_attn_layernorm",
        post_mlp_norm="post_mlp_layernorm",
    ),
    "gemma2": _GEMMA,
    "gemma3_text": Family(
        mlp_norm=_GEMMA.mlp_norm,
        post_attn_norm=_GEMMA.post_attn_norm,
        post_mlp_norm=_GEMMA.post_mlp_norm,
        norm_offset=1.0,
        rope_per_layer_type=True,
    ),
}


class NativeDescription:
    """Reads one model. Packing copies its weights: drop the model afterwards."""

    def __init__(
        self,
        model: Any,
        attention: Sequence[LayerAttention],
        layout: PageLayout,
        library: NativeLibrary,
        *,
        max_positions: int,
        arithmetic: Arithmetic = "bfloat16",
    ) -> None:
        self._model = model
        self._config = model.config
        self._family = FAMILIES[model.config.model_type]
        self._attention = attention
        self._places = layout.by_name
        self._library = library
        self._max_positions = max_positions
        self._arithmetic: Arithmetic = arithmetic

    def shape(self) -> LlamaShape:
        """Sizes and scalar options."""
        config, first = self._config, self._attention[0]
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        cos, _ = self._rotary(0)
        return LlamaShape(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=first.num_kv_heads,
            head_dim=first.key_dim,
            vocab=config.vocab_size,
            norm_eps=config.rms_norm_eps,
            attention_scale=first.options.scale,
            rotary_dim=2 * cos.shape[1],
            rotary_interleaved=self._family.rotary_interleaved,
            activation={"gelu_pytorch_tanh": "gelu_tanh"}.get(activation, activation),
            embedding_scale=self._embedding_scale(),
            residual_scale=getattr(config, "residual_multiplier", 1.0),
            attention_softcap=first.options.softcap or 0.0,
            logits_scale=1.0 / getattr(config, "logits_scaling", 1.0),
            logits_softcap=getattr(config, "final_logit_softcapping", None) or 0.0,
        )

    def layers(self) -> tuple[LlamaLayer, ...]:
        """Every layer with its projections packed: q+k+v in one, gate+up in one."""
        tables: dict[tuple[str, bool], tuple[torch.Tensor, torch.Tensor]] = {}
        layers = []
        for index, layer in enumerate(self._model.model.layers):
            # SmolLM3 leaves the rotation out in some layers (arXiv:2501.18795).
            kind = self._layer_type(index), bool(getattr(layer.self_attn, "use_rope", True))
            if kind not in tables:
                cos, sin = self._rotary(index)
                tables[kind] = (
                    (cos, sin) if kind[1] else (torch.ones_like(cos), torch.zeros_like(sin))
                )
            layers.append(self._layer(index, layer, *tables[kind]))
        return tuple(layers)

    def head(self, head_format: HeadFormat) -> PackedWeight:
        """The output head, packed; in bfloat16 a tied model looks tokens up in it as well."""
        rows = self._model.get_output_embeddings().weight.detach()
        if head_format == "int8":
            return pack_int8(self._library, rows, self._arithmetic)
        if head_format == "nf4":
            quantize = import_bitsandbytes().functional.quantize_4bit
            codes, state = quantize(rows, blocksize=BLOCK_SIZE, quant_type="nf4")
            return pack_bitsandbytes(self._library, (codes, state), arithmetic=self._arithmetic)
        return pack_bf16(self._library, rows)

    def final_norm(self) -> torch.Tensor:
        return self._norm(self._model.model.norm)

    def _layer(self, index: int, layer: Any, cos: torch.Tensor, sin: torch.Tensor) -> LlamaLayer:
        family, attn, mlp = self._family, layer.self_attn, layer.mlp
        prefix = f"model.layers.{index}."
        qkv = ["qkv_proj"] if hasattr(attn, "qkv_proj") else ["q_proj", "k_proj", "v_proj"]
        gate_up = ["gate_up_proj"] if hasattr(mlp, "gate_up_proj") else ["gate_proj", "up_proj"]
        return LlamaLayer(
            qkv=self._projection(attn, qkv, prefix + "self_attn."),
            o=self._projection(attn, ["o_proj"], prefix + "self_attn."),
            gate_up=self._projection(mlp, gate_up, prefix + "mlp."),
            down=self._projection(mlp, ["down_proj"], prefix + "mlp."),
            attn_norm=self._norm(getattr(layer, family.attn_norm)),
            mlp_norm=self._norm(getattr(layer, family.mlp_norm)),
            cos=cos,
            sin=sin,
            window=self._attention[index].options.sliding_window or 0,
            q_norm=self._optional_norm(attn, "q_norm"),
            k_norm=self._optional_norm(attn, "k_norm"),
            post_attn_norm=self._optional_norm(layer, family.post_attn_norm),
            post_mlp_norm=self._optional_norm(layer, family.post_mlp_norm),
        )

    def _projection(self, parent: Any, names: list[str], prefix: str) -> Projection:
        modules = [getattr(parent, name) for name in names]
        segments, column = [], 0
        for name, module in zip(names, modules, strict=True):
            place = self._places.get(prefix + name)
            columns = module.out_features
            segments.append(Segment(place.index if place else -1, column, columns))
            column += columns
        biases = [module.bias for module in modules]
        bias = None
        if any(b is not None for b in biases):
            parts = [
                torch.zeros(m.out_features) if m.bias is None else m.bias.detach().float()
                for m in modules
            ]
            bias = torch.cat(parts).contiguous()
        packed = pack_linears(self._library, modules, self._arithmetic)
        return Projection(packed, bias, tuple(segments))

    def _norm(self, norm: Any) -> torch.Tensor:
        weight: torch.Tensor = norm.weight.detach().float() + self._family.norm_offset
        return weight.contiguous()

    def _optional_norm(self, parent: Any, name: str | None) -> torch.Tensor | None:
        norm = getattr(parent, name, None) if name else None
        return None if norm is None else self._norm(norm)

    def _layer_type(self, index: int) -> str:
        if not self._family.rope_per_layer_type:
            return ""
        return str(self._config.layer_types[index])

    def _rotary(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [positions, rotary_dim / 2] as the model's own module computes them."""
        kind = self._layer_type(index)
        positions = torch.arange(self._max_positions)[None]
        arguments = (torch.zeros(1, dtype=torch.float32), positions, *([kind] if kind else []))
        cos, sin = self._model.model.rotary_emb(*arguments)
        half = cos.shape[-1] // 2
        return cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()

    def _embedding_scale(self) -> float:
        embedding = self._model.get_input_embeddings()
        scale = getattr(embedding, "embed_scale", None)
        if scale is not None:  # Gemma rounds it to the embedding's dtype
            return float(scale.to(embedding.weight.dtype))
        return float(getattr(self._config, "embedding_multiplier", 1.0))


def pack_linears(
    library: NativeLibrary, modules: Sequence[nn.Module], arithmetic: Arithmetic
) -> PackedWeight:
    """One packed matrix of linears over the same input: 4-bit codes as they are, else bf16, which
    is always multiplied as it is."""
    weights: list[Any] = [module.weight for module in modules]
    states = [getattr(weight, "quant_state", None) for weight in weights]
    if all(state is not None for state in states):
        pairs = [(weight.data, state) for weight, state in zip(weights, states, strict=True)]
        return pack_bitsandbytes(library, *pairs, arithmetic=arithmetic)
    return pack_bf16(library, *weights)
