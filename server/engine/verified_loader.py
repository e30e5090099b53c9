"""A loader that believes no folder: the bytes must still be those that the digest names."""

import logging
from collections.abc import Callable

from adapters.errors import AdapterError
from adapters.names import AdapterRef
from adapters.soundness import damage
from server.core.errors import AdapterUnreadableError
from server.core.ports import AdapterLoader, HostAdapter
from server.core.stack import AdapterVersion

logger = logging.getLogger(__name__)

Quarantine = Callable[[AdapterRef, str], None]


class VerifiedLoader:
    """An `AdapterLoader` over another. Stateless, so threads may share it.

    A version with damaged files goes to `quarantine` with the reason. One that isn't there any more
    doesn't (somebody removed it), nor one that is sound and that this server can't serve.
    """

    def __init__(self, loader: AdapterLoader, quarantine: Quarantine) -> None:
        self._loader = loader
        self._quarantine = quarantine

    def load(self, adapter: AdapterVersion) -> HostAdapter:
        """Raises `AdapterUnreadableError`, and what the loader raises for sound files."""
        reason = damage(adapter.path, adapter.digest)
        if reason is None:
            return self._loader.load(adapter)
        if not adapter.path.is_dir():
            raise AdapterUnreadableError(
                f"adapter {adapter.label} was removed from the store while it was asked for"
            )
        try:
            self._quarantine(AdapterRef(adapter.name, adapter.version), reason)
            logger.error("adapter %s is in quarantine now: %s", adapter.label, reason)
        except (AdapterError, OSError):
            logger.exception("adapter %s can't be put into quarantine", adapter.label)
        raise AdapterUnreadableError(f"adapter {adapter.label} can't be served: {reason}")
