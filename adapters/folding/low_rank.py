"""A matrix as the product of two thin ones, and how much is lost at each rank. Needs torch."""

from dataclasses import dataclass

import torch

_NOISE = 1e-15
"""Of the sum of all squared singular values: a smaller one is float64's rounding."""


@dataclass(frozen=True)
class LowRank:
    """The best approximation of a matrix [N, K] of every rank up to `max_rank`.

    `a` [max_rank, K] and `b` [N, max_rank] are float32, the largest components first. `errors` is
    the relative Frobenius error at the ranks 1, 2 ... that the matrix has (Eckart and Young).
    """

    a: torch.Tensor
    b: torch.Tensor
    errors: list[float]

    @staticmethod
    def of(matrix_NK: torch.Tensor, max_rank: int) -> "LowRank":
        """Of a matrix that isn't zero.

        The eigenvectors of the smaller of its two Gram matrices, in float64, are what a singular
        value decomposition would give, in a fraction of the time.
        """
        matrix = matrix_NK.double()
        is_wide = matrix.shape[0] <= matrix.shape[1]
        tall = matrix.T if is_wide else matrix
        values, vectors = torch.linalg.eigh(tall.T @ tall)
        energies, order = values.clamp(min=0.0).sort(descending=True)
        total = energies.sum()
        lost = (total - energies.cumsum(0)).clamp(min=0.0)
        present = int((energies > _NOISE * total).sum())
        rank = min(max_rank, present)
        basis = vectors[:, order[:rank]]  # [smaller side, rank]
        other = tall @ basis
        # Both factors get the root of the singular value: neither over- nor underflows in 16 bits.
        roots = energies[:rank] ** 0.25
        own, partner = basis * roots, other / roots
        b, a = (own, partner.T) if is_wide else (partner, own.T)
        return LowRank(a.float(), b.float(), [float(e) for e in (lost / total)[:present].sqrt()])

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A [rank, K] and B [N, rank]; ranks that the matrix doesn't have are zero."""
        a, b = self.a[:rank], self.b[:, :rank]
        missing = rank - len(a)
        if missing > 0:
            a = torch.cat([a, a.new_zeros(missing, a.shape[1])])
            b = torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1)
        return a.contiguous(), b.contiguous()


def relative_error(matrix_NK: torch.Tensor, a_RK: torch.Tensor, b_NR: torch.Tensor) -> float:
    """||matrix - B A|| over ||matrix||, Frobenius, as measured."""
    matrix = matrix_NK.double()
    difference = matrix - b_NR.double() @ a_RK.double()
    return float(difference.norm() / matrix.norm())
