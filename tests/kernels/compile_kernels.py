"""Compiles every kernel for a GPU that need not be there: `python -m ... <dtype> <capability>`.

The interpreter accepts more than the compiler does, so passing there isn't enough. Run as a process
of its own, since a kernel is either interpreted or compiled from its import on. Prints one JSON
object: the shared memory of each kernel in bytes, and whether it multiplies on tensor cores.
"""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adapters.rank_pages import PAGE_RANK
from server.model.kernels import triton_adapters, triton_attention
from server.model.kernels.work_plan import TILE_TOKENS, UNIT_ITEMS

_UNIT = {
    "PAGE_RANK": PAGE_RANK,
    "UNIT_RANK": PAGE_RANK * UNIT_ITEMS,
    "TILE_TOKENS": TILE_TOKENS,
}
_HEADS = {"NUM_HEADS": 9, "GROUP": 3, "HAS_SOFTCAP": True, "HAS_SLOPES": True}
_VALUES = {"inputs", "a", "b", "out", "queries", "keys", "values"}
_FLOATS = {"h", "scales", "module_scales", "pieces", "pieces_max", "pieces_sum", "slopes"}
_TABLES = {
    "tile_tokens", "unit_tiles", "unit_starts", "unit_items", "unit_ends", "pages",
    "query_starts", "seq_lens", "block_tables",
}  # fmt: skip


def attention(dim: int, block_m: int, *, is_decode: bool) -> dict[str, Any]:
    """Constants as `attend` picks them for groups of three heads of `dim`."""
    return {
        **_HEADS,
        "KEY_DIM": dim, "VALUE_DIM": dim, "BLOCK_KEY": dim, "BLOCK_VALUE": dim,
        "BLOCK_M": block_m, "BLOCK_N": 64 if dim <= 128 else 32, "TILE_QUERIES": block_m // 3,
        "IS_DECODE": is_decode, "HAS_PIECES": is_decode,
    }  # fmt: skip


def kernels(dtype: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Each kernel with its constants."""
    wide_m = 16 if dtype == "fp32" else 64
    return {
        "shrink": (triton_adapters._shrink_kernel, {"SHARE_K": 1024, "BLOCK_K": 128, **_UNIT}),
        "expand": (triton_adapters._expand_kernel, {"NUM_SHARES": 2, "BLOCK_N": 64, **_UNIT}),
        "decode": (triton_attention._attend_kernel, attention(64, 16, is_decode=True)),
        "chunk": (triton_attention._attend_kernel, attention(64, 64, is_decode=False)),
        "wide chunk": (triton_attention._attend_kernel, attention(256, wide_m, is_decode=False)),
        "merge": (
            triton_attention._merge_kernel,
            {"NUM_HEADS": 9, "VALUE_DIM": 64, "BLOCK_VALUE": 64},
        ),
    }


def compile_kernel(kernel: Any, constants: dict[str, Any], dtype: str, capability: int) -> Any:
    signature = {}
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr:
            signature[name] = "constexpr"
        elif name in _VALUES:
            signature[name] = f"*{dtype}"
        elif name in _FLOATS:
            signature[name] = "*fp32"
        elif name in _TABLES:
            signature[name] = "*i32"
        else:
            signature[name] = "fp32" if name in ("scale", "softcap") else "i32"
    names = list(signature)
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def main() -> None:
    """Compile all for the dtype and capability of the command line."""
    dtype, capability = sys.argv[1], int(sys.argv[2])
    report = {}
    for name, (kernel, constants) in kernels(dtype).items():
        compiled = compile_kernel(kernel, constants, dtype, capability)
        assert compiled.asm["cubin"], name
        report[name] = {
            "shared_bytes": compiled.metadata.shared,
            "tensor_cores": "mma" in compiled.asm["ptx"],
        }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
