"""Adapters in pages: what a bank of adapters is counted in (see docs/adr/0002)."""

PAGE_RANK = 8
"""Rank components of one adapter in one page; csrc/lora/lora.h has the same number."""


def pages_for_rank(rank: int) -> int:
    """Pages that an adapter of `rank` takes."""
    return -(-rank // PAGE_RANK)
