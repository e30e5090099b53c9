"""The pages for people who read the code: every path is there, and every folder is named."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "adapters", "trainer")
SOURCES = ("*.py", "*.cpp", "*.h")
# In code spans, and in links to a place of this repository.
SPAN = re.compile(r"`([^`\s]+)`|\]\((?!https?:)([^)#\s]+)\)")


def paths_of(page: str) -> set[str]:
    """The paths that a page names: what has a slash inside, and pages and settings at the top."""
    named = {first or second for first, second in SPAN.findall((ROOT / page).read_text())}
    is_at_top = re.compile(r"[\w.-]+\.(md|toml|txt)$")
    # What begins with a slash is a route.
    return {
        path
        for path in named
        if ("/" in path and not path.startswith("/")) or is_at_top.match(path)
    }


def folders_of_sources() -> set[str]:
    """Every folder of the packages that holds source text."""
    return {
        f"{file.parent.relative_to(ROOT).as_posix()}/"
        for package in PACKAGES
        for pattern in SOURCES
        for file in (ROOT / package).rglob(pattern)
    }


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    paths = paths_of(page)
    assert len(paths) >= 8, "the page's paths aren't found any more"
    assert not sorted(path for path in paths if not (ROOT / path).exists())


def test_every_folder_is_named() -> None:
    named = paths_of("ARCHITECTURE.md")
    folders = folders_of_sources()
    assert len(folders) > 30
    assert not sorted(folders - named)


def test_no_folder_of_the_table_is_named_twice() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    folders = [folder for row in rows for folder in re.findall(r"`([^`]+)`", row)]
    assert len(folders) == len(set(folders)) > 30
