"""Finds stop strings in text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, except what might still turn out to be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns the text that is safe to send, and whether a stop string was reached.

        The stop string itself and everything after it are never sent.
        """
        if not self._stops:
            return text, False
        self._held += text
        cut = min((i for stop in self._stops if (i := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            safe, self._held = self._held[:cut], ""
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
