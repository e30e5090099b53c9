"""Microbenchmarks of the native kernels beside bitsandbytes and torch, in one run.

    python -m loadtests.kernels [--threads N] [--rounds N] [--only linear|attention|step]

Candidates take turns in short bursts, so that whatever else the machine does hits all alike;
medians are compared, minima shown. torch's threads spin on a while after each call and take the
cores from the next candidate: set OMP_WAIT_POLICY=passive, or mistrust a row that is twice its
neighbours. Bytes moved are those of weights, adapters and keys, each read once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.rank_pages import PAGE_RANK, pages_for_rank
from server.native.build import load_native
from server.native.llama import PHASES, LlamaLayer, LlamaShape, NativeLlama
from server.native.ops import (
    NativeBank,
    NativeOps,
    PagedBatch,
    Projection,
    Segment,
    WorkList,
)
from server.native.weights import (
    Arithmetic,
    PackedWeight,
    pack_bf16,
    pack_bitsandbytes,
    pack_int8,
    pack_nf4,
)

SMOLLM2_SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
LLAMA_7B_SHAPES = ((4096, 4096), (22016, 4096), (4096, 11008))
ROW_COUNTS = (1, 8, 32, 256)
BLOCK_SIZE = 16
BURST_CALLS = 5
PAUSE_SECONDS = 0.012
CONTEXT_TOKENS = 128

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Timing:
    """Of one candidate, in microseconds."""

    median: float
    minimum: float


def measure(candidates: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, Timing]:
    """Times the candidates in turns, a burst each: one call that isn't counted, then a few.

    Between bursts there is a pause, in which the last one's threads stop spinning.
    """
    microseconds: dict[Name, list[float]] = {name: [] for name in candidates}
    for _ in range(max(1, rounds // BURST_CALLS)):
        for name, call in candidates.items():
            time.sleep(PAUSE_SECONDS)
            call()
            for _ in range(BURST_CALLS):
                start = time.perf_counter()
                call()
                microseconds[name].append((time.perf_counter() - start) * 1e6)
    return {
        name: Timing(statistics.median(values), min(values))
        for name, values in microseconds.items()
    }


def _rounds_for(rounds: int, multiply_adds: int) -> int:
    return max(3, min(rounds, int(rounds * 2e8 / multiply_adds)))


def bench_linear(ops: NativeOps, shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    """NF4 projections: native, the same with int8 arithmetic, bitsandbytes' fused path, its
    dequantise + matmul, torch bf16."""
    bitsandbytes = import_bitsandbytes()
    print("\nNF4 projection, microseconds (median / best); x = median over native's")
    print(
        f"{'N x K':>13} {'rows':>5} {'native':>17} {'GB/s':>6} {'int8':>17} {'x':>6}"
        f" {'bnb fused':>17} {'x':>6}"
        f" {'dequant+mm':>17} {'x':>6} {'torch bf16':>17} {'x':>6}"
    )
    for num_outputs, num_inputs in shapes:
        dense = torch.randn(num_outputs, num_inputs, dtype=torch.bfloat16) * 0.05
        codes, state = bitsandbytes.functional.quantize_4bit(dense, quant_type="nf4")
        weights = [
            pack_bitsandbytes(ops.library, (codes, state), arithmetic=arithmetic)
            for arithmetic in arithmetics(ops)
        ]
        layers = []
        for is_fused in (True, False):
            layer = bitsandbytes.nn.Linear4bit(
                num_inputs, num_outputs, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            layer.weight = bitsandbytes.nn.Params4bit(
                dense.clone(), requires_grad=False, quant_type="nf4"
            )
            layer = layer.to("cpu").eval()
            layer.support_avx512bf16_for_cpu &= is_fused
            layers.append(layer)
        for rows in ROW_COUNTS:
            x = torch.randn(rows, num_inputs, dtype=torch.bfloat16)
            calls = {
                "native": partial(ops.linear, x, weights[0]),
                "int8": partial(ops.linear, x, weights[-1]),
                "fused": partial(layers[0], x),
                "dequant": partial(layers[1], x),
                "torch": partial(torch.nn.functional.linear, x, dense),
            }
            count = _rounds_for(rounds, num_outputs * num_inputs * rows)
            with torch.no_grad():
                timings = measure(calls, count)
            native = timings["native"]
            line = f"{num_outputs:>6}x{num_inputs:<6} {rows:>5} {_both(native):>17}"
            line += f" {weights[0].size_bytes / native.median / 1e3:>6.1f}"
            for name in ("int8", "fused", "dequant", "torch"):
                ratio = timings[name].median / native.median
                line += f" {_both(timings[name]):>17} {ratio:>6.2f}"
            print(line, flush=True)


def arithmetics(ops: NativeOps) -> tuple[Arithmetic, ...]:
    """Those that this processor has."""
    return ("bfloat16", "int8") if ops.library.instruction_set.multiplies_bytes else ("bfloat16",)


def _both(timing: Timing) -> str:
    return f"{timing.median:.0f} / {timing.minimum:.0f}"


def bench_attention(ops: NativeOps, rounds: int) -> None:
    """Decode over paged keys against torch's SDPA over contiguous ones; prefill likewise."""
    heads, kv_heads, head_dim = 9, 3, 64
    print("\nattention of one SmolLM2 layer (9 heads over 3), microseconds (median / best)")
    print(f"{'rows':>5} {'new':>5} {'context':>8} {'native':>17} {'torch SDPA':>17} {'x':>6}")
    for rows, new, context in ((1, 1, 128), (8, 1, 128), (32, 1, 128), (1, 1, 1500), (1, 256, 512)):
        blocks = -(-context // BLOCK_SIZE)
        keys = torch.randn(rows * blocks, BLOCK_SIZE, kv_heads, head_dim, dtype=torch.bfloat16)
        tables = torch.arange(rows * blocks, dtype=torch.int32).view(rows, blocks)
        batch = PagedBatch(
            torch.arange(rows + 1, dtype=torch.int32) * new,
            torch.full((rows,), context, dtype=torch.int32),
            tables.contiguous(),
        )
        queries = torch.randn(rows * new, heads, head_dim, dtype=torch.bfloat16)
        plain_q = queries.view(rows, new, heads, head_dim).transpose(1, 2)
        plain_k = keys.view(rows, -1, kv_heads, head_dim)[:, :context].transpose(1, 2)
        mask = torch.ones(new, context, dtype=torch.bool).tril(context - new)
        calls = {
            "native": partial(ops.attention, queries, keys, keys, batch, scale=0.125),
            "sdpa": partial(
                torch.nn.functional.scaled_dot_product_attention,
                plain_q, plain_k, plain_k, attn_mask=mask, enable_gqa=True,
            ),
        }  # fmt: skip
        timings = measure(calls, max(3, rounds // 2))
        ratio = timings["sdpa"].median / timings["native"].median
        print(
            f"{rows:>5} {new:>5} {context:>8} {_both(timings['native']):>17}"
            f" {_both(timings['sdpa']):>17} {ratio:>6.2f}",
            flush=True,
        )


@dataclass(frozen=True)
class StepModel:
    """A random model of SmolLM2-135M's shape with a bank of adapters."""

    llama: NativeLlama
    bank: NativeBank
    weight_bytes: int
    adapter_bytes: int
    key_bytes_per_token: int


def make_step_model(
    ops: NativeOps, num_adapters: int, rank: int, arithmetic: Arithmetic = "bfloat16"
) -> StepModel:
    """30 layers of NF4 codes at random; the step's speed doesn't depend on their values. The head
    is in bf16, with int8 arithmetic in int8."""
    shape = LlamaShape(
        hidden=576, intermediate=1536, num_heads=9, num_kv_heads=3, head_dim=64, vocab=49152,
        norm_eps=1e-5, attention_scale=0.125, rotary_dim=64,
    )  # fmt: skip
    num_layers, blocks = 30, 32 * (CONTEXT_TOKENS // BLOCK_SIZE + 1)
    angles = torch.arange(2048)[:, None] / 10000 ** (torch.arange(0, 64, 2) / 64)
    features: list[tuple[int, int]] = []
    weights: list[PackedWeight] = []
    code = torch.linspace(-1.0, 1.0, 16)

    def project(num_inputs: int, *outputs: int) -> Projection:
        count = sum(outputs) * num_inputs
        codes = torch.randint(0, 256, (count // 2,), dtype=torch.uint8)
        absmax = torch.rand(count // 64) * 0.05
        weights.append(
            pack_nf4(ops.library, codes, absmax, code, sum(outputs), num_inputs, arithmetic)
        )
        segments, column = [], 0
        for num_outputs in outputs:
            segments.append(Segment(len(features), column, num_outputs))
            features.append((num_inputs, num_outputs))
            column += num_outputs
        return Projection(weights[-1], segments=tuple(segments))

    norm = torch.ones(shape.hidden)
    layers = tuple(
        LlamaLayer(
            qkv=project(576, 576, 192, 192), o=project(576, 576),
            gate_up=project(576, 1536, 1536), down=project(1536, 576),
            attn_norm=norm, mlp_norm=norm, cos=angles.cos(), sin=angles.sin(),
        )
        for _ in range(num_layers)
    )  # fmt: skip
    rows = torch.randn(shape.vocab, shape.hidden) * 0.05
    is_int8 = arithmetic == "int8"
    head = pack_int8(ops.library, rows, "int8") if is_int8 else pack_bf16(ops.library, rows)
    cache = torch.zeros(2, num_layers, blocks, BLOCK_SIZE, 3, 64, dtype=torch.bfloat16)
    llama = NativeLlama(ops, shape, layers, head, head, norm, cache[0], cache[1], max_tokens=256)
    a_offsets, b_offsets, page_elements = [], [], 0
    for num_inputs, num_outputs in features:
        a_offsets.append(page_elements)
        b_offsets.append(page_elements + PAGE_RANK * num_inputs)
        page_elements += PAGE_RANK * (num_inputs + num_outputs)
    num_pages = num_adapters * pages_for_rank(rank)
    pages = ops.library.arena.zeros(num_pages * page_elements, torch.bfloat16)
    pages = pages.fill_(0.01).view(num_pages, page_elements)
    bank = NativeBank(
        pages, torch.tensor(a_offsets), torch.tensor(b_offsets),
        torch.tensor([i for i, _ in features], dtype=torch.int32),
        torch.tensor([o for _, o in features], dtype=torch.int32),
        torch.ones(num_pages, len(features)),
    )  # fmt: skip
    weight_bytes = head.size_bytes + sum(w.size_bytes for w in weights)
    return StepModel(
        llama, bank, weight_bytes, page_elements * 2 * pages_for_rank(rank),
        num_layers * 2 * 3 * 64 * 2,
    )  # fmt: skip


def bench_step(ops: NativeOps, rounds: int, rank: int = 16) -> None:
    """Whole steps of SmolLM2-135M's shape: rows x distinct adapters, and a prefill chunk."""
    models = {
        arithmetic: make_step_model(ops, num_adapters=32, rank=rank, arithmetic=arithmetic)
        for arithmetic in arithmetics(ops)
    }
    pages_each = pages_for_rank(rank)
    print(f"\nwhole step, SmolLM2-135M shape, NF4, rank {rank}, all linears adapted;")
    print("bfloat16: exact inputs, bf16 head; int8: inputs and head in int8")
    print(
        f"{'rows':>5} {'new':>5} {'context':>8} {'adapters':>9} {'arithmetic':>10}"
        f" {'ms median':>10} {'ms best':>8}"
        f" {'tokens/s':>9} {'MB moved':>9} {'GB/s':>6}   largest phases"
    )
    for rows, new, num_adapters in (
        (1, 1, 0), (1, 1, 1), (8, 1, 0), (8, 1, 8), (32, 1, 0), (32, 1, 1), (32, 1, 32),
        (1, 128, 0), (1, 128, 1),
    ):  # fmt: skip
        context = CONTEXT_TOKENS
        blocks = -(-context // BLOCK_SIZE)
        batch = PagedBatch(
            torch.arange(rows + 1, dtype=torch.int32) * new,
            torch.full((rows,), context, dtype=torch.int32),
            torch.arange(rows * blocks, dtype=torch.int32).view(rows, blocks).contiguous(),
        )
        tokens = torch.randint(0, 49152, (rows * new,), dtype=torch.int32)
        samples = (torch.arange(rows, dtype=torch.int32) + 1) * new - 1
        work = WorkList.from_rows(
            [
                [(pages_each * (row % num_adapters) + p, 1.0) for p in range(pages_each)]
                if num_adapters
                else []
                for row in range(rows)
            ]
        )
        calls, before = {}, {}
        for arithmetic, model in models.items():
            bank = model.bank if num_adapters else None
            calls[arithmetic] = partial(model.llama.step, tokens, batch, samples, bank, work)
            before[arithmetic] = model.llama.phase_seconds()
        for arithmetic, timing in measure(calls, rounds).items():
            model, start = models[arithmetic], before[arithmetic]
            end = model.llama.phase_seconds()
            total = sum(end[p] - start[p] for p in PHASES)
            phases = sorted(((end[p] - start[p]) / total, p) for p in PHASES)[::-1][:4]
            moved = model.weight_bytes + num_adapters * model.adapter_bytes
            moved += rows * context * model.key_bytes_per_token
            print(
                f"{rows:>5} {new:>5} {context:>8} {num_adapters:>9} {arithmetic:>10}"
                f" {timing.median / 1e3:>10.2f}"
                f" {timing.minimum / 1e3:>8.2f} {rows * new / timing.median * 1e6:>9.0f}"
                f" {moved / 1e6:>9.0f} {moved / timing.median / 1e3:>6.1f}   "
                + "  ".join(f"{name} {share:.0%}" for share, name in phases),
                flush=True,
            )
    for model in models.values():
        model.llama.close()


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description="Microbenchmarks of the native CPU kernels.")
    parser.add_argument("--threads", type=int, default=None, help="default: one per core")
    parser.add_argument("--rounds", type=int, default=40, help="timed calls of each candidate")
    parser.add_argument("--only", choices=("linear", "attention", "step"), default=None)
    arguments = parser.parse_args()
    library = load_native()
    if library is None:
        raise SystemExit("no native kernels on this machine: see the log line above")
    ops = NativeOps(library, arguments.threads)
    torch.set_num_threads(ops.num_threads)
    torch.manual_seed(0)
    print(f"instruction set {library.instruction_set.value}, {ops.num_threads} threads")
    if arguments.only in (None, "linear"):
        bench_linear(ops, SMOLLM2_SHAPES, arguments.rounds)
        bench_linear(ops, LLAMA_7B_SHAPES, arguments.rounds)
    if arguments.only in (None, "attention"):
        bench_attention(ops, arguments.rounds)
    if arguments.only in (None, "step"):
        torch.set_num_threads(1)
        bench_step(ops, arguments.rounds)
    ops.close()


if __name__ == "__main__":
    main()
