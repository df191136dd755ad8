"""The root of the command line: which commands there are, imported when one of them is used.

Covers names, the overview of `hostd --help`, and exit codes. Does not cover what a command does, nor the options that
all share (`session`).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from hostd.cli.interrupts import EXIT_INTERRUPTED, told
from hostd.cli.session import Session, shared_options, with_number_of_wait
from hostd.version import __version__


@dataclass(frozen=True)
class Entry:
    """Where a command lives and its line in the overview, so that the overview imports nothing."""

    section: str
    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "serve": Entry("Host", "commands.serving", "Start a host in the foreground."),
    "hosts": Entry("Host", "commands.hosting", "List your running hosts."),
    "config": Entry("Host", "commands.configuration", "Show the settings and where they come from."),
    "demo": Entry("Host", "demo", "Host real models on real data and check every claim."),
    "doctor": Entry("Host", "doctor.command", "Check this machine and say what to do."),
    "status": Entry("Host", "commands.status", "Say whether the host is ready, and how it is."),
    "reload": Entry("Host", "commands.serving", "Let the running host read its configuration file again."),
    "shutdown": Entry("Host", "commands.serving", "End the running host and all its models."),
    "load": Entry("Models", "commands.lifecycle", "Load a model into a process of its own."),
    "unload": Entry("Models", "commands.lifecycle", "Unload models and prove that they are gone."),
    "deploy": Entry("Models", "commands.deploying", "Copy a model into the host's directory and load it."),
    "undeploy": Entry("Models", "commands.deploying", "Unload models and remove their files."),
    "sync": Entry("Models", "commands.deploying", "Load and unload what the models directory says."),
    "ps": Entry("Models", "commands.listing", "Show the models and what they use."),
    "ls": Entry("Models", "commands.inventory", "List all models, loaded or not, and why."),
    "describe": Entry("Models", "commands.describing", "Show a model's methods and settings, and how to call it."),
    "top": Entry("Models", "top", "Watch the models, live."),
    "explain": Entry("Models", "commands.explaining", "Say why a model is in its state, and what would evict it."),
    "logs": Entry("Models", "commands.watching", "Show what a model printed."),
    "stack": Entry("Models", "commands.describing", "Print what a model's threads are doing, also while it hangs."),
    "events": Entry("Models", "commands.watching", "Follow what happens to models and workers."),
    "size": Entry("Memory", "commands.listing", "Show how much memory models take."),
    "plan": Entry("Memory", "commands.explaining", "Say what a load would do now: what would have to go."),
    "templates": Entry("Memory", "commands.templates", "Show what is kept imported, and which models do without."),
    "pin": Entry("Memory", "commands.lifecycle", "Keep models in memory."),
    "unpin": Entry("Memory", "commands.lifecycle", "Let models be evicted again."),
    "infer": Entry("Calls", "commands.calling", "Call a model and print its answer."),
    "bench": Entry("Calls", "bench.command", "Measure a model under load."),
    "completion": Entry("Shell", "completion", "Print the script that turns on tab completion."),
}

TYPED_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "call": ("infer",),
    "delete": ("unload", "undeploy"),
    "info": ("status", "describe", "explain"),
    "inspect": ("describe", "explain"),
    "kill": ("shutdown",),
    "list": ("ls", "ps"),
    "ls": ("ps",),
    "predict": ("infer",),
    "quit": ("shutdown",),
    "remove": ("unload", "undeploy"),
    "rm": ("unload", "undeploy"),
    "run": ("infer", "load"),
    "show": ("describe", "explain"),
    "start": ("serve",),
    "stats": ("top",),
    "status": ("ps", "hosts"),
    "stop": ("shutdown",),
}
"""What people type who know other tools, and what does that here; commands of ours are never looked up in it."""


class Root(click.Group):
    """The group of all commands; each command's module is imported when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return one command; None for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"hostd.cli.{entry.module}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of `args`; an unknown name is a usage error that leads to the one that is meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            meant = " or ".join(f"`hostd {name}`" for name in _meant_by(args[0]))
            lead = f"Did you mean {meant}?" if meant else "`hostd --help` lists them all."
            ctx.fail(f"No such command {args[0]!r}. {lead}")
        name, command, rest = super().resolve_command(ctx, args)
        _check_asks_a_host(ctx, command)
        return name, command, rest

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command, `--wait` without a number too."""
        return super().parse_args(ctx, with_number_of_wait(self, args))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line."""
        with told(""):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it does not say of an interrupt itself is said in a word."""
        with told(""):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the overview by section."""
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name.ljust(width), entry.summary) for name, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands, with their summaries."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit. Exit codes are this method's business; click's own make an interrupt look like a refusal."""
        extra = {"obj": Session(), **extra, "standalone_mode": False}
        try:
            outcome = super().main(*args, **extra)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        sys.exit(outcome if isinstance(outcome, int) else 0)


def _meant_by(typed: str) -> list[str]:
    from hostd.hints import closest  # noqa: PLC0415 - only a failure needs it

    known = [name for name in TYPED_ELSEWHERE.get(typed, ()) if name in COMMANDS]
    return known or [name for name in (closest(typed, COMMANDS),) if name]


def _check_asks_a_host(ctx: click.Context, command: click.Command | None) -> None:
    """Refuse to ignore which host is meant, for a command that asks none."""
    session = ctx.ensure_object(Session)
    is_meant = (session.endpoint, session.timeout_s, session.wait_s) != (None, None, None)
    if command is None or ctx.resilient_parsing or not is_meant:
        return
    if not any(parameter.name == "endpoint" for parameter in command.params):
        way = "; name the one that it starts with: hostd serve --name NAME" if command.name == "serve" else ""
        ctx.fail(f"{command.name} asks no host: it takes no --endpoint, --timeout or --wait{way}")


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@shared_options
def root() -> None:
    """A model host: every model in processes of its own, sizes that are measured, unloads that are proven.

    \b
    A first tour, each line in its turn:
      hostd serve &
      hostd --wait load ID PATH
      hostd infer ID DATA
      hostd ps
      hostd unload ID
    """  # noqa: D301 - click reads the backspace as "leave these lines as they are"
