"""Finds stop strings in text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, except what might still turn out to be the beginning of a stop string.

    With `includes_stop` the stop string itself is sent, and only what follows it isn't.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Returns the text that is safe to send, and whether a stop string was reached.

        Which one is in `matched`: the one that begins first, and of those the longest.
        """
        if not self._stops:
            return text, False
        self._held += text
        found = [(i, -len(stop)) for stop in self._stops if (i := self._held.find(stop)) >= 0]
        if found:
            begin, negative_length = min(found)
            end = begin - negative_length
            self.matched = self._held[begin:end]
            safe, self._held = self._held[: end if self._includes_stop else begin], ""
            return safe, True
        keep = max(self._open_prefix(stop) for stop in self._stops)
        split = len(self._held) - keep
        safe, self._held = self._held[:split], self._held[split:]
        return safe, False

    def flush(self) -> str:
        """What was held back, once it is certain that no stop string follows."""
        held, self._held = self._held, ""
        return held

    def _open_prefix(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0
