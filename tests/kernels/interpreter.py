"""bfloat16 in Triton's interpreter.

The interpreter of triton 3.9 holds bfloat16 as 16-bit integers: `tl.dot` multiplies the integers,
and a cast from float32 cuts bits off where a GPU rounds to nearest even. Its maintainers say that
bfloat16 isn't supported there (triton-lang/triton issue 11584). These two replacements compute what
a GPU does, so that the kernels can be tested in the dtype that they serve in.
"""

from typing import Any

import numpy as np
import pytest
import torch


def support_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the interpreter's dot and cast where a bfloat16 is involved, for one test."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain_dot, plain_cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16()
            return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)
        return plain_cast(self, src, dst_type)

    def dot(self: Any, a: Any, b: Any, *arguments: Any) -> Any:
        wide = [
            plain_cast(self, side, tl.float32) if side.dtype.scalar == tl.bfloat16 else side
            for side in (a, b)
        ]
        return plain_dot(self, *wide, *arguments)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
