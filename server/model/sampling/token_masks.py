"""Grammar masks of a step, computed beside the model's forward."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from server.core.batch import ScheduledRow

NO_MASKS: Mapping[int, bytes] = {}


class MaskWorker:
    """A thread that asks matchers which tokens may come next while the step's forward runs.

    Both leave Python's lock for their work, so they overlap. Start it with the batch, collect
    before drawing; the matchers must not be used in between.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "token-masks")

    def start(self, rows: Sequence[ScheduledRow]) -> Future[Mapping[int, bytes]] | None:
        """Masks by sequence id, soon; None when no row that samples has a grammar."""
        wanted = [row for row in rows if row.samples and row.matcher is not None]
        return self._pool.submit(_masks, wanted) if wanted else None

    @staticmethod
    def collect(started: Future[Mapping[int, bytes]] | None) -> Mapping[int, bytes]:
        """Wait for what `start` began."""
        return NO_MASKS if started is None else started.result()

    @staticmethod
    def settle(started: Future[Mapping[int, bytes]] | None) -> None:
        """Wait until the matchers are free again; whatever came of it is dropped."""
        if started is not None:
            wait([started])


def _masks(rows: Sequence[ScheduledRow]) -> Mapping[int, bytes]:
    return {row.sequence_id: row.matcher.allowed() for row in rows if row.matcher is not None}
