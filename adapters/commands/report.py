"""How the `adapters` command shows what the store holds: rich tables, or plain data for JSON."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from adapters.store.alias import Alias
from adapters.store.soundness import unsound
from adapters.store.store import AdapterStore, StoredAdapter
from adapters.store.stray_name import StrayName
from adapters.template_check import BaseTemplate


def stored_as_data(store: AdapterStore, stored: StoredAdapter) -> dict[str, Any]:
    """One version as JSON data, its manifest included; `alias` is what its name means."""
    stray = store.stray(stored.name)
    return {
        "name": stored.name,
        "version": stored.version,
        "alias": _alias_data(store.alias(stored.name)),
        "problem": None if stray is None else stray.problem,
        "remedy": None if stray is None else stray.remedy,
        "versions": list(store.versions(stored.name)),
        "digest": stored.digest,
        "rank": stored.rank,
        "size_bytes": stored.size_bytes,
        "path": str(stored.path),
        "template": template_text(store, stored),
        "manifest": stored.manifest.model_dump(mode="json"),
    }


def stray_as_data(stray: StrayName) -> dict[str, Any]:
    """A name that no version stands for, as JSON data beside `stored_as_data`'s."""
    return {
        "name": stray.name,
        "version": None,
        "alias": _alias_data(stray.alias),
        "problem": stray.problem,
        "remedy": stray.remedy,
        "versions": [stored.version for stored in stray.sound],
    }


def _alias_data(alias: Alias) -> dict[str, float]:
    return {str(version): weight for version, weight in alias.targets}


def listing_table(
    store: AdapterStore, adapters: Iterable[StoredAdapter], strays: Sequence[StrayName] = ()
) -> Table:
    """One row for each name: what it means now, or that it means nothing."""
    by_name: dict[str, StoredAdapter | StrayName] = {stored.name: stored for stored in adapters}
    for stray in strays:
        by_name.setdefault(stray.name, stray)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("NAME", no_wrap=True)
    for title in ("VERSION", "VERSIONS", "RANK", "SIZE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("PUBLISHED", no_wrap=True)
    table.add_column("TEMPLATE", no_wrap=True)
    table.add_column("BASE", overflow="ellipsis", no_wrap=True)
    for name, stored in sorted(by_name.items()):
        if isinstance(stored, StrayName):
            table.add_row(name, "nothing", str(len(stored.sound)), "-", "-", "-", "-")
            continue
        base = stored.lineage.base
        table.add_row(
            stored.name,
            store.alias(name).weights_text,
            str(len(store.versions(stored.name))),
            str(stored.rank),
            size_text(stored.size_bytes),
            time_text(stored.created_unix_seconds),
            template_text(store, stored),
            base.reference if base is not None else "not recorded",
        )
    return table


def detail_table(
    store: AdapterStore, stored: StoredAdapter, base_template: BaseTemplate | None = None
) -> Table:
    """Everything worth reading about one version; what isn't recorded has no row."""
    manifest = stored.manifest
    rows: list[tuple[str, str | None]] = [
        ("adapter", stored.label),
        ("versions", ", ".join(str(version) for version in store.versions(stored.name))),
        ("name means", _meaning(store, stored.name)),
        ("damage", unsound(stored.path)),
        ("published", time_text(manifest.created_unix_seconds)),
        ("method", f"{manifest.method}, rank {stored.rank}"),
        ("size", size_text(stored.size_bytes)),
        ("digest", stored.digest),
        ("path", str(stored.path)),
        ("parent", manifest.parent),
        ("imported from", manifest.source),
    ]
    if (base := manifest.base) is not None:
        rows += [("base", base.reference), ("base revision", base.revision)]
        rows += [("base digest", base.digest)]
    if (spec := manifest.quantization) is not None:
        double = ", double quantisation" if spec.double_quant else ""
        rows += [("base weights", f"{spec.scheme}, block size {spec.block_size}{double}")]
    if stored.lineage.template_hash is not None:
        rows += [("trained with template", stored.lineage.template_hash)]
    rows += [("rendered with", _rendering(store, stored, base_template))]
    if (data := manifest.data) is not None:
        sizes = f"{data.num_train_rows} rows to train, {data.num_eval_rows} to evaluate"
        rows += [("data", f"{sizes}; {data.digest}")]
    rows += [(name, f"{value:g}") for name, value in sorted(manifest.metrics.items())]
    rows += [
        ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.library_versions.items())))
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in rows:
        if text:
            table.add_row(title, text)
    return table


def damage_note(store: AdapterStore, stored: StoredAdapter) -> str | None:
    """What doesn't read of a current version, and a remedy; None where it reads.

    Names, headers and config are looked at. Whether the weights are still those that were
    published takes a `verify`.
    """
    reason = unsound(stored.path)
    if reason is None:
        return None
    others = [v for v in store.versions(stored.name) if v != stored.version]
    remedy = (
        f"`adapters alias {stored.name} {others[-1]}` rolls back"
        if others
        else "there is no other version: import one"
    )
    return f"{stored.label} is damaged: {reason}\n    {remedy}"


def _meaning(store: AdapterStore, name: str) -> str:
    stray = store.stray(name)
    if stray is None:
        return store.alias(name).weights_text
    return f"{stray.problem}. {stray.remedy}"


def template_text(store: AdapterStore, stored: StoredAdapter) -> str:
    """Which chat template it is rendered with: `base's`, or `own` where the operator allowed it."""
    return "own" if store.allows_template(stored) else "base's"


def _rendering(store: AdapterStore, stored: StoredAdapter, base: BaseTemplate | None) -> str:
    if store.allows_template(stored):
        return "its own chat template, which was allowed in this store"
    if base is None or stored.lineage.template_hash in (None, base.hash):
        return "the base's chat template"
    return (
        "the base's chat template, though it was trained with another: "
        f"`adapters allow-template {stored.label}` lets it have its own"
    )


def size_text(num_bytes: int) -> str:
    """Bytes for a person: `1.3 MB` (powers of 1000)."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    size = float(num_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def time_text(unix_seconds: int) -> str:
    """`2026-01-31 12:00 UTC`."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
