"""Every snippet of the cookbook, run as a reader runs it."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.live_server import ROOT, import_examples, live_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ADDRESS = "http://127.0.0.1:8000"
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
TEXT = (ROOT / "docs" / "cookbook.md").read_text()
SAYS = {
    "Chat python": "polite@1\nThank you for reaching out!",
    "Chat sh": '"model":"polite@1"',
    "Streaming python": " tokens\n",
    "Streaming sh": "data: [DONE]",
    "A stack: several adapters in one answer python": "polite@1:0.7+poet@1:0.3\n",
    "A stack: several adapters in one answer python 2": "polite@1:0.7+poet@1:0.3\n",
    "JSON that obeys a schema python": "'urgency': ",
    "Tools: a call, and its result fed back python": "weather ",
    "Completions with echo: how probable is a text? python": "None",
    "Tokens sh": '"Hello, world"',
    "Load, alias and unload an adapter sh": "removed successfully",
    "Metrics sh": "switchyard_requests_total",
}
"""A part of what a snippet prints."""


def snippets() -> dict[str, tuple[str, str]]:
    """`heading language [count]` -> (language, code), in the page's order."""
    found: dict[str, tuple[str, str]] = {}
    for match in FENCE.finditer(TEXT):
        heading = HEADING.findall(TEXT[: match.start()])[-1]
        label = base = f"{heading} {match[1]}"
        count = 1
        while label in found:
            count += 1
            label = f"{base} {count}"
        found[label] = (match[1], match[2])
    return found


SNIPPETS = snippets()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    workspace = tmp_path_factory.mktemp("cookbook")
    import_examples(workspace / "adapters")
    arguments = ("--adapter-root", str(ROOT / "examples"))
    with live_server(workspace / "adapters", workspace / "server.log", *arguments) as address:
        yield address


def test_every_expectation_belongs_to_a_snippet() -> None:
    assert SAYS.keys() <= SNIPPETS.keys()
    assert TEXT.count("\n```") == 2 * len(SNIPPETS), "a fence of another language is never run"


@pytest.mark.parametrize("label", SNIPPETS)
def test_the_snippet_runs(url: str, label: str) -> None:
    language, code = SNIPPETS[label]
    assert ADDRESS in code
    code = code.replace(ADDRESS, url)
    command = (
        [sys.executable, "-c", code]
        if language == "python"
        else ["bash", "-euo", "pipefail", "-c", code]
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert SAYS.get(label, "") in done.stdout
    assert done.stdout.strip()
