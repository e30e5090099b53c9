"""Texts that say nearly the same: MinHash over shingles (Broder 1997), found through bands.

A text is the set of its shingles: runs of three words, or for scripts without spaces of three
characters. Two texts agree in the minimum of a random hash with the probability of their Jaccard
similarity; 128 hashes estimate it to about +-0.03 near 0.9. Bands of eight hashes find candidates:
a pair of similarity 0.9 is missed with probability (1 - 0.9**8)**16 = 0.0001, one of 0.8 with 0.05.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_HASHES = 128
BAND_SIZE = 8
REPORT_THRESHOLD = 0.9
"""What counts as nearly the same where no threshold is set: counted then, and left in."""

MAX_TEXTS = 200_000
"""Texts that an index holds (about 0.5 GB); later ones are still compared with these."""

_SHINGLE = 3
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""A CJK character is a word of its own."""

Signature = NDArray[np.uint32]


class NearDuplicateIndex:
    """Remembers texts and finds an earlier one that a new one nearly repeats."""

    def __init__(self, threshold: float = REPORT_THRESHOLD, *, max_texts: int = MAX_TEXTS) -> None:
        assert 0 < threshold <= 1
        self.threshold = threshold
        self._max_texts = max_texts
        self._signatures: list[Signature] = []
        self._bands: list[dict[bytes, int]] = [{} for _ in range(NUM_HASHES // BAND_SIZE)]
        odd = np.random.default_rng(20_070_801).integers(1, 2**63, size=(2, NUM_HASHES, 1))
        self._factors = odd[0].astype(np.uint64) * np.uint64(2) + np.uint64(1)
        self._terms = odd[1].astype(np.uint64)

    @property
    def is_full(self) -> bool:
        return len(self._signatures) >= self._max_texts

    def find(self, text: str) -> bool:
        """Whether an earlier text is at least `threshold` similar by the estimate."""
        return self._find(self._signature(text))

    def add(self, text: str) -> bool:
        """`find`, and when nothing was found the text is remembered."""
        signature = self._signature(text)
        if self._find(signature):
            return True
        if not self.is_full:
            number = len(self._signatures)
            self._signatures.append(signature)
            for band, key in zip(self._bands, _band_keys(signature), strict=True):
                band.setdefault(key, number)
        return False

    def _find(self, signature: Signature) -> bool:
        candidates = {
            band[key]
            for band, key in zip(self._bands, _band_keys(signature), strict=True)
            if key in band
        }
        return any(
            float(np.mean(self._signatures[candidate] == signature)) >= self.threshold
            for candidate in candidates
        )

    def _signature(self, text: str) -> Signature:
        hashes = np.fromiter(
            {zlib.crc32(shingle.encode()) for shingle in shingles(text)}, dtype=np.uint64
        )
        # Multiply-shift hashing: the high 32 bits of factor x hash + term, modulo 2**64.
        mixed = (self._factors * hashes[None, :] + self._terms) >> np.uint64(32)
        return np.asarray(mixed.min(axis=1), dtype=np.uint32)


def shingles(text: str) -> list[str]:
    """Runs of three words (CJK: characters), in lower case; of fewer words the whole text."""
    words = _WORDS.findall(text.lower())
    if len(words) < _SHINGLE:
        return [" ".join(words)]
    return [" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)]


def _band_keys(signature: Signature) -> Sequence[bytes]:
    return [
        signature[start : start + BAND_SIZE].tobytes() for start in range(0, NUM_HASHES, BAND_SIZE)
    ]
