"""What an operator keeps in host memory or on the device, by the name that he gave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapters.names import AdapterRef
from server.core.administration import DeviceBank, Tier
from server.core.errors import PinLimitError, SwitchyardError
from server.core.stack import AdapterVersion
from server.engine.hosting.host_cache import HostAdapterCache


@dataclass(frozen=True, slots=True)
class _Pin:
    versions: tuple[AdapterVersion, ...]
    tier: Tier


class AdapterPins:
    """Pins by reference. One version may be pinned by several; it goes with the last of them.

    A pin in the device's tier is one in host memory too. Calls must not overlap.
    """

    def __init__(self, cache: HostAdapterCache, bank: DeviceBank) -> None:
        self._cache = cache
        self._bank = bank
        self._pins: dict[AdapterRef, _Pin] = {}

    @property
    def refs(self) -> tuple[AdapterRef, ...]:
        """What is pinned."""
        return tuple(self._pins)

    def tier_of(self, digest: str) -> Tier | None:
        """The fastest tier that a version is pinned in."""
        tiers = {pin.tier for pin in self._pins.values() if digest in _digests(pin.versions)}
        return Tier.DEVICE if Tier.DEVICE in tiers else Tier.HOST if tiers else None

    async def pin(self, ref: AdapterRef, versions: Sequence[AdapterVersion], tier: Tier) -> None:
        """Pin these in place of what `ref` pinned before; all of them or nothing is changed.

        Raises `PinLimitError`, and what loading them raises.
        """
        assert tier is not Tier.DISK
        before = self._pins.get(ref)
        self._pins[ref] = _Pin(tuple(versions), tier)
        try:
            for version in versions:
                await self._hold(version, tier)
        except SwitchyardError:
            del self._pins[ref]
            if before is not None:
                self._pins[ref] = before
            self._release(versions)
            raise
        if before is not None:
            self._release(before.versions)

    async def move(self, ref: AdapterRef, versions: Sequence[AdapterVersion]) -> None:
        """`ref` means other versions now. The old ones go first: both need not fit together.

        Does nothing when `ref` isn't pinned. Raises as `pin` does.
        """
        before = self._pins.get(ref)
        if before is None:
            return
        kept = tuple(version for version in before.versions if version in versions)
        self._pins[ref] = _Pin(kept, before.tier)
        self._release(before.versions)
        await self.pin(ref, versions, before.tier)

    def unpin(self, ref: AdapterRef) -> bool:
        """Let what `ref` pinned be evicted again; False when it pinned nothing."""
        pin = self._pins.pop(ref, None)
        if pin is None:
            return False
        self._release(pin.versions)
        return True

    async def _hold(self, version: AdapterVersion, tier: Tier) -> None:
        loaded = await self._cache.pin(version)
        if tier is Tier.DEVICE:
            problem = await self._bank.keep_adapter(loaded)
            if problem is not None:
                raise PinLimitError(
                    f"adapter {version.label} can't be pinned on the device: {problem}", "name"
                )

    def _release(self, versions: Iterable[AdapterVersion]) -> None:
        """Let go what no pin holds any more, and of the device what none holds there."""
        for version in versions:
            tier = self.tier_of(version.digest)
            if tier is not Tier.DEVICE:
                self._bank.let_adapters_go((version.digest,))
            if tier is None:
                self._cache.unpin(version.digest)


def _digests(versions: Iterable[AdapterVersion]) -> set[str]:
    return {version.digest for version in versions}
