"""A loader that believes no folder: the bytes must still be those that the digest names."""

import logging
from collections.abc import Callable
from typing import Protocol

from adapters.errors import AdapterError, ManifestError, UnsoundError
from adapters.format.adapter_image import AdapterImage
from adapters.format.folder_files import MANIFEST_FILE
from adapters.format.manifest import read_manifest
from adapters.names import AdapterRef
from adapters.store.soundness import read_sound
from adapters.template_check import BaseTemplate, golden_problem
from server.core.errors import AdapterUnreadableError
from server.core.ports import HostAdapter
from server.core.stack import AdapterVersion

logger = logging.getLogger(__name__)

Quarantine = Callable[[AdapterRef, str], None]


class ImageLoader(Protocol):
    """Lays out an adapter whose files were read and checked already."""

    def load(self, adapter: AdapterVersion, image: AdapterImage) -> HostAdapter:
        """Raises `AdapterUnreadableError` when this base can't serve it, saying why."""
        ...


class VerifiedLoader:
    """An `AdapterLoader` over an `ImageLoader`. Stateless, so threads may share it.

    A version with damaged files goes to `quarantine` with the reason. One that isn't there any more
    doesn't (somebody removed it), nor one that is sound and that this server can't serve: also one
    whose golden tokens aren't those that `template`, the base's, makes of its golden messages.
    """

    def __init__(
        self, loader: ImageLoader, quarantine: Quarantine, template: BaseTemplate | None = None
    ) -> None:
        self._loader = loader
        self._quarantine = quarantine
        self._template = template

    def load(self, adapter: AdapterVersion) -> HostAdapter:
        """Raises `AdapterUnreadableError`, and what the loader raises for sound files."""
        try:
            image = read_sound(adapter.path, adapter.digest)
        except UnsoundError as error:
            raise self._refusal(adapter, str(error)) from error
        if problem := self._golden_problem(adapter):
            raise AdapterUnreadableError(
                f"adapter {adapter.label} can't be served: {problem}. The setting allow_mismatch "
                "serves it all the same"
            )
        return self._loader.load(adapter, image)

    def _golden_problem(self, adapter: AdapterVersion) -> str | None:
        if self._template is None:
            return None
        try:
            record = read_manifest(adapter.path / MANIFEST_FILE).template
        except ManifestError:
            return None  # it went in the meantime: what was read is whole
        return None if record is None else golden_problem(record, self._template)

    def _refusal(self, adapter: AdapterVersion, reason: str) -> AdapterUnreadableError:
        if not adapter.path.is_dir():
            return AdapterUnreadableError(
                f"adapter {adapter.label} was removed from the store while it was asked for"
            )
        try:
            self._quarantine(AdapterRef(adapter.name, adapter.version), reason)
            logger.error("adapter %s is in quarantine now: %s", adapter.label, reason)
        except (AdapterError, OSError):
            logger.exception("adapter %s can't be put into quarantine", adapter.label)
        return AdapterUnreadableError(f"adapter {adapter.label} can't be served: {reason}")
