"""Which tokens share which adapter pages: sorted once a step, read by every layer.

Tokens whose rows have the same work list form a *segment*, whichever rows they come from (thirty
decode rows over one adapter, or a prefill chunk). A segment is cut into *tiles* of at most
`TILE_TOKENS` tokens, and a tile has one *unit* for every `UNIT_ITEMS` pages of its list, so that a
unit is one small matrix product: tokens x 16 rank components. Punica's SGMV (arXiv:2310.18547) cuts
its segments the same way.

Axes: T tokens, W work items, P tiles, U units.
"""

from dataclasses import dataclass

import numpy as np
import torch

from server.model.step.step_inputs import StepInputs

TILE_TOKENS = 16
"""Tokens of a tile: the smallest matrix that a GPU's tensor cores multiply."""

UNIT_ITEMS = 2
"""Work items (adapter pages) of a unit; 2 * PAGE_RANK = 16 rank components."""


@dataclass(frozen=True)
class WorkPlan:
    """The tiles and units of one step, on the host.

    tile_tokens  int32 [P, TILE_TOKENS]  the tokens of a tile; -1 where it isn't full
    unit_starts  int32 [P + 1]           the tile's units are unit_starts[p] .. unit_starts[p + 1]
    unit_tiles   int32 [U]               the tile of each unit
    unit_items   int32 [U]               its first work item
    unit_ends    int32 [U]               where its tile's work items end
    num_items    work items of the step
    """

    tile_tokens: np.ndarray
    unit_starts: np.ndarray
    unit_tiles: np.ndarray
    unit_items: np.ndarray
    unit_ends: np.ndarray
    num_items: int

    @property
    def num_tiles(self) -> int:
        return len(self.tile_tokens)

    @property
    def num_units(self) -> int:
        return len(self.unit_tiles)

    @staticmethod
    def empty() -> "WorkPlan":
        """The plan of a step without adapters."""
        return _tile([], 0)

    @staticmethod
    def for_step(step: StepInputs) -> "WorkPlan":
        """Sort the step's tokens. Reads its work back from the device in one copy."""
        num_rows, num_items = step.num_rows, len(step.work_pages)
        packed = torch.cat((step.work_offsets, step.work_pages, step.work_scales.view(torch.int32)))
        values = packed.tolist()
        offsets, items = values[: num_rows + 1], values[num_rows + 1 :]
        # Scales are compared bit by bit, which is all that sorting needs.
        pages, scale_bits = items[:num_items], items[num_items:]
        first_token = np.concatenate(([0], np.cumsum(step.row_lengths)))
        segments: dict[tuple[int, ...], tuple[int, int, list[np.ndarray]]] = {}
        for row in range(num_rows):
            start, end = offsets[row], offsets[row + 1]
            if start < end:
                key = (*pages[start:end], *scale_bits[start:end])
                tokens = np.arange(first_token[row], first_token[row + 1], dtype=np.int32)
                segments.setdefault(key, (start, end, []))[2].append(tokens)
        return _tile(list(segments.values()), num_items)


class WorkTables:
    """A `WorkPlan` on the device, in tables whose sizes and addresses never change.

    A plan smaller than the tables is padded with tiles without units and units without a tile
    (-1), which the kernels skip. Owns the memory; `load` overwrites it.
    """

    def __init__(self, num_tiles: int, num_units: int, *, device: torch.device | str) -> None:
        self.num_tiles, self.num_units = num_tiles, num_units
        sizes = [num_tiles * TILE_TOKENS, num_tiles + 1, num_units, num_units, num_units]
        self._memory = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        tokens, self.unit_starts, self.unit_tiles, self.unit_items, self.unit_ends = torch.split(
            self._memory, sizes
        )
        self.tile_tokens = tokens.view(num_tiles, TILE_TOKENS)

    def fits(self, plan: WorkPlan) -> bool:
        return plan.num_tiles <= self.num_tiles and plan.num_units <= self.num_units

    def load(self, plan: WorkPlan) -> None:
        """Copy `plan` in, padded; it must fit."""
        assert self.fits(plan), (plan.num_tiles, plan.num_units)
        spare_units = (0, self.num_units - plan.num_units)
        parts = (
            np.pad(
                plan.tile_tokens, ((0, self.num_tiles - plan.num_tiles), (0, 0)), constant_values=-1
            ).ravel(),
            np.pad(plan.unit_starts, (0, self.num_tiles - plan.num_tiles), mode="edge"),
            np.pad(plan.unit_tiles, spare_units, constant_values=-1),
            np.pad(plan.unit_items, spare_units),
            np.pad(plan.unit_ends, spare_units),
        )
        self._memory.copy_(torch.from_numpy(np.concatenate(parts)), non_blocking=True)


def _tile(segments: list[tuple[int, int, list[np.ndarray]]], num_items: int) -> WorkPlan:
    tile_tokens: list[np.ndarray] = []
    unit_starts = [0]
    unit_tiles: list[int] = []
    unit_items: list[int] = []
    unit_ends: list[int] = []
    for start, end, parts in segments:
        tokens = np.concatenate(parts)
        for first in range(0, len(tokens), TILE_TOKENS):
            tile = np.full(TILE_TOKENS, -1, np.int32)
            part = tokens[first : first + TILE_TOKENS]
            tile[: len(part)] = part
            items = range(start, end, UNIT_ITEMS)
            unit_tiles += [len(tile_tokens)] * len(items)
            unit_items += items
            unit_ends += [end] * len(items)
            unit_starts.append(len(unit_tiles))
            tile_tokens.append(tile)
    return WorkPlan(
        tile_tokens=np.asarray(tile_tokens, np.int32).reshape(-1, TILE_TOKENS),
        unit_starts=np.asarray(unit_starts, np.int32),
        unit_tiles=np.asarray(unit_tiles, np.int32),
        unit_items=np.asarray(unit_items, np.int32),
        unit_ends=np.asarray(unit_ends, np.int32),
        num_items=num_items,
    )
