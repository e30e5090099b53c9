"""Attention and adapter work in plain torch: right everywhere, the oracle of every faster backend.

Axes: R rows, T tokens, W work items, H query heads, K kv heads, G = H / K, L cached tokens,
Q query tokens of a row, D head dim.
"""

import torch

from server.model.adapter_pages.page_layout import ModulePlace
from server.model.geometry import AttentionOptions
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs


def attend(
    queries_THD: torch.Tensor,
    cache: KVCache,
    layer: int,
    step: StepInputs,
    options: AttentionOptions,
) -> torch.Tensor:
    """Causal attention of every row over its own cached tokens; returns [T, H, D].

    Scores and softmax in float32. Decode rows run as one padded batch, prefill chunks one by one.
    """
    out = queries_THD.new_empty(*queries_THD.shape[:2], cache.values[layer].shape[-1])
    num_decode = step.num_decode_rows
    if num_decode:
        lens = step.seq_lens[:num_decode]
        num_blocks = -(-(max(step.starts[:num_decode]) + 1) // cache.block_size)
        blocks = step.block_tables[:num_decode, :num_blocks].long()
        keys, values = cache.read(layer, blocks)
        attended = _attend_rows(
            queries_THD[:num_decode, None], keys, values, (lens - 1)[:, None], options
        )
        out[:num_decode] = attended[:, 0]
    first = num_decode
    for row in range(num_decode, step.num_rows):
        length, start = step.row_lengths[row], step.starts[row]
        num_blocks = -(-(start + length) // cache.block_size)
        keys, values = cache.read(layer, step.block_tables[row : row + 1, :num_blocks].long())
        tokens = slice(first, first + length)
        out[tokens] = _attend_rows(
            queries_THD[None, tokens], keys, values, step.positions[None, tokens], options
        )[0]
        first += length
    return out


def _attend_rows(
    queries_RQHD: torch.Tensor,
    keys_RLKD: torch.Tensor,
    values_RLKD: torch.Tensor,
    positions_RQ: torch.Tensor,
    options: AttentionOptions,
) -> torch.Tensor:
    num_rows, num_queries, num_heads, _ = queries_RQHD.shape
    length, num_kv_heads = keys_RLKD.shape[1:3]
    group = num_heads // num_kv_heads
    queries = queries_RQHD.view(num_rows, num_queries, num_kv_heads, group, -1)
    queries = queries.permute(0, 2, 3, 1, 4)
    queries = queries.reshape(num_rows, num_kv_heads, group * num_queries, -1)
    scores = (queries @ keys_RLKD.permute(0, 2, 3, 1)).float() * options.scale
    scores = scores.view(num_rows, num_heads, num_queries, length)
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    distance_RQL = positions_RQ[:, :, None] - torch.arange(length, device=scores.device)
    if options.slopes_H is not None:
        scores = scores - options.slopes_H[None, :, None, None] * distance_RQL[:, None]
    hidden = distance_RQL < 0
    if options.sliding_window is not None:
        hidden |= distance_RQL >= options.sliding_window
    scores = scores.masked_fill(hidden[:, None], float("-inf"))
    weights = _softmax(scores, options.sinks_H)
    weights = weights.to(values_RLKD.dtype).view(num_rows, num_kv_heads, group * num_queries, -1)
    out: torch.Tensor = weights @ values_RLKD.permute(0, 2, 1, 3)
    out = out.view(num_rows, num_kv_heads, group, num_queries, -1)
    return out.permute(0, 3, 1, 2, 4).reshape(num_rows, num_queries, num_heads, -1)


def _softmax(scores_RHQL: torch.Tensor, sinks_H: torch.Tensor | None) -> torch.Tensor:
    """Over the last axis, where a head's sink takes part and is left out of what comes back."""
    if sinks_H is None:
        return scores_RHQL.softmax(-1)
    sinks = sinks_H.float()[None, :, None, None].expand(*scores_RHQL.shape[:-1], 1)
    return torch.cat([scores_RHQL, sinks], -1).softmax(-1)[..., :-1]


class AdapterWork:
    """The work triples of one step, expanded once and shared by every module.

    Decode rows become one gathered batch of work items; each prefill chunk multiplies by its own
    pages, stacked along the rank, which is the exact sum over them.
    """

    def __init__(self, step: StepInputs) -> None:
        offsets = step.work_offsets.tolist()
        num_decode = step.num_decode_rows
        end = offsets[num_decode]
        counts = [offsets[r + 1] - offsets[r] for r in range(num_decode)]
        self._decode_tokens = torch.repeat_interleave(torch.tensor(counts, dtype=torch.long)).to(
            step.work_pages.device
        )
        self._decode_pages = step.work_pages[:end].long()
        self._decode_scales = step.work_scales[:end]
        self._num_decode = num_decode
        self._chunks = []
        first = num_decode
        for row in range(num_decode, step.num_rows):
            items = slice(offsets[row], offsets[row + 1])
            if items.start < items.stop:
                tokens = slice(first, first + step.row_lengths[row])
                pages = step.work_pages[items].long()
                self._chunks.append((tokens, pages, step.work_scales[items]))
            first += step.row_lengths[row]

    @property
    def is_empty(self) -> bool:
        return not self._chunks and not len(self._decode_pages)

    def add(
        self,
        out_TN: torch.Tensor,
        inputs_TK: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor],
        module_scales: torch.Tensor,
        place: ModulePlace,
    ) -> None:
        """out += sum over each token's work items of scale * (inputs A^T) B, summed in float32."""
        a_PRK, b_PRN = factors
        if len(self._decode_pages):
            scales = self._decode_scales * module_scales[self._decode_pages, place.index]
            rows = inputs_TK[self._decode_tokens].unsqueeze(2)
            h = torch.bmm(a_PRK[self._decode_pages], rows.to(a_PRK.dtype)).float()
            h = (h * scales[:, None, None]).to(b_PRN.dtype).transpose(1, 2)
            delta_WN = torch.bmm(h, b_PRN[self._decode_pages]).squeeze(1).float()
            total = torch.zeros(self._num_decode, delta_WN.shape[1], device=out_TN.device)
            total.index_add_(0, self._decode_tokens, delta_WN)
            decode = out_TN[: self._num_decode]
            decode.copy_(decode.float() + total)
        for tokens, pages, item_scales in self._chunks:
            scales = item_scales * module_scales[pages, place.index]
            rank = a_PRK.shape[1]
            a = a_PRK[pages].flatten(0, 1)
            h = (inputs_TK[tokens].to(a.dtype) @ a.T).float() * scales.repeat_interleave(rank)
            delta = (h.to(b_PRN.dtype) @ b_PRN[pages].flatten(0, 1)).float()
            out_TN[tokens] = (out_TN[tokens].float() + delta).to(out_TN.dtype)
