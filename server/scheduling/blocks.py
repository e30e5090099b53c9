"""Blocks of the paged KV cache: who holds them, and which prefixes they still contain.

Block reuse follows the hash chain of vLLM's prefix cache: a full block is identified by the hash of
its tokens and of everything before it, and the chain starts from a root that names what computed
it and on whose behalf: two adapters (or two versions of one) never share a block, nor do two keys,
so that nobody learns from cached tokens, or from the time they save, what another has sent.
"""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence


class BlockPool:
    """Owns `num_blocks` block ids. No tensors: the runner owns the bytes behind the ids.

    A block is *held* (reference count above 0), *cached* (count 0, content still findable by its
    hash, least recently freed first in line to be overwritten) or *free*.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_cache: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._enable_prefix_cache = enable_prefix_cache
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        # Every block with count 0, in the order in which it may be overwritten.
        self._available: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give."""
        return len(self._available)

    @property
    def num_held(self) -> int:
        return self.num_blocks - len(self._available)

    def num_only_in(self, tables: Sequence[Sequence[int]]) -> int:
        """How many blocks would become available if all of `tables` were freed."""
        held = Counter(block for table in tables for block in table)
        return sum(1 for block, count in held.items() if self._references[block] == count)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self) -> int:
        """Hold a block with undefined content. Raises `AssertionError` when none is available."""
        assert self._available, "allocate() without a check of num_available"
        block, _ = self._available.popitem(last=False)
        self._forget(block)
        self._references[block] = 1
        return block

    def free(self, blocks: Sequence[int]) -> None:
        """Give back one hold of each block; the last blocks of a table are reused first."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} freed twice"
            self._references[block] -= 1
            if self._references[block] == 0:
                self._available[block] = None
                if self._hash_of[block] is None:
                    self._available.move_to_end(block, last=False)

    def chain_hash(self, parent: bytes, token_ids: Sequence[int]) -> bytes:
        """Hash of a full block of tokens that follows the prefix `parent`."""
        return hashlib.blake2b(array("i", token_ids).tobytes(), key=parent, digest_size=16).digest()

    def root(self, namespace: str, salt: str = "") -> bytes:
        """Start of the hash chain for everything computed under `namespace`.

        Chains of different salts have no block in common.
        """
        root = hashlib.blake2b(namespace.encode(), digest_size=16).digest()
        return self.mix(root, salt) if salt else root

    def mix(self, parent: bytes, key: str) -> bytes:
        """The chain from a block on that something named `key` begins to compute."""
        return hashlib.blake2b(key.encode(), key=parent, digest_size=16).digest()

    def match(
        self, root: bytes, token_ids: Sequence[int], keys: Mapping[int, str]
    ) -> tuple[list[int], bytes]:
        """Hold the blocks of the longest cached prefix of `token_ids`.

        `keys` are mixed into the chain before the blocks of those indices. At least the last token
        is left out, since its logits are wanted. Returns the blocks and the chain hash up to there.
        """
        parent = root
        blocks: list[int] = []
        if not self._enable_prefix_cache:
            return blocks, parent
        size = self.block_size
        num_full = (len(token_ids) - 1) // size
        for index in range(num_full):
            before = self.mix(parent, keys[index]) if index in keys else parent
            digest = self.chain_hash(before, token_ids[index * size : (index + 1) * size])
            block = self._block_of.get(digest)
            if block is None:
                break
            if self._references[block] == 0:
                del self._available[block]
            self._references[block] += 1
            blocks.append(block)
            parent = digest
        self.num_prefix_queries += num_full
        self.num_prefix_hits += len(blocks)
        return blocks, parent

    def register(self, block: int, parent: bytes, token_ids: Sequence[int]) -> bytes:
        """Make a held, now full block findable; returns its chain hash.

        When another block has the same content already, that one stays the findable one.
        """
        assert self._references[block] > 0, block
        assert len(token_ids) == self.block_size
        digest = self.chain_hash(parent, token_ids)
        if self._enable_prefix_cache and digest not in self._block_of:
            self._forget(block)
            self._block_of[digest] = block
            self._hash_of[block] = digest
        return digest

    def _forget(self, block: int) -> None:
        digest = self._hash_of[block]
        if digest is not None:
            self._hash_of[block] = None
            del self._block_of[digest]

    def check_integrity(self, held: Sequence[Sequence[int]]) -> None:
        """Assert that exactly the block tables in `held` hold blocks."""
        counts = [0] * self.num_blocks
        for table in held:
            for block in table:
                counts[block] += 1
        assert counts == self._references, "reference counts differ from the block tables"
        assert set(self._available) == {b for b, count in enumerate(counts) if count == 0}
        assert {d: b for b, d in enumerate(self._hash_of) if d is not None} == self._block_of
