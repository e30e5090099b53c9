"""Texts that say nearly the same: MinHash over shingles (Broder 1997), found through bands.

A text is the set of its shingles: runs of three words, or for scripts without spaces of three
characters. Two texts agree in the minimum of a random hash with the probability of their Jaccard
similarity; 128 hashes estimate it to about +-0.03 near 0.9. Bands of eight hashes find candidates:
a pair of similarity 0.9 is missed with probability (1 - 0.9**8)**16 = 0.0001, one of 0.8 with 0.05.
"""

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from trainer.data.cleaning.hash_table import HashTable

NUM_HASHES = 128
BAND_SIZE = 8
REPORT_THRESHOLD = 0.9
"""What counts as nearly the same where no threshold is set: counted then, and left in."""

MAX_TEXTS = 200_000
"""Texts that an index holds (0.9 to 1.1 KB each); later ones are still compared with these."""

_SHINGLE = 3
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""A CJK character is a word of its own."""

_NUM_BANDS = NUM_HASHES // BAND_SIZE
_CHUNK = 1024
"""Signatures that room is made for at a time."""

Signature = NDArray[np.uint32]


class NearDuplicateIndex:
    """Remembers texts and finds an earlier one that a new one nearly repeats."""

    def __init__(self, threshold: float = REPORT_THRESHOLD, *, max_texts: int = MAX_TEXTS) -> None:
        assert 0 < threshold <= 1
        self.threshold = threshold
        self._max_texts = max_texts
        self._chunks: list[Signature] = []
        self._count = 0
        # One table for all bands: the hash of a band has other factors in each.
        self._first_with = HashTable()
        generator = np.random.default_rng(20_070_801)
        odd = generator.integers(1, 2**63, size=(2, NUM_HASHES, 1))
        self._factors = odd[0].astype(np.uint64) * np.uint64(2) + np.uint64(1)
        self._terms = odd[1].astype(np.uint64)
        of_bands = generator.integers(1, 2**63, size=(_NUM_BANDS, BAND_SIZE))
        self._band_factors = of_bands.astype(np.uint64) * np.uint64(2) + np.uint64(1)

    @property
    def is_full(self) -> bool:
        return self._count >= self._max_texts

    @property
    def num_bytes(self) -> int:
        """What the texts take now."""
        return self._first_with.num_bytes + sum(chunk.nbytes for chunk in self._chunks)

    def find(self, text: str) -> bool:
        """Whether an earlier text is at least `threshold` similar by the estimate."""
        signature = self._signature(text)
        return self._find(signature, self._band_hashes(signature))

    def add(self, text: str) -> bool:
        """`find`, and when nothing was found the text is remembered."""
        signature = self._signature(text)
        hashes = self._band_hashes(signature)
        if self._find(signature, hashes):
            return True
        if not self.is_full:
            self._remember(signature, hashes)
        return False

    def _find(self, signature: Signature, hashes: list[int]) -> bool:
        found = {self._first_with.get(key) for key in hashes}
        return any(
            float(np.mean(self._chunks[number // _CHUNK][number % _CHUNK] == signature))
            >= self.threshold
            for number in found
            if number is not None
        )

    def _remember(self, signature: Signature, hashes: list[int]) -> None:
        chunk, place = divmod(self._count, _CHUNK)
        if chunk == len(self._chunks):
            self._chunks.append(np.empty((_CHUNK, NUM_HASHES), dtype=np.uint32))
        self._chunks[chunk][place] = signature
        for key in hashes:
            self._first_with.set_default(key, self._count)
        self._count += 1

    def _signature(self, text: str) -> Signature:
        hashes = np.fromiter(
            {zlib.crc32(shingle.encode()) for shingle in shingles(text)}, dtype=np.uint64
        )
        # Multiply-shift hashing: the high 32 bits of factor x hash + term, modulo 2**64.
        mixed = (self._factors * hashes[None, :] + self._terms) >> np.uint64(32)
        return np.asarray(mixed.min(axis=1), dtype=np.uint32)

    def _band_hashes(self, signature: Signature) -> list[int]:
        """One for each band; texts that agree in a band agree in its hash."""
        bands = signature.reshape(_NUM_BANDS, BAND_SIZE).astype(np.uint64)
        hashes: list[int] = (bands * self._band_factors).sum(axis=1).tolist()
        return hashes


def shingles(text: str) -> list[str]:
    """Runs of three words (CJK: characters), in lower case; of fewer words the whole text."""
    words = _WORDS.findall(text.lower())
    if len(words) < _SHINGLE:
        return [" ".join(words)]
    return [" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)]
