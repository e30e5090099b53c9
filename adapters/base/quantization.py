"""How the base model's linear weights are held: NF4 (default), FP4, or unquantised."""

from dataclasses import dataclass
from typing import Literal

Scheme = Literal["nf4", "fp4", "none"]

BLOCK_SIZE = 64
"""Weights that share one absmax in the QLoRA paper (arXiv:2305.14314) and here."""


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """The 4-bit format. `double_quant` also quantises the absmax values (0.37 bits a weight less).

    Raises `ValueError` for a scheme or block size that bitsandbytes has no kernels for.
    """

    scheme: Scheme = "nf4"
    block_size: int = BLOCK_SIZE
    double_quant: bool = True

    def __post_init__(self) -> None:
        if self.scheme not in ("nf4", "fp4", "none"):
            raise ValueError(f"quantization scheme is {self.scheme!r}; use nf4, fp4 or none")
        if self.block_size != BLOCK_SIZE:
            raise ValueError(f"block_size is {self.block_size}; only {BLOCK_SIZE} is supported")

    @property
    def is_quantized(self) -> bool:
        return self.scheme != "none"


NF4 = QuantizationSpec()
UNQUANTIZED = QuantizationSpec(scheme="none", double_quant=False)
