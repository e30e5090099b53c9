"""What a name means: one version, or a canary's weights over several."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.errors import InvalidAliasError
from adapters.names import AdapterRef, parse_version

FORMAT = 2
"""Of an alias file with weights. One version is written as before formats had numbers."""

MAX_TARGETS = 16
_SUM_TOLERANCE = 1e-6
_KEY_SPACE = 1 << 64


@dataclass(frozen=True, slots=True)
class Alias:
    """The versions that a name points at, and the highest version number it ever had.

    `targets` are (version, weight), ascending by version; the weights sum to 1.
    """

    targets: tuple[tuple[int, float], ...] = ()
    highest: int = 0

    @property
    def version(self) -> int | None:
        """The version with the largest weight, the older of two equals: what `name` alone means."""
        if not self.targets:
            return None
        return max(self.targets, key=lambda target: (target[1], -target[0]))[0]

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that it points at, ascending."""
        return tuple(version for version, _ in self.targets)

    @property
    def weights_text(self) -> str:
        """`3`, or a canary as `adapters alias` takes it: `3:0.9 4:0.1`. Empty for nothing."""
        if not self.is_canary:
            return "".join(str(version) for version in self.versions)
        return " ".join(f"{version}:{weight:g}" for version, weight in self.targets)

    @property
    def is_canary(self) -> bool:
        """Whether it points at more than one version."""
        return len(self.targets) > 1

    def to_json(self) -> str:
        """The text of the alias file."""
        document: dict[str, Any] = {"version": self.version, "highest": self.highest}
        if self.is_canary:
            weights = {str(version): weight for version, weight in self.targets}
            document = {"format": FORMAT, "weights": weights, "highest": self.highest}
        return json.dumps(document) + "\n"


def single(version: int, highest: int) -> Alias:
    """An alias of one version."""
    return Alias(((version, 1.0),), highest)


def read_alias_document(document: Mapping[str, Any]) -> Alias:
    """The alias in a parsed file; one that points at nothing where the file says nothing readable.

    A newer format does so too: its meaning isn't known here.
    """
    highest = document.get("highest")
    highest = highest if type(highest) is int and highest > 0 else 0
    if "format" not in document:
        version = document.get("version")
        if type(version) is not int or version < 1:
            return Alias(highest=highest)
        return single(version, highest)
    weights = document.get("weights")
    if document["format"] != FORMAT or not isinstance(weights, dict):
        return Alias(highest=highest)
    try:
        return canary({parse_version(str(key)) or 0: weights[key] for key in weights}, highest)
    except InvalidAliasError:
        return Alias(highest=highest)


def canary(weights: Mapping[int, float], highest: int = 0) -> Alias:
    """An alias of several versions, or of one. Raises `InvalidAliasError`.

    The weights are positive and sum to 1.
    """
    if not 1 <= len(weights) <= MAX_TARGETS:
        raise InvalidAliasError(
            f"{len(weights)} versions are given; a name points at 1 to {MAX_TARGETS}"
        )
    for version, weight in weights.items():
        if type(version) is not int or version < 1:
            raise InvalidAliasError(f"{version!r} isn't a version: versions are 1 to 999999999")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or not 0 < weight <= 1:
            raise InvalidAliasError(
                f"the weight of version {version} is {weight!r}; weights are above 0 and at most 1"
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise InvalidAliasError(
            f"the weights sum to {total:g}; they must sum to 1, as in 3:0.9 4:0.1"
        )
    return Alias(tuple(sorted((v, float(w)) for v, w in weights.items())), highest)


def choose_target(
    name: str, targets: tuple[tuple[int, float], ...], sticky_key: str
) -> tuple[int, float]:
    """The target for a caller: always the same while the weights stay.

    The key's hash falls into one of the weights laid end to end in the order of the versions, so
    that moving a weight moves only the callers in between.
    """
    assert targets
    text = f"{name}\0{sticky_key}".encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / _KEY_SPACE
    total = math.fsum(weight for _, weight in targets)
    reached = 0.0
    for target in targets:
        reached += target[1] / total
        if place < reached:
            return target
    return targets[-1]


def parse_weights(name: str, texts: list[str]) -> dict[int, float]:
    """`["4"]` or `["3:0.9", "4:0.1"]` to version -> weight. Raises `InvalidAliasError`."""
    weights: dict[int, float] = {}
    for text in texts:
        version_text, colon, weight_text = text.partition(":")
        version = parse_version(version_text)
        try:
            weight = float(weight_text) if colon else 1.0
        except ValueError:
            weight = math.nan
        if version is None or math.isnan(weight):
            raise InvalidAliasError(
                f"{text!r} is neither VERSION nor VERSION:WEIGHT (versions are 1 to 999999999): "
                "write 4, or 3:0.9 4:0.1"
            )
        if version in weights:
            raise InvalidAliasError(f"{AdapterRef(name, version)} is given twice")
        weights[version] = weight
    canary(weights)
    return weights
