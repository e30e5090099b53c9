"""What schemathesis reports is read as requests; its hook changes valid cases only."""

import json
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode, openapi

from loadtests.harness import served_names
from loadtests.harness.schemathesis_run import Answered, read_events

SCHEMA = openapi.from_dict(
    {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {
            "/v1/{name}": {
                "post": {
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "examples": ["sql", "poet"]},
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Body"}}
                        },
                    },
                    "responses": {"200": {"description": "Done"}},
                }
            }
        },
        "components": {
            "schemas": {
                "Body": {
                    "type": "object",
                    "required": ["model", "others"],
                    "properties": {
                        "model": {"type": "string", "examples": ["base"]},
                        "max_tokens": {"type": "integer", "minimum": 1},
                        "others": {
                            "type": "array",
                            "items": {"$ref": "#/components/schemas/Other"},
                        },
                        **{f"o{i}": {"type": "boolean"} for i in range(9)},
                    },
                },
                "Other": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "examples": ["sql"]}},
                },
            }
        },
    }
)
OPERATION = SCHEMA["/v1/{name}"]["POST"]
QUICK = settings(
    max_examples=15,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@QUICK
@given(case=OPERATION.as_strategy(generation_mode=GenerationMode.POSITIVE))
def test_valid_cases_name_what_is_served_and_are_short(case: Case) -> None:
    assert served_names.name_what_is_there, "imported, so at work"
    assert case.path_parameters["name"] in ("sql", "poet")
    assert case.body["model"] == "base"
    assert {other["name"] for other in case.body["others"]} <= {"sql"}
    assert case.body["max_tokens"] <= 4
    assert len([name for name in case.body if name.startswith("o") and name != "others"]) <= 3


def test_a_report_is_read_request_by_request(tmp_path: Path) -> None:
    def finished(label: str, *responses: object) -> str:
        interactions = {str(i): {"response": response} for i, response in enumerate(responses)}
        recorder = {"label": label, "interactions": interactions}
        return json.dumps({"ScenarioFinished": {"recorder": recorder}})

    report = tmp_path / "events.ndjson"
    lines = [
        json.dumps({"EngineStarted": {}}),
        json.dumps({"ScenarioFinished": {"recorder": {"label": "GET /c", "cases": {}}}}),
        finished("GET /a", {"status_code": 200, "elapsed": 0.5}, None),
        finished("POST /b", {"status_code": 400, "elapsed": 0.25}),
    ]
    report.write_text("\n".join(lines))
    assert list(read_events(report)) == [
        Answered("GET /a", 200, 0.5),
        Answered("GET /a", 0, 0.0),
        Answered("POST /b", 400, 0.25),
    ]
