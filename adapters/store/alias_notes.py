"""What a new version did to its name's meaning, where that may not be what was meant."""

from adapters.store.alias import Alias
from adapters.store.stored_adapter import StoredAdapter


def publish_note(stored: StoredAdapter, before: Alias, now: Alias) -> str:
    """A line about the name, or nothing where the new version took over from one version.

    `before` and `now` are the alias before and after `stored` was published.
    """
    name = stored.name
    if stored.version not in now.versions:
        what = f"means {now.weights_text}" if now.targets else "points at no version"
        return (
            f"staged: {name} still {what}; `adapters alias {name} {stored.version}` makes "
            f"{stored.label} live\n"
        )
    if not before.is_canary:
        return ""
    return (
        f"this ends the canary {before.weights_text}: {name} means {now.weights_text} now; "
        f"`adapters alias {name} {before.weights_text}` brings it back, and --stage (publish.alias "
        "false in a training config) publishes without going live\n"
    )
