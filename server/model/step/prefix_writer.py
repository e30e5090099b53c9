"""Trained prefixes written into the KV cache, as if their tokens had been computed."""

from collections.abc import Sequence

import torch

from server.core.batch import PrefixFill, ScheduledBatch
from server.model.adapter_pages.bank import AdapterBank
from server.model.kv_cache import KVCache


def write_prefixes(batch: ScheduledBatch, bank: AdapterBank, cache: KVCache) -> None:
    """Write what the batch's rows ask for (`ScheduledRow.prefix_fill`)."""
    for row in batch.rows:
        if row.prefix_fill is not None:
            _write(row.prefix_fill, row.block_ids, bank, cache)


def _write(fill: PrefixFill, block_ids: Sequence[int], bank: AdapterBank, cache: KVCache) -> None:
    resident = bank.residents[fill.page]
    table = resident.parts.prefix
    assert table is not None, "a prefix fill for an adapter without a prefix"
    keys, values = cache.stacked
    device, num_layers = keys.device, keys.shape[0]
    num_virtual = table.num_rows // (2 * num_layers)
    positions = torch.arange(fill.start, fill.end, device=device)
    blocks = torch.tensor(list(block_ids), device=device)[positions // cache.block_size]
    slots = blocks * cache.block_size + positions % cache.block_size
    first_row = torch.arange(2 * num_layers, device=device) * num_virtual
    rows = resident.table(table).rows((first_row[:, None] + positions).flatten())
    # Layers, keys or values, tokens, heads, head dim.
    rows_LSTHD = rows.view(num_layers, 2, len(positions), *keys.shape[3:])
    keys.flatten(1, 2).index_copy_(1, slots, rows_LSTHD[:, 0])
    values.flatten(1, 2).index_copy_(1, slots, rows_LSTHD[:, 1])
