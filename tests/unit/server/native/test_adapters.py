"""Work triples against explicit deltas."""

import pytest
import torch

from server.native.ops import NativeBank, NativeOps, Projection, Segment, WorkList
from server.native.weights import pack_bf16
from tests.unit.server.native.tiny import explicit_delta, random_bank

FEATURES = [(128, 96), (128, 40), (128, 40), (72, 50)]
ROWS = [
    (1, [(0, 1.0)]),
    (1, []),
    (6, [(1, 0.7), (2, -0.3), (3, 1.0)]),
    (37, [(0, 1.0), (1, 1.0)]),
    (1, [(2, 2.0), (2, -2.0)]),
    (5, [(3, 0.0)]),
]


def _projection(ops: NativeOps, bank: NativeBank, modules: list[int]) -> Projection:
    """A packed projection whose columns are those modules, one after the other."""
    segments, column = [], 0
    for module in modules:
        outputs = int(bank.out_features_M[module])
        segments.append(Segment(module, column, outputs))
        column += outputs
    inputs = int(bank.in_features_M[modules[0]])
    weight = pack_bf16(ops.library, torch.zeros(column, inputs))
    return Projection(weight, segments=tuple(segments))


def _starts(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)


@pytest.mark.parametrize("modules", [[0], [0, 1, 2], [3], [2, 0]])
def test_deltas_match_explicit_matrices(ops: NativeOps, modules: list[int]) -> None:
    bank = random_bank(FEATURES, num_pages=4, absent=0.3)
    projection = _projection(ops, bank, modules)
    starts = _starts([count for count, _ in ROWS])
    generator = torch.Generator().manual_seed(0)
    inputs = int(bank.in_features_M[modules[0]])
    x = torch.randn(int(starts[-1]), inputs, generator=generator).to(torch.bfloat16)
    before = torch.randn(x.shape[0], projection.weight.num_outputs, generator=generator)
    y = before.clone()
    ops.add_lora(y, x, bank, projection, WorkList.from_rows([w for _, w in ROWS]), starts)
    for row, (_, work) in enumerate(ROWS):
        tokens = slice(int(starts[row]), int(starts[row + 1]))
        delta = torch.cat([explicit_delta(bank, module, work) for module in modules])
        expected = before[tokens] + x[tokens].float() @ delta.T
        # fp32 throughout: sums of a few hundred products in another order.
        assert torch.allclose(y[tokens], expected, rtol=1e-5, atol=1e-5)
        if not work:
            assert torch.equal(y[tokens], before[tokens])


def test_a_token_has_the_same_bits_alone_and_in_any_batch(ops: NativeOps) -> None:
    bank = random_bank(FEATURES, num_pages=4)
    projection = _projection(ops, bank, [0, 1, 2])
    work = [(1, 0.7), (2, -0.3)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(29, 128, generator=generator).to(torch.bfloat16)
    base = torch.randn(29, projection.weight.num_outputs, generator=generator)
    chunk = base.clone()
    ops.add_lora(chunk, x, bank, projection, WorkList.from_rows([work]), _starts([29]))
    single = base.clone()
    ops.add_lora(single, x, bank, projection, WorkList.from_rows([work] * 29), _starts([1] * 29))
    assert torch.equal(chunk, single)
    alone = base[11:12].clone()
    ops.add_lora(
        alone, x[11:12].contiguous(), bank, projection, WorkList.from_rows([work]), _starts([1])
    )
    assert torch.equal(alone, chunk[11:12])


def test_an_absent_module_reads_nothing(ops: NativeOps) -> None:
    bank = random_bank(FEATURES, num_pages=2)
    bank.module_scales_PM[1] = 0.0
    bank.pages_PE[1] = torch.nan
    projection = _projection(ops, bank, [0, 1])
    y = torch.zeros(1, projection.weight.num_outputs)
    x = torch.ones(1, 128, dtype=torch.bfloat16)
    ops.add_lora(y, x, bank, projection, WorkList.from_rows([[(1, 1.0)]]), _starts([1]))
    assert torch.equal(y, torch.zeros_like(y))


def test_a_page_too_small_for_its_modules_is_refused() -> None:
    bank = random_bank(FEATURES, num_pages=1)
    with pytest.raises(ValueError, match="its modules need"):
        NativeBank(
            bank.pages_PE[:, :-8].contiguous(), bank.a_offsets_M, bank.b_offsets_M,
            bank.in_features_M, bank.out_features_M, bank.module_scales_PM,
        )  # fmt: skip
