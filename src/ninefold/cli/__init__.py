"""The command `ninefold`: a table of subcommands, and what becomes of an error.

To add a subcommand, add its line to COMMANDS and write `ninefold/cli/NAME.py` with a click command called
`command`; its docstring is its help and holds an example. Its module is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from ninefold import __version__

COMMANDS = {
    "demo": "Run EfficientNet-Lite0 on a photograph, plain and through Ninefold, side by side.",
    "cost": "Count one layer, standard and separable: multiplications, parameters, ratio.",
    "explain": "Why one layer is cheap: eight pictures and a page, in English or Chinese.",
    "report": "What a network costs, what it would cost the other way, where its time goes.",
    "train": "Train a network on a folder of images, in fused kernels.",
    "convert": "Turn a trained network's standard convolutions into separable ones.",
    "bench": "Measure Ninefold against its peers, with this machine's limits beside.",
    "doctor": "Show what runs here, this machine's limits, and what would fall back.",
}

# What library code raises for bad input, and what the system raises for a file: not a reason for a traceback.
_REFUSALS = (ValueError, TypeError, OSError, ImportError, OverflowError)


class Refusal(click.ClickException):
    """Bad input, found by the library: one line, exit status 2."""

    exit_code = 2


class Commands(click.Group):
    """Subcommands found by name in COMMANDS, and every error said in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand's module and return its command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"ninefold.cli.{cmd_name}").command
        # In its module every one is called `command`.
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table; asking each command for its help would import them all."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what the library refuses becomes one line, or with `--debug` a traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except _REFUSALS as error:
            if ctx.params["debug"]:
                raise
            raise Refusal(str(error) or type(error).__name__) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "ninefold",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit: 0, or 2 with one line on stderr for bad usage or bad input."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            message = " ".join(error.format_message().split())
            click.echo(f"ninefold: error: {message}{_help_hint(error)}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("ninefold: interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:
            # The reader has gone (`ninefold cost ... | head -1`): let Python's own last flush go nowhere.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _help_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" (see '{context.command_path} --help')" if context else ""


@click.group(
    "ninefold",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="ninefold", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Depthwise separable convolutions: counted exactly, run at the speed their arithmetic promises.

    Example: ninefold cost --in 512 --out 1024 --kernel 3 --size 14
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
