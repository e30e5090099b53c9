"""A store that lies somewhere else, with a copy of it here that everything is served from.

The remote has the layout of a local store (`adapters.store.layout`), so that either can be copied
to the other. What makes a change there atomic, without locks: a version exists when its
`manifest.json` does, which is uploaded last of its files, and a name moves when its `alias.json`
does, which is uploaded after that. A version number is taken by whoever finds its folder empty but
for his own claim.
"""

import hashlib
import json
import logging
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from adapters.cache_folder import default_cache_dir
from adapters.errors import DocumentError, StoreError
from adapters.file_trust import make_private_folder, writable_by_others
from adapters.format.bounded_json import parse_json_object
from adapters.format.folder_files import MANIFEST_FILE
from adapters.format.manifest import Manifest
from adapters.names import NAME_PATTERN, AdapterRef, parse_version
from adapters.store.alias import Alias, canary, read_alias_document, single
from adapters.store.keep_policy import MAX_POLICY_BYTES, POLICY_FILE, KeepPolicy
from adapters.store.layout import ALIAS_FILE, MAX_ALIAS_BYTES
from adapters.store.soundness import damage
from adapters.store.store import AdapterStore, Describe, StoredAdapter
from adapters.store.transfer.remote_files import RemoteFiles

logger = logging.getLogger(__name__)

STATE_FILE = ".remote.json"
_CLAIM = ".claim-"
_CLAIM_ATTEMPTS = 50
_MAX_BACKOFF_SECONDS = 0.5

Versions = dict[str, dict[int, dict[str, str]]]
"""Name -> version -> relative path within the version -> fingerprint."""


class RemoteStore(AdapterStore):
    """An `AdapterStore` whose folder is a cache of `url`. Changes are made there first seen here.

    `pull` brings the cache up to date. Quarantine is the cache's own. Several processes may share
    a cache.
    """

    def __init__(self, url: str, cache: Path) -> None:
        """Raises `StoreError` when the remote can't be read and nothing of it is cached."""
        self._remote = RemoteFiles(url)
        super().__init__(cache)
        try:
            self.pull()
        except StoreError as error:
            if not self.names():
                raise
            logger.warning("%s: serving what is cached in %s", error, self.root)

    @property
    def url(self) -> str:
        return self._remote.url

    @property
    def reference(self) -> str:
        return self.url

    def pull(self) -> None:
        """Make the cache what the remote is now. Raises `StoreError`; the cache is whole then too.

        A version that doesn't hold what its manifest says is not taken over; it goes to quarantine.
        """
        listing = self._remote.listing()
        aliases, versions = _sorted(listing)
        with self._changing():
            state = self._read_state()
            for name in sorted(versions):
                for version, files in sorted(versions[name].items()):
                    self._bring(name, version, files, state)
                self._bring_alias(name, aliases.get(name), state)
            for name in self._reader.names():
                gone = set(self._reader.versions(name)) - set(versions.get(name, {}))
                if not versions.get(name):
                    self._writer.remove_name(name)
                else:
                    for version in sorted(gone):
                        self._writer.remove_version(name, version)
            self._bring_policy(listing.get(POLICY_FILE), state)
            self._write_state(state, versions, aliases)

    def set_alias(self, name: str, target: int | Mapping[int, float]) -> None:
        """See `AdapterStore.set_alias`."""
        self.pull()
        super().set_alias(name, target)
        weights = {target: 1.0} if isinstance(target, int) else target
        self._write_remote_alias(name, canary(weights, self.alias(name).highest))
        self.pull()

    def remove(self, ref: AdapterRef) -> None:
        """See `AdapterStore.remove`."""
        self.pull()
        before = self.versions(ref.name)
        super().remove(ref)
        gone = set(before) - set(self.versions(ref.name))
        if gone == set(before):
            self._remote.delete(f"{ref.name}/{ALIAS_FILE}")
        else:
            self._write_remote_alias(ref.name, self.alias(ref.name))
        self._delete_remote(ref.name, gone)
        self.pull()

    def set_policy(self, policy: KeepPolicy) -> None:
        """See `AdapterStore.set_policy`."""
        self._remote.write(POLICY_FILE, policy.to_json().encode())
        self.pull()

    def prune(self, name: str, keep: int | None = None) -> tuple[int, ...]:
        """See `AdapterStore.prune`."""
        self.pull()
        removed = super().prune(name, keep)
        self._follow_prune(name, removed)
        return removed

    def _publish(
        self,
        name: str,
        fill: Callable[[Path], None],
        describe: Describe,
        *,
        set_alias: bool = True,
    ) -> StoredAdapter:
        """Make the version in a store of its own, upload it, and take it over."""
        self.pull()
        parent = self._current_label(name)
        with tempfile.TemporaryDirectory(prefix="switchyard-push-") as scratch:
            made = AdapterStore(Path(scratch))._publish(
                name, fill, lambda staged, _: describe(staged, parent)
            )
            version = self._upload(name, made.path, made.manifest)
        replaced = self.alias(name).versions
        if set_alias:
            self._write_remote_alias(name, single(version, version))
        self.pull()
        stored = self.get(AdapterRef(name, version))
        with self._changing():
            removed = self._retention.keep_to_policy(name, replaced)
        self._follow_prune(name, removed)
        return stored

    def _follow_prune(self, name: str, removed: Collection[int]) -> None:
        """Delete there what was removed here. The alias has not changed by it."""
        if removed:
            self._delete_remote(name, set(removed))
            self.pull()

    def _upload(self, name: str, folder: Path, manifest: Manifest) -> int:
        version, claim = self._claim(name)
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if path.is_file() and relative != MANIFEST_FILE:
                self._remote.upload(path, f"{name}/{version}/{relative}")
        self._remote.write(f"{name}/{version}/{MANIFEST_FILE}", manifest.to_json().encode())
        self._remote.delete(claim)
        return version

    def _claim(self, name: str) -> tuple[int, str]:
        """A version number that is nobody else's, and the path of the claim that holds it.

        Whoever lists a folder after writing his claim and sees another's gives way, so of two that
        claim at once at most one stays. Listing must show what was written before, as S3's does.
        """
        version = max([self.alias(name).highest, *self.versions(name)]) + 1
        for _ in range(_CLAIM_ATTEMPTS):
            claim = f"{name}/{version}/{_CLAIM}{secrets.token_hex(8)}"
            if not self._remote.folder(f"{name}/{version}"):
                self._remote.write(claim, b"")
                if self._remote.folder(f"{name}/{version}") == (claim,):
                    return version, claim
                self._remote.delete(claim)
                time.sleep(random.uniform(0, _MAX_BACKOFF_SECONDS))
            version += 1
        raise StoreError(f"the store {self.url} has no free version number for {name}; try again")

    def _delete_remote(self, name: str, versions: set[int]) -> None:
        for version in sorted(versions):
            # First what makes it a version.
            self._remote.delete(f"{name}/{version}/{MANIFEST_FILE}")
            for path in self._remote.folder(f"{name}/{version}"):
                self._remote.delete(path)
            self._remote.delete_empty_folders(f"{name}/{version}")
        self._remote.delete_empty_folders(name)

    def _write_remote_alias(self, name: str, alias: Alias) -> None:
        known = self._remote_alias(name)
        highest = max(alias.highest, known.highest if known is not None else 0)
        text = replace(alias, highest=highest).to_json()
        self._remote.write(f"{name}/{ALIAS_FILE}", text.encode())

    def _remote_alias(self, name: str) -> Alias | None:
        """The remote's alias; None where it can't be read."""
        try:
            data = self._remote.read(f"{name}/{ALIAS_FILE}", MAX_ALIAS_BYTES)
            return read_alias_document(parse_json_object(data, ALIAS_FILE, max_depth=2))
        except (DocumentError, StoreError):
            return None

    def _bring(
        self, name: str, version: int, files: Mapping[str, str], state: dict[str, str]
    ) -> None:
        key, fingerprint = f"{name}/{version}", files[MANIFEST_FILE]
        is_here = self._reader.version(name, version) is not None
        ref = AdapterRef(name, version)
        if state.get(key) == fingerprint and (is_here or self.quarantine_reason(ref) is not None):
            return

        def fill(staged: Path) -> None:
            for relative in files:
                if relative.rpartition("/")[2].startswith("."):
                    continue
                self._remote.download(f"{key}/{relative}", staged / relative)

        self._writer.place(name, version, fill)
        state[key] = fingerprint
        stored = self._reader.version(name, version)
        folder = self._layout.version_folder(name, version)
        reason = damage(folder, stored.digest if stored is not None else "nothing")
        if reason is not None:
            self._quarantine.take(name, version, f"{reason} (as {self.url} has it)")
            logger.error("%s of %s is in quarantine: %s", ref, self.url, reason)

    def _bring_alias(self, name: str, fingerprint: str | None, state: dict[str, str]) -> None:
        key = f"{name}/{ALIAS_FILE}"
        if fingerprint is None:
            if self._reader.alias(name).targets:
                self._writer.set_alias(name, replace(self._reader.alias(name), targets=()))
            state.pop(key, None)
            return
        alias = self._remote_alias(name)
        if alias is None:
            return  # it changes at this very moment, or is damaged: what is known stays
        if alias != self._reader.alias(name):
            self._writer.set_alias(name, alias)
        state[key] = fingerprint

    def _bring_policy(self, fingerprint: str | None, state: dict[str, str]) -> None:
        if fingerprint is None:
            self._layout.policy.unlink(missing_ok=True)
            state.pop(POLICY_FILE, None)
        elif state.get(POLICY_FILE) != fingerprint or not self._layout.policy.exists():
            text = self._remote.read(POLICY_FILE, MAX_POLICY_BYTES + 1).decode(errors="replace")
            self._writer.write_file(self._layout.policy, text)
            state[POLICY_FILE] = fingerprint

    def _read_state(self) -> dict[str, str]:
        try:
            document = json.loads((self.root / STATE_FILE).read_text())
        except (OSError, ValueError):
            return {}
        files = document.get("files") if isinstance(document, dict) else None
        if not isinstance(files, dict) or document.get("url") != self.url:
            return {}
        return {str(key): str(value) for key, value in files.items()}

    def _write_state(
        self, state: dict[str, str], versions: Versions, aliases: Mapping[str, str]
    ) -> None:
        there = {f"{name}/{version}" for name in versions for version in versions[name]}
        there |= {f"{name}/{ALIAS_FILE}" for name in aliases} | {POLICY_FILE}
        kept = {key: value for key, value in state.items() if key in there}
        self._writer.write_file(
            self.root / STATE_FILE, json.dumps({"url": self.url, "files": kept})
        )


def open_store(reference: str | Path, cache: Path | None = None) -> AdapterStore:
    """The store at a folder or at a URL (`s3://bucket/adapters`), which is cached in `cache`.

    By default that is a folder of its own in `$SWITCHYARD_CACHE` or `~/.cache/switchyard`. Raises
    `StoreError`.
    """
    text = str(reference)
    if not is_remote(text):
        return AdapterStore(Path(text))
    if cache is None:
        url = text.rstrip("/")
        root = default_cache_dir()
        cache = root / "stores" / hashlib.sha256(url.encode()).hexdigest()[:16]
        if problem := writable_by_others(cache, root):
            raise StoreError(
                f"the copy of {url} isn't used: {problem}. Delete {cache} if you don't know who "
                "wrote it, or set SWITCHYARD_CACHE to a folder of your own"
            )
        make_private_folder(cache)
    return RemoteStore(text, cache)


def is_remote(reference: str) -> bool:
    """Whether a store reference is a URL."""
    return "://" in reference


def _sorted(listing: Mapping[str, str]) -> tuple[dict[str, str], Versions]:
    """A flat listing as alias files and whole versions; anything else in it is passed over."""
    aliases: dict[str, str] = {}
    versions: Versions = {}
    for path, fingerprint in listing.items():
        name, _, rest = path.partition("/")
        if NAME_PATTERN.fullmatch(name) is None:
            continue
        if rest == ALIAS_FILE:
            aliases[name] = fingerprint
            continue
        number, _, relative = rest.partition("/")
        version = parse_version(number)
        if version is not None and relative and ".." not in relative.split("/"):
            versions.setdefault(name, {}).setdefault(version, {})[relative] = fingerprint
    whole = {
        name: {v: files for v, files in found.items() if MANIFEST_FILE in files}
        for name, found in versions.items()
    }
    return aliases, {name: found for name, found in whole.items() if found}
