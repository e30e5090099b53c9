"""Own embeddings and own output heads of single rows, around a native step."""

import torch

from server.model.step.step_extras import StepExtras
from server.model.step.step_inputs import StepInputs
from server.native.llama import LlamaShape, RowExtras
from server.native.ops import NativeOps
from server.native.weights import PackedWeight, embed


class NativeExtras:
    """Computes what a native step takes in and gives out for the rows that differ from the base.

    `is_scaled_inside`: the embedding's scale belongs to the embedding (Gemma), so that virtual
    tokens don't get it; else the model applies it to whatever comes in (Granite).
    """

    def __init__(
        self,
        ops: NativeOps,
        shape: LlamaShape,
        embedding: PackedWeight,
        head: PackedWeight,
        *,
        is_scaled_inside: bool,
    ) -> None:
        self._ops = ops
        self._shape = shape
        self._embedding = embedding
        self._head = head
        scale = shape.embedding_scale
        self._inner_scale = scale if is_scaled_inside else 1.0
        self._outer_scale = 1.0 if is_scaled_inside else scale

    def rows_for(self, step: StepInputs, extras: StepExtras) -> RowExtras:
        """The step's embeddings that aren't the base's, and room for what the head gets."""
        embedding_rows, embeddings = self._embeddings(step, extras)
        hidden = None
        if any(True for _ in extras.head_rows()):
            shape = (len(step.sample_tokens), self._shape.hidden)
            hidden = torch.empty(shape, dtype=torch.bfloat16)
        return RowExtras(extras.vectors is not None, embedding_rows, embeddings, hidden)

    def change_logits(
        self, logits_SV: torch.Tensor, hidden_SH: torch.Tensor, extras: StepExtras
    ) -> None:
        """Put the logits of rows with a head of their own in the place of the base's."""
        for sample, row in extras.head_rows():
            hidden_1H = hidden_SH[sample : sample + 1].clone()
            raw_V = self._ops.linear(hidden_1H, self._head, out_dtype=torch.float32)[0]
            extras.change_logits(raw_V, hidden_1H[0].float(), row)
            logits_V = raw_V[: self._shape.vocab] * self._shape.logits_scale
            cap = self._shape.logits_softcap
            logits_SV[sample] = torch.tanh(logits_V / cap) * cap if cap > 0.0 else logits_V

    def _embeddings(
        self, step: StepInputs, extras: StepExtras
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        rows = list(extras.embedding_rows())
        if not rows:
            return None, None
        index_T = torch.full((len(step.token_ids),), -1, dtype=torch.int32)
        parts = []
        first = 0
        for row in rows:
            values = embed(self._ops.library, self._embedding, step.token_ids[row.tokens].int())
            values *= self._shape.embedding_scale
            extras.change_embeddings(
                values, row, inner_scale=self._inner_scale, outer_scale=self._outer_scale
            )
            parts.append(values)
            index_T[row.tokens] = torch.arange(first, first + len(values), dtype=torch.int32)
            first += len(values)
        return index_T, torch.cat(parts)
