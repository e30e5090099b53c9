"""A real Prometheus scrapes a live server, and answers every query of dashboard and alerts."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.fakes.live_engine import free_port, serve_engine

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="no Prometheus here (apt-get install prometheus)",
)


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus with the configuration of deploy/, pointed at `target`; yields its address."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms",
                        "evaluation_interval": "500ms"}  # fmt: skip
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(PROMETHEUS), f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(60)


def query(url: str, expression: str) -> list[dict[str, object]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    result: list[dict[str, object]] = answer["data"]["result"]
    return result


def dashboard_queries() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
)
def test_promtool_accepts_it(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=DEPLOY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_is_answered(tmp_path: Path) -> None:
    with serve_engine() as address:
        target = address.removeprefix("http://")
        with prometheus(tmp_path, target) as url:
            deadline = time.monotonic() + 60
            while True:
                for model in ("base", "sql", "polite:0.5+sql:0.5"):
                    body = {"model": model, "prompt": "hello " * 9, "max_tokens": 8}
                    assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200
                httpx.post(f"{address}/v1/completions", json={})
                with contextlib.suppress(httpx.TransportError):
                    # Two scrapes with tokens in them make a rate.
                    if query(url, "rate(switchyard_generation_tokens_total[10s]) > 0"):
                        break
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.3)
            queries = [q.replace("$__rate_interval", "10s") for q in dashboard_queries()]
            empty = [q for q in queries if not query(url, q)]
            assert len(queries) > 40
            # Nothing fired, and no adapter failed to load: these alone may have nothing to show.
            assert [q for q in empty if not re.search("ALERTS", q)] == []
            rules = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
            for rule in rules:
                query(url, rule["query"])
            named = set(
                re.findall(
                    r"switchyard_[a-z0-9_]+",
                    " ".join([*queries, *(rule["query"] for rule in rules)]),
                )
            )
            known = httpx.get(f"{url}/api/v1/label/__name__/values").json()["data"]
            assert named <= set(known), "a query names a series that doesn't exist"
            page = httpx.get(f"{address}/metrics").text
            check = subprocess.run(
                [str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, text=True,
                timeout=60,
            )  # fmt: skip
            # The wire contract's own name; everything else must please the linter.
            complaints = [c for c in check.stderr.splitlines() if "adapter_slots_total" not in c]
            assert [c for c in complaints if c] == []
