"""`forge vector serve`: the vector service alone, configured by environment."""

import click

from forge.cli.options import data_dir_option, invocation, json_option

DEFAULT_WORKER_URL = "http://localhost:3003"


@click.command()
@data_dir_option
@json_option
def serve() -> None:
    """Serve the vector API on FORGE_VECTOR_LISTEN_ADDR until stopped.

    Calls the workers of FORGE_VECTOR_WORKER_URL (default http://localhost:3003) and of the URLs for one kind; no
    built-in worker is started. Starts nats-server unless FORGE_NATS_URL names yours.
    """
    from forge.cli.up import serve_until_stopped

    call = invocation()
    settings = call.settings()
    if not settings.vector_worker_url:
        settings = settings.model_copy(update={"vector_worker_url": DEFAULT_WORKER_URL})
    serve_until_stopped(settings, settings.vector_listen, s3=False, embed=True)
