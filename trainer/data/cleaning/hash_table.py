"""64-bit hashes to 32-bit numbers, packed: what is remembered of each of many rows."""

from array import array

_FIRST_BITS = 10
_KEY_BITS = 64


class HashTable:
    """A dict of hashes in 18 to 36 bytes an entry, where Python's takes some 150.

    Keys must be spread evenly over 64 bits; the one that is 0 is taken for 1. Open addressing with
    linear steps; the slot is a key's highest bits.
    """

    def __init__(self) -> None:
        self._bits = _FIRST_BITS
        self._keys, self._numbers = self._slots()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def num_bytes(self) -> int:
        """What the table holds now."""
        return len(self._keys) * (self._keys.itemsize + self._numbers.itemsize)

    def get(self, key: int) -> int | None:
        """The number of `key`, or None."""
        key = key or 1
        slot = self._slot(key)
        return self._numbers[slot] if self._keys[slot] == key else None

    def set_default(self, key: int, number: int) -> int:
        """The number of `key`, which is `number` where it had none."""
        key = key or 1
        slot = self._slot(key)
        if self._keys[slot] == key:
            return self._numbers[slot]
        self._keys[slot], self._numbers[slot] = key, number
        self._count += 1
        if 3 * self._count > 2 * len(self._keys):
            self._double()
        return number

    def _slots(self) -> tuple["array[int]", "array[int]"]:
        size = 1 << self._bits
        return array("Q", bytes(8 * size)), array("I", bytes(4 * size))

    def _slot(self, key: int) -> int:
        """Where `key` is, or the empty slot where it would be."""
        keys, mask = self._keys, len(self._keys) - 1
        slot = key >> (_KEY_BITS - self._bits)
        while keys[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _double(self) -> None:
        keys, numbers = self._keys, self._numbers
        self._bits += 1
        self._keys, self._numbers = self._slots()
        for key, number in zip(keys, numbers, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._numbers[slot] = key, number
