"""The Protocols that floors meet through. Implementations are injected by `server.cli`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from server.core.batch import ScheduledBatch, StepOutput
from server.core.chat import ChatPrompt, RenderOrder
from server.core.request import GenerationDelta, GenerationRequest
from server.core.stack import AdapterStack, AdapterVersion
from server.core.traits import AdapterTraits


class HostAdapter(Protocol):
    """An adapter in host memory, ready to be copied into the bank."""

    @property
    def digest(self) -> str: ...

    @property
    def num_pages(self) -> int: ...

    @property
    def traits(self) -> AdapterTraits: ...

    @property
    def size_bytes(self) -> int: ...


class AdapterLoader(Protocol):
    """Disk to host memory. Called from loader threads, never from the step thread."""

    def load(self, adapter: AdapterVersion) -> HostAdapter:
        """Read, check and lay out one adapter.

        Raises `AdapterUnreadableError` when its files can't be served, saying why.
        """
        ...


class ModelRunner(Protocol):
    """Owns the base weights, the KV tensors and the adapter bank. Used by the step thread only."""

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """One forward over the batch; writes KV, draws tokens."""
        ...

    def place_adapter(self, pages: Sequence[int], adapter: HostAdapter) -> None:
        """Copy `adapter` into bank pages `pages` (as many as it has)."""
        ...

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes by component: weights, kv_cache, adapter_bank, activations."""
        ...

    def device_memory_bytes(self) -> Mapping[str, int]:
        """`used`, `free` and `total` of the device; on a CPU this process's and the machine's."""
        ...


class TokenStream(Protocol):
    """Token ids in, text out, never half a character."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is held back, with replacement characters for an incomplete end."""
        ...


class ChatTokenizer(Protocol):
    """Text to tokens and back, without torch."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        """Tokens of plain text, special tokens written in it included."""
        ...

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for; several together may make one character."""
        ...

    @property
    def max_token_bytes(self) -> int:
        """The longest text, in UTF-8 bytes, that one token stands for."""
        ...

    def token_name(self, token_id: int) -> str:
        """The vocabulary's own word for a token."""
        ...

    def special_token_id(self, text: str) -> int | None:
        """The id of `text` if it is one special token, which plain text never becomes."""
        ...

    @property
    def chat_template(self) -> str:
        """The base's own template; empty when it has none."""
        ...

    def render_order(self, prompt: ChatPrompt, max_tokens: int) -> RenderOrder:
        """What a `ChatRenderer` needs to render a conversation of up to `max_tokens` tokens.

        Raises `RequestError` for a conversation that no template could be given.
        """
        ...

    def encode_rendered(self, order: RenderOrder, text: str) -> tuple[int, ...]:
        """Tokens of `text`, which `order` was rendered to."""
        ...

    def stream(
        self, prompt: Sequence[int] = (), *, skips_special_tokens: bool = True
    ) -> TokenStream:
        """Text that continues `prompt` (its tokens are context only: their text isn't repeated)."""
        ...


class ChatRenderer(Protocol):
    """Runs chat templates, which adapters bring and nobody has read, outside of this process."""

    async def render(
        self, order: RenderOrder, *, caller: str, timeout_seconds: float | None
    ) -> str:
        """The text of a conversation. Callers wait their turn; cancelling ends the rendering.

        Raises `RequestError` when the template fails or takes too much time or memory,
        `PromptTooLongError` when it writes too much, `OverloadedError` when too many renderings
        of the same caller wait, `DeadlineExceededError` after `timeout_seconds`, and
        `RenderingDownError`.
        """
        ...


class GenerationEngine(Protocol):
    """What the api asks of the engine."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationDelta]:
        """Deltas of all choices until each has its finish reason, then the end.

        Closing the iterator early aborts the request within one step and frees what it held.
        Raises `RequestError`, `OverloadedError`, `EngineStalledError` or `EngineDeadError` on the
        first `anext`.
        """
        ...

    @property
    def is_ready(self) -> bool: ...


class AdapterCatalog(Protocol):
    """Names to versions, as the store has them now."""

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        """`sql`, `sql@3` or `sql:0.7+polite:0.3` to the versions they mean now.

        Where a name points at several versions by weight (a canary), equal keys get equal versions;
        without a key each call draws anew. Raises `AdapterUnavailableError` for a name or version
        that isn't there, `AdapterUnreadableError` for one that is quarantined, and `RequestError`
        for an expression that doesn't parse or an adapter made for another base.
        """
        ...

    def warnings(self, stack: AdapterStack) -> Sequence[str]:
        """How members aren't served as they were made: templates, and mismatches if allowed."""
        ...

    def list(self) -> Sequence["CatalogEntry"]: ...

    def entry(self, reference: str) -> "CatalogEntry":
        """`sql` or `sql@3` as `/v1/models/{id}` shows it. Raises `AdapterUnavailableError`."""
        ...

    def owners(self, path: str) -> Sequence[str]:
        """The adapters (`sql@3`, or `sql`) that a path which `load` may be given belongs to.

        Empty for a path that belongs to none. Opens no file, so it tells nothing of what is there.
        """
        ...

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        """Import a PEFT folder from the allowed roots as a new version of `name`.

        Raises `AdapterError`, or `AdapterTooLargeError` for one over the largest rank.
        """
        ...

    def unload(self, name: str) -> None:
        """Take `name` out of the catalog; running requests finish on what they have."""
        ...


class CatalogEntry(Protocol):
    """One adapter name as `/v1/models` lists it."""

    @property
    def name(self) -> str: ...

    @property
    def current(self) -> AdapterVersion: ...

    @property
    def created(self) -> int: ...

    @property
    def root(self) -> str: ...
