"""`modeledit completion`."""

from __future__ import annotations

import click

from .command import verb
from .errors import PASSED
from .show import emit


@verb("completion", 'eval "$(modeledit completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from .main import COMPLETE, NAME, tool

    found = get_completion_class(shell)
    if found is not None:
        emit(found(tool, {}, NAME, COMPLETE).source())
    return PASSED
