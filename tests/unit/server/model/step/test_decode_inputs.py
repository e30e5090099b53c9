"""The quick layout of decoding steps is the general one, tensor by tensor."""

import dataclasses

import pytest
import torch

from server.core.batch import ScheduledBatch, ScheduledRow, WorkItem
from server.core.request import SamplingParams
from server.model.step.decode_inputs import DecodeInputs, only_decodes
from server.model.step.step_inputs import StepInputs

PLAIN = SamplingParams(max_tokens=9)


def row(index: int, start: int, work: tuple[WorkItem, ...] = (), length: int = 1) -> ScheduledRow:
    blocks = [7 * index + i for i in range((start + length) // 4 + 1)]
    tokens = [100 + index] * length
    return ScheduledRow(index, tokens, start, blocks, work, PLAIN, True, 0, 1)


@pytest.mark.parametrize(
    "rows",
    [
        (row(0, 5),),
        (row(0, 0), row(1, 31), row(2, 4)),
        (
            row(3, 9, (WorkItem(2, 0.5),)),
            row(1, 3),
            row(2, 8, (WorkItem(1, 1.0), WorkItem(5, 2.0))),
        ),
    ],
)
def test_both_layouts_are_the_same(rows: tuple[ScheduledRow, ...]) -> None:
    batch, layout = ScheduledBatch(rows), DecodeInputs(4, "cpu")
    assert only_decodes(batch)
    wanted = StepInputs.from_batch(batch, block_size=4, device="cpu")
    for _ in range(2):  # what is kept from the first time is as good
        made = layout.inputs(rows, None)
        for field in dataclasses.fields(StepInputs):
            one, other = getattr(made, field.name), getattr(wanted, field.name)
            if isinstance(one, torch.Tensor):
                assert one.is_contiguous(), field.name
                assert one.dtype == other.dtype, field.name
                assert torch.equal(one, other), field.name
            else:
                assert one == other, field.name


def test_prompts_and_silent_rows_are_left_to_the_general_one() -> None:
    assert not only_decodes(ScheduledBatch((row(0, 5), row(1, 0, length=2))))
    silent = dataclasses.replace(row(0, 5), samples=False)
    assert not only_decodes(ScheduledBatch((silent,)))
