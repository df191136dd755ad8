"""`completion`: the script that turns on tab completion in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="bash: echo 'eval \"$(hostd completion bash)\"' >> ~/.bashrc. "
    "zsh: echo 'eval \"$(hostd completion zsh)\"' >> ~/.zshrc. "
    "fish: hostd completion fish > ~/.config/fish/completions/hostd.fish."
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and the ids of loaded models."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click cannot complete for {shell}")
    click.echo(found(ctx.find_root().command, {}, "hostd", "_HOSTD_COMPLETE").source())
