"""An adapter's parts outside the linears, as row tables: embeddings, head, virtual tokens."""

import torch

from adapters.format.adapter_config import AdapterConfig, PromptConfig
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_checks import token_ids_for
from adapters.format.tensor_roles import TensorRole
from server.model.adapter_pages.adapter_tensors import ModuleTensors
from server.model.adapter_pages.base_facts import BaseFacts, BaseWeights
from server.model.adapter_pages.page_builder import PageBuilder
from server.model.adapter_pages.row_table import RowTable
from server.model.adapter_pages.special_parts import TableChange

_UNSERVED = {
    TensorRole.MAGNITUDE: "DoRA on the embedding or the output head isn't served",
    TensorRole.BIAS: "a trained bias of the output head isn't served",
    TensorRole.LORA_B_BIAS: "a LoRA bias of the output head isn't served",
    TensorRole.IA3: "IA3 on the embedding or the output head isn't served",
    TensorRole.SINGULAR_VALUES: "AdaLoRA on the output head isn't served",
}

_ROWS_AT_ONCE = 4096


def table_change(
    builder: PageBuilder,
    module: str,
    tensors: ModuleTensors,
    config: AdapterConfig,
    base: BaseWeights,
    facts: BaseFacts,
) -> TableChange:
    """The change of the token embedding or of the output head. Raises `ValueError`.

    Rows that are the base's own, as the bank holds them, have no effect.
    """
    for role, reason in _UNSERVED.items():
        if role in tensors:
            raise ValueError(f"{module}: {reason}")
    shape = (facts.vocab_size, facts.hidden_size)
    weight, tokens = tensors.get(TensorRole.WEIGHT), tensors.get(TensorRole.TOKENS)
    if weight is not None and tokens is not None:
        raise ValueError(f"{module} has a full weight and trained tokens: one of them is enough")
    rows = token_ids = a = b = None
    factor = 0.0
    if weight is not None:
        values = _shaped(module, weight, shape)
        rows = builder.add_table(module, values)
        builder.has_effect |= _differs(values, torch.arange(len(values)), module, builder, base)
    if tokens is not None:
        token_ids, values = _sorted_tokens(module, tokens, config, facts)
        rows = builder.add_table(module, values)
        builder.has_effect |= _differs(values, token_ids, module, builder, base)
    factors = _factors(tensors)
    if factors is not None:
        assert isinstance(config, LoraConfig)
        a_RH, b_VR = factors
        rank = a_RH.shape[0]
        a = builder.add_table(module, _shaped(module, a_RH, (rank, facts.hidden_size)))
        b = builder.add_table(module, _shaped(module, b_VR, (facts.vocab_size, rank)))
        factor = config.scaling_of(module)
        builder.has_effect |= bool((a_RH != 0).any() and (b_VR != 0).any())
    return TableChange(rows, token_ids, a, b, factor)


def soft_prompt(
    builder: PageBuilder, prompt: torch.Tensor, config: PromptConfig, facts: BaseFacts
) -> RowTable:
    """Embeddings of virtual tokens; PEFT saves those of P-tuning with the encoder applied."""
    builder.has_effect = True
    shape = (config.num_virtual_tokens, facts.hidden_size)
    return builder.add_table("prompt_embeddings", _shaped("prompt_embeddings", prompt, shape))


def prefix(
    builder: PageBuilder, prompt: torch.Tensor, config: PromptConfig, facts: BaseFacts
) -> RowTable:
    """Keys and values of virtual tokens, of each layer its keys, then its values."""
    builder.has_effect = True
    geometry, layer = facts.geometry, facts.geometry.uniform
    if not facts.takes_prefix or layer is None:
        raise ValueError("a prefix of keys and values can't be given to this base's layers")
    size = layer.num_heads * layer.key_dim
    if layer.key_dim != layer.value_dim:
        raise ValueError("a prefix needs keys and values of one size, and this base's differ")
    shape = (config.num_virtual_tokens, 2 * geometry.num_layers * size)
    flat = _shaped("prompt_embeddings", prompt, shape)
    by_layer = flat.view(config.num_virtual_tokens, 2 * geometry.num_layers, size).transpose(0, 1)
    return builder.add_table("prompt_embeddings", by_layer.reshape(-1, size))


def _differs(
    rows: torch.Tensor,
    token_ids: torch.Tensor,
    module: str,
    builder: PageBuilder,
    base: BaseWeights,
) -> bool:
    """Whether any row isn't the base's. A piece at a time: most differ in the first."""
    pieces = zip(
        torch.split(token_ids, _ROWS_AT_ONCE), torch.split(rows, _ROWS_AT_ONCE), strict=True
    )
    for ids, piece in pieces:
        own = base.rows(module, ids).to(piece.device, builder.dtype)
        if not torch.equal(piece.to(builder.dtype), own):
            return True
    return False


def _factors(tensors: ModuleTensors) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A [r, hidden] and B [vocabulary, r]; an embedding's own are the other way round."""
    if TensorRole.EMBEDDING_A in tensors:
        return tensors[TensorRole.EMBEDDING_B].T, tensors[TensorRole.EMBEDDING_A].T
    if TensorRole.LORA_A in tensors:
        return tensors[TensorRole.LORA_A], tensors[TensorRole.LORA_B]
    return None


def _sorted_tokens(
    module: str, rows: torch.Tensor, config: AdapterConfig, facts: BaseFacts
) -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids_for(module, config)
    if ids is None or max(ids) >= facts.vocab_size:
        raise ValueError(f"{module}: a trained token is outside the vocabulary")
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    values = _shaped(module, rows, (len(ids), facts.hidden_size))[order]
    return torch.tensor([ids[i] for i in order]), values


def _shaped(name: str, tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {list(tensor.shape)}; this base needs {list(shape)}")
    return tensor.contiguous()
