"""docs/configuration.md is made of the settings.

To write it again: python -m tests.unit.server.test_configuration_page
"""

from pathlib import Path
from typing import Literal, get_args, get_origin

from server.cli import option_name
from server.configuration import ENVIRONMENT_PREFIX, ServerConfig

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"

HEAD = f"""# Settings of the server

Each can be a flag, a variable (`{ENVIRONMENT_PREFIX}KV_CACHE_GIB=4`) or a line of a YAML file
(`--config`). Flags win over variables, variables over the file. All mistakes are told at once,
before anything is loaded.
"""


def page() -> str:
    """The whole page."""
    groups: dict[str, list[str]] = {}
    for name, field in ServerConfig.model_fields.items():
        extra = field.json_schema_extra
        group = str(extra["group"]) if isinstance(extra, dict) else "Other"
        text = str(field.description)
        if get_origin(field.annotation) is Literal:
            text += f" ({', '.join(get_args(field.annotation))})"
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        row = f"| `{name}` | `{option_name(name)}` | {default} | {text} |"
        groups.setdefault(group, []).append(row)
    parts = [HEAD]
    for group, rows in groups.items():
        parts.append(f"## {group}\n\n| setting | flag | default | |\n|---|---|---|---|")
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    return "\n".join(parts)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "write it again: see the top of this file"


if __name__ == "__main__":
    PAGE.write_text(page())
