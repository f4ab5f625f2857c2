"""``scaler schema``."""

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of job files, for editors."""
    from scaler.job import Job

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema()}
    click.echo(json.dumps(schema, indent=1))
