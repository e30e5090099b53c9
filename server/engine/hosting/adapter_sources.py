"""Which folders adapters may be loaded from, and whose each of them is."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from adapters.errors import AdapterNotFoundError
from adapters.names import NAME_PATTERN, parse_version


class AdapterSources:
    """The store's own folder, and other roots that the operator allows.

    In the store a folder is its version's; below another root it is whose name the first folder
    has, as in `ROOT/sql/run-7/adapter`.
    """

    def __init__(self, store_root: Path, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        # As they are written, and as they are: a path may be given either way.
        self._store_roots = {store_root.absolute(), store_root.resolve()}
        self._other_roots = {r.absolute() for r in roots} | set(self._roots)
        self._other_roots -= self._store_roots

    def folder(self, path: str) -> Path:
        """The folder that `path` means. Raises `AdapterNotFoundError` for what isn't an adapter's,
        or lies outside of the roots.
        """
        try:
            folder = Path(path).resolve()
            is_below = any(folder.is_relative_to(root) for root in self._roots)
            is_adapter = is_below and (folder / "adapter_config.json").is_file()
        except (OSError, RuntimeError, ValueError) as error:
            # A NUL, a name over the file system's limit, text that no name is made of, a link loop.
            raise AdapterNotFoundError(
                f"No adapter found for {path[:80]!r}: no folder can be called so"
            ) from error
        if not is_below:
            allowed = ", ".join(str(root) for root in self._roots) or "none is configured"
            raise AdapterNotFoundError(
                f"No adapter found for '{path}': adapters are read only below {allowed} "
                "(setting adapter_roots)"
            )
        if not is_adapter:
            raise AdapterNotFoundError(f"No adapter found for '{path}'.")
        return folder

    def owners(self, path: str) -> tuple[str, ...]:
        """The adapters that `path` belongs to, as it is written and with its links followed.

        Empty where one of the two belongs to none, or the path goes upwards.
        """
        if ".." in PurePath(path).parts:
            return ()
        try:
            found = [self._owner(Path(path).absolute()), self._owner(Path(path).resolve())]
        except (OSError, RuntimeError, ValueError):  # A loop of links; a NUL character.
            return ()
        owners = tuple(dict.fromkeys(owner for owner in found if owner is not None))
        return owners if None not in found else ()

    def _owner(self, path: Path) -> str | None:
        for root in self._store_roots:
            if path.is_relative_to(root):
                return _version_at(path.relative_to(root))
        # A root inside of another one decides.
        for root in sorted(self._other_roots, key=lambda root: -len(root.parts)):
            if path.is_relative_to(root):
                first = path.relative_to(root).parts[:1] or (root.name,)
                return first[0] if NAME_PATTERN.fullmatch(first[0]) else None
        return None


def _version_at(inside: PurePath) -> str | None:
    """`sql@3` for `sql/3` and below, `sql` for what else lies in the name's folder."""
    name, *rest = inside.parts or ("",)
    if NAME_PATTERN.fullmatch(name) is None:
        return None
    version = parse_version(rest[0]) if rest else None
    return name if version is None else f"{name}@{version}"
