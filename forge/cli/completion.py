"""`forge completion`: a script that teaches a shell the commands and options of `forge`."""

import click
from click.shell_completion import get_completion_class

from forge.cli import COMPLETING
from forge.cli.options import invocation, json_option
from forge.cli.output import emit

SHELLS = {
    "bash": 'add to ~/.bashrc:  eval "$(forge completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(forge completion zsh)"',
    "fish": "forge completion fish > ~/.config/fish/completions/forge.fish",
}
"""The shells we write scripts for, and how each script is put to use."""


@click.command(epilog="\b\n" + "\n".join(f"{shell}: {use}" for shell, use in SHELLS.items()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
@json_option
def completion(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    emit({"shell": shell, "use": SHELLS[shell], "script": script(shell)}, script(shell), as_json=invocation().json)


def script(shell: str) -> str:
    """Return the completion script for `shell`."""
    generator = get_completion_class(shell)
    assert generator is not None
    command = click.get_current_context().find_root().command
    written = generator(command, {}, "forge", COMPLETING)
    # Click would first start bash to see its version; the script works in every bash that Debian ships.
    return written.source_template % written.source_vars()
