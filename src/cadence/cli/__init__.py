"""The `cadence` command: parse, build a config, call one function.

Subcommands load on use, so `cadence --help` costs milliseconds and no command imports torch before it
needs a model in its own process.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from cadence import __version__
from cadence.errors import CadenceError

__all__ = ["main"]

# name -> (module, attribute, one line for --help), in the order of a user's first day
COMMANDS = {
    "serve": ("cadence.cli.serve", "serve", "Serve a model over the OpenAI API."),
    "say": ("cadence.cli.speech", "say", "Speak a text into an audio file."),
    "transcribe": ("cadence.cli.transcribe", "transcribe", "Write down what an audio file says."),
    "chat": ("cadence.cli.chat", "chat", "Talk with the model in the terminal."),
    "voices": ("cadence.cli.voices", "voices", "List, add and remove voices."),
    "bench": ("cadence.bench.command", "bench", "Measure a running server."),
    "doctor": ("cadence.doctor.command", "doctor", "Check a checkpoint, part by part."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; errors of ours end in one line, exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `CadenceError` is a message for the user, not a traceback."""
        try:
            return super().invoke(ctx)
        except CadenceError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            sys.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cadence")
def main() -> None:
    """Serve Step-Audio 2 in real time over the OpenAI API: text and audio in, text and speech out.

    \b
      cadence serve                       the built-in model on http://127.0.0.1:8092
      cadence serve /models/Step-Audio-2-mini
      cadence say "Hello there." -o hello.wav
    """
