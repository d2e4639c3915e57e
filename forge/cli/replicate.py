"""`forge replicate`: what the object store has of this node."""

import click

from forge.cli.replicate_daemon import daemon
from forge.cli.replicate_drill import drill
from forge.cli.replicate_generation import generation
from forge.cli.replicate_status import status


@click.group()
def replicate() -> None:
    """Keep the log in an object store."""


for command in (status, drill, generation, daemon):
    replicate.add_command(command)
