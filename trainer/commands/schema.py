"""`trainer schema`: the config's JSON schema."""

import json

import typer

from trainer.config import TrainerConfig


def register(app: typer.Typer) -> None:
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON schema of the config, for editors and programs."""
    document = TrainerConfig.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
