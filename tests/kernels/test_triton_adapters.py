"""The Triton adapter kernels against the reference, and both against float64."""

import pytest
import torch

from server.model.adapter_pages.bank import AdapterBank
from server.model.kernels import reference
from server.model.kernels.triton_adapters import TritonAdapterWork
from server.model.step.step_inputs import StepInputs
from tests.kernels.steps import Row, device, make_bank, make_step

# Values are about 1 and sums about 10. float32 differs by the order of summation; in bf16 and fp16
# the result is rounded once (half a unit in the last place, 2^-8 and 2^-11 of it), and h before the
# second product, where the reference rounds decode deltas as well.
TOLERANCES = {
    torch.float32: (1e-4, 1e-5),
    torch.bfloat16: (8e-2, 2e-2),
    torch.float16: (1e-2, 2e-3),
}

MIXED: list[Row] = [
    (1, 9, [(0, 1.0), (5, 1.0)]),
    (1, 3, []),
    (1, 7, [(2, -0.5)]),
    (1, 4, [(0, 1.0), (5, 1.0)]),
    (1, 2, [(4, 0.7), (6, 0.3), (1, 0.3)]),
    (19, 0, [(3, 1.0), (2, 0.25), (7, 1.0)]),
    (3, 5, []),
    (2, 5, [(2, -0.5)]),
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def compare(
    step: StepInputs, bank: AdapterBank, *, dtype: torch.dtype, seed: int = 3
) -> list[torch.Tensor]:
    """Check every module of `bank` against the reference and float64; returns what was computed."""
    generator = torch.Generator().manual_seed(seed)
    work, oracle = TritonAdapterWork(step), reference.AdapterWork(step)
    atol, rtol = TOLERANCES[dtype]
    results = []
    for place in bank.layout.places:
        inputs = torch.randn(len(step.token_ids), place.in_features, generator=generator)
        before = torch.randn(len(step.token_ids), place.out_features, generator=generator)
        inputs, before = inputs.to(device(), dtype), before.to(device(), dtype)
        out, expected = before.clone(), before.clone()
        arguments = (inputs, bank.factors(place), bank.module_scales, place)
        work.add(out, *arguments)
        oracle.add(expected, *arguments)
        torch.testing.assert_close(out, expected, atol=atol, rtol=rtol)
        exact = before.double() + exact_delta(step, bank, inputs, place.index)
        torch.testing.assert_close(out.double(), exact, atol=atol, rtol=rtol)
        results.append(out)
    return results


def exact_delta(
    step: StepInputs, bank: AdapterBank, inputs: torch.Tensor, index: int
) -> torch.Tensor:
    """The definition, token by token, in float64."""
    place = bank.layout.places[index]
    a, b = (factor.double() for factor in bank.factors(place))
    offsets, starts = step.work_offsets.tolist(), step.query_starts.tolist()
    delta = torch.zeros(len(inputs), place.out_features, dtype=torch.float64, device=inputs.device)
    for row in range(step.num_rows):
        tokens = slice(starts[row], starts[row + 1])
        for item in range(offsets[row], offsets[row + 1]):
            page = int(step.work_pages[item])
            scale = float(step.work_scales[item]) * float(bank.module_scales[page, index])
            if scale:
                delta[tokens] += scale * (inputs[tokens].double() @ a[page].T) @ b[page]
    return delta


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_mixed_batch_of_decodes_and_chunks(dtype: torch.dtype) -> None:
    """Odd sizes, stacks, negative scales, shared work lists, rows without adapters."""
    bank = make_bank({"q": (72, 100), "down": (37, 16), "up": (200, 65)}, num_pages=8, dtype=dtype)
    compare(make_step(MIXED), bank, dtype=dtype)


def test_a_long_input_is_summed_in_shares() -> None:
    """K over one share, and not a multiple of anything."""
    bank = make_bank({"down": (2100, 24)}, num_pages=3, dtype=torch.float32)
    bank.pages.mul_(0.2)
    compare(
        make_step([(1, 3, [(0, 1.0), (2, 1.0)]), (1, 3, [(1, 2.0)])]), bank, dtype=torch.float32
    )


def test_many_rows_over_one_adapter_fill_more_than_a_tile() -> None:
    bank = make_bank({"q": (32, 48)}, num_pages=4, dtype=torch.float32)
    rows: list[Row] = [(1, 3, [(1, 1.0), (3, 1.0)])] * 21 + [(1, 3, [(0, 1.0)])]
    compare(make_step(rows), bank, dtype=torch.float32)


def test_an_absent_module_is_not_touched() -> None:
    """Scale 0 leaves the output as it is, whatever lies in the page; a stack keeps its others."""
    bank = make_bank({"q": (24, 40), "v": (24, 40)}, num_pages=4, dtype=torch.float32)
    step = make_step(
        [(1, 3, [(0, 1.0)]), (1, 3, [(0, 1.0), (2, 0.5), (1, 0.0)]), (5, 0, [(0, 1.0)])]
    )
    bank.module_scales[0, 0] = 0.0
    nan_page = bank.pages[0].clone()
    place = bank.layout.places[0]
    bank.pages[0, place.a_offset : place.b_offset] = float("nan")
    work = TritonAdapterWork(step)
    inputs = torch.randn(7, 24, device=device())
    out = torch.zeros(7, 40, device=device())
    work.add(out, inputs, bank.factors(place), bank.module_scales, place)
    assert not out[0].any()
    assert not out[2:].any()
    # The reference multiplies by zero instead, so it can be compared only without the NaN.
    bank.pages[0] = nan_page
    expected = exact_delta(step, bank, inputs, 0)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    assert out[1].abs().max() > 0.1
    compare(step, bank, dtype=torch.float32)


def test_a_token_has_the_same_bits_alone_and_in_a_batch() -> None:
    bank = make_bank({"q": (72, 100), "down": (1100, 30)}, num_pages=8, dtype=torch.bfloat16)
    step = make_step(MIXED)
    starts = step.query_starts.tolist()
    for place in bank.layout.places:
        inputs = torch.randn(starts[-1], place.in_features).to(device(), torch.bfloat16)
        arguments = (bank.factors(place), bank.module_scales, place)
        together = torch.zeros(
            starts[-1], place.out_features, dtype=torch.bfloat16, device=device()
        )
        TritonAdapterWork(step).add(together, inputs, *arguments)
        for index, row in enumerate(MIXED):
            tokens = slice(starts[index], starts[index + 1])
            alone = torch.zeros_like(together[tokens])
            TritonAdapterWork(make_step([row])).add(alone, inputs[tokens].clone(), *arguments)
            assert torch.equal(alone, together[tokens])


def test_inputs_and_outputs_may_be_slices_of_wider_ones() -> None:
    bank = make_bank({"q": (24, 40)}, num_pages=4, dtype=torch.float32)
    place = bank.layout.places[0]
    step = make_step([(1, 3, [(0, 1.0)]), (4, 0, [(2, 1.0)])])
    wide = torch.zeros(5, 100, device=device())
    inputs = torch.randn(24, 5, device=device()).T
    work = TritonAdapterWork(step)
    work.add(wide[:, 30:70], inputs, bank.factors(place), bank.module_scales, place)
    expected = exact_delta(step, bank, inputs, 0)
    torch.testing.assert_close(wide[:, 30:70].double(), expected, atol=1e-5, rtol=1e-5)
    assert not wide[:, :30].any()
    assert not wide[:, 70:].any()


def test_a_step_without_adapters_is_empty() -> None:
    assert TritonAdapterWork(make_step([(1, 3, []), (4, 0, [])])).is_empty
    assert not TritonAdapterWork(make_step([(1, 3, [(0, 1.0)])])).is_empty
