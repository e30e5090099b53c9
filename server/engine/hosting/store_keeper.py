"""Keeps a store in order while a server runs.

What changed in a remote store is brought in; what doesn't read as a version goes to quarantine.
"""

import asyncio
import logging

from adapters.errors import AdapterError
from adapters.store.store import SETTLE_SECONDS
from server.engine.hosting.catalog import StoreCatalog

logger = logging.getLogger(__name__)


class StoreKeeper:
    """Pulls and sweeps the catalog's store now and then, off the event loop.

    Files that rest are looked at once, so a sweep of a thousand sound versions reads nothing.
    """

    def __init__(
        self,
        catalog: StoreCatalog,
        *,
        interval_seconds: float = 10.0,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._catalog = catalog
        self._interval_seconds = interval_seconds
        self._settle_seconds = settle_seconds

    async def tend(self) -> None:
        """Runs until cancelled; nothing that the store holds can end it.

        The first look, which reads every version, comes behind the server's start.
        """
        while True:
            await asyncio.sleep(self._interval_seconds)
            await asyncio.to_thread(self.pull)
            await asyncio.to_thread(self.sweep)

    def pull(self) -> None:
        """Bring in what changed in a remote store; the catalog watches the cache's files."""
        try:
            self._catalog.store.pull()
        except (AdapterError, OSError) as error:
            logger.warning("%s; serving what is known", error)

    def sweep(self) -> None:
        """Look once."""
        try:
            taken = self._catalog.store.sweep(self._settle_seconds)
            if taken:
                self._catalog.refresh({ref.name for ref in taken})
        except (AdapterError, OSError):
            logger.exception("the store can't be swept; it is served as it is")
            return
        for ref in taken:
            reason = self._catalog.store.quarantine_reason(ref)
            logger.error("adapter %s is in quarantine now: %s", ref, reason)
