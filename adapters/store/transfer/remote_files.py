"""The files of a store that is somewhere else, through fsspec: `s3://`, `gs://`, `memory://` ..."""

import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.errors import StoreError

_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


class RemoteFiles:
    """Plain moves on one folder of one file system. Every failure is a `StoreError`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            package = _EXTRAS.get(protocol, f"what fsspec needs for {protocol}")
            raise StoreError(
                f"the store {url} needs the package {package}: pip install 'switchyard[remote]', "
                f"or {package} alone ({error})"
            ) from error
        except ValueError as error:
            raise StoreError(f"the store {url} can't be opened: {error}") from error
        self._root = str(root).rstrip("/")
        # Object stores replace an object whole; a local file is half there while it is written.
        self._is_local = "file" in _protocols(self._files)

    def listing(self) -> dict[str, str]:
        """Relative path -> a fingerprint that changes when the file does, of every file."""
        with self._failing("listed"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        return {self._relative(path): _fingerprint(info) for path, info in found.items()}

    def folder(self, path: str) -> tuple[str, ...]:
        """Relative paths of the files below a folder, sorted; none where there is no folder."""
        with self._failing("listed"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._at(path))
            except FileNotFoundError:
                return ()
        return tuple(sorted(self._relative(item) for item in found))

    def read(self, path: str, max_bytes: int) -> bytes:
        """At most `max_bytes` of a file, from its beginning."""
        with self._failing("read"), self._files.open(self._at(path), "rb") as file:
            return bytes(file.read(max_bytes))

    def download(self, path: str, target: Path) -> None:
        """Copy a file here."""
        with self._failing("downloaded"):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._at(path), str(target))

    def upload(self, source: Path, path: str) -> None:
        """Copy a file there."""
        with self._failing("uploaded"):
            self._make_parent(path)
            self._files.put_file(str(source), self._at(path))

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a small file whole."""
        with self._failing("written"):
            self._make_parent(path)
            if not self._is_local:
                self._files.pipe_file(self._at(path), data)
                return
            aside = f"{self._at(path)}.{secrets.token_hex(8)}"
            self._files.pipe_file(aside, data)
            self._files.mv(aside, self._at(path))

    def delete(self, path: str) -> None:
        """Delete a file; one that isn't there is gone already."""
        with self._failing("deleted"):
            try:
                self._files.rm_file(self._at(path))
            except FileNotFoundError:
                return

    def delete_empty_folders(self, path: str) -> None:
        """Where folders are things of their own, remove those that hold nothing any more."""
        with self._failing("deleted"):
            if self._files.isdir(self._at(path)) and not self._files.find(self._at(path)):
                self._files.rm(self._at(path), recursive=True)

    def _make_parent(self, path: str) -> None:
        self._files.makedirs(posixpath.dirname(self._at(path)), exist_ok=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _relative(self, path: str) -> str:
        return str(path).removeprefix(f"{self._root}/")

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # the boundary: every file system has errors of its own
            raise StoreError(
                f"the store {self.url} can't be {what}: {type(error).__name__}: {error}"
            ) from error


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _fingerprint(info: dict[str, Any]) -> str:
    """Whatever this file system has to tell one content from another."""
    keys = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created", "ino")
    return "|".join(str(info[key]) for key in ("size", *keys) if key in info)
