"""The files in deploy/ fit the server: its flags, its routes, its times, its label values."""

import configparser
import json
import re
from pathlib import Path
from typing import Any

import yaml

from server.api.access.rights import RIGHTS
from server.api.errors import TABLE
from server.api.openapi.document import openapi_document
from server.cli import option_name
from server.configuration import ServerConfig
from server.core.request import FinishReason
from server.restarting import ExitStatus
from server.supervision import _ENDING_SECONDS

DEPLOY = Path(__file__).parents[5] / "deploy"


def flags_of(arguments: list[str]) -> set[str]:
    return {argument for argument in arguments if argument.startswith("--")}


def known_flags() -> set[str]:
    flags = {option_name(name) for name in ServerConfig.model_fields}
    return flags | {f"--no-{flag.removeprefix('--')}" for flag in flags}


def test_compose_starts_a_server_that_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
    server = compose["services"]["server"]
    assert flags_of(server["command"]) <= known_flags()
    assert all(port.startswith("127.0.0.1:") for port in server["ports"]), "it runs without keys"
    inner = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    assert inner["scrape_configs"][0]["static_configs"][0]["targets"] == ["server:8000"]
    for volume in compose["services"]["grafana"]["volumes"]:
        assert (DEPLOY / volume.split(":")[0]).exists()


def test_kubernetes_probes_routes_that_exist_and_waits_for_the_drain() -> None:
    folder = DEPLOY / "kubernetes"
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {p.name for p in folder.glob("*.yaml")} == {*named, "kustomization.yaml"}
    pod: dict[str, Any] = yaml.safe_load((folder / "deployment.yaml").read_text())
    spec = pod["spec"]["template"]["spec"]
    container = spec["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert RIGHTS["GET", path] is None, "a probe has no key"
    arguments = container["args"]
    assert flags_of(arguments) <= known_flags()
    drain_seconds = float(arguments[arguments.index("--drain-seconds") + 1])
    assert spec["terminationGracePeriodSeconds"] > drain_seconds + 5
    [secret] = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert not secret["defaultMode"] & 0o137, "root's keys file may be read by its group at most"
    assert spec["enableServiceLinks"] is False, "a service's variables would look like settings"
    assert spec["terminationGracePeriodSeconds"] > drain_seconds + _ENDING_SECONDS
    assert container["startupProbe"]["httpGet"]["path"] == "/health/ready", "live while it loads"


def test_what_ends_with_an_error_is_started_again_and_unusable_settings_are_not() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
    server = compose["services"]["server"]
    assert "--restart" in server["command"]
    policy, _, attempts = server["restart"].partition(":")
    assert policy == "on-failure"
    assert int(attempts) > 0, "Docker doesn't know which failures are for good"
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())
    assert pod["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(DEPLOY / "systemd" / "switchyard.service")
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == str(int(ExitStatus.UNUSABLE))
    assert flags_of(service["ExecStart"].split()) <= known_flags() | {"--config"}
    default_drain = ServerConfig.model_fields["drain_seconds"].default
    assert float(service["TimeoutStopSec"]) > default_drain + _ENDING_SECONDS
    recipe = (DEPLOY.parent / "Makefile").read_text()
    assert "bin/server --restart" in recipe.replace("$(BIN)", "bin")


def test_every_alert_has_its_paragraph() -> None:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for rule in rules:
        assert f"### {rule['alert']}\n" in page
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
LABEL_VALUES = {
    "status": {"200", *(str(row.status) for row in TABLE.values())},
    "finish_reason": {reason.value for reason in FinishReason},
    "result": {"ok", "error"},
}
ELSEWHERE = {"job", "alertstate", "alertname"}  # Prometheus' own
GATEWAYS = {"502", "504"}  # of a proxy in front

DOCUMENTED = openapi_document("1")["paths"]["/v1/chat/completions"]["post"]["responses"]


def queries() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    targets = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    return [rule["expr"] for rule in rules] + targets


def test_no_query_waits_for_a_label_value_that_never_comes() -> None:
    seen = set()
    for query in queries():
        for label, _, pattern in MATCHER.findall(query):
            if label in ELSEWHERE:
                continue
            seen.add(label)
            for value in pattern.split("|"):
                assert value in LABEL_VALUES[label] | GATEWAYS, f"{label}={value} in {query}"
    assert seen == set(LABEL_VALUES)


def test_every_end_is_watched() -> None:
    """No query lists the finish reasons one by one, so that a new one would be left out."""
    [by_reason] = [q for q in queries() if "by (finish_reason)" in q]
    assert not MATCHER.search(by_reason)
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for reason in FinishReason:
        assert f"`{reason.value}`" in page
    for row in TABLE.values():
        assert row.status == 499 or str(row.status) in DOCUMENTED
