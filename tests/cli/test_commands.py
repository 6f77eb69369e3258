"""The command line as a whole: the table of subcommands, their help, and what becomes of an error."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

import ninefold
from ninefold import cli
from ninefold.cli import main


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_row_of_the_table_is_a_command_with_help_and_an_example(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Example: ninefold {name}" in result.output
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command) and command.name is not None
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_table(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    for name, line in cli.COMMANDS.items():
        assert name in result.output
        assert line.split()[0] in result.output


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == f"ninefold {ninefold.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["count"], "No such command 'count'"),
        (["--loud"], "No such option"),
        (["../cost"], "No such command"),
    ],
)
def test_a_bad_command_line_is_one_line(arguments, words):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr
    assert result.stderr.startswith("ninefold: error: ") and result.stderr.count("\n") == 1
    assert "(see 'ninefold --help')" in result.stderr


def failing(monkeypatch, error):
    @click.command()
    def command():
        raise error

    monkeypatch.setattr(cli.Commands, "get_command", lambda self, ctx, name: command)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("`stride` must be positive,\n got 0"), "`stride` must be positive, got 0"),
        (TypeError("`groups` must be an int, got 2.0"), "`groups` must be an int, got 2.0"),
        (FileNotFoundError(2, "No such file or directory", "photo.png"), "photo.png"),
        (ModuleNotFoundError("No module named 'torch'"), "No module named 'torch'"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_the_library_refuses_is_one_line_without_a_traceback(monkeypatch, error, words):
    failing(monkeypatch, error)
    result = CliRunner().invoke(main, ["anything"])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("ninefold: error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr


def test_debug_lets_the_traceback_through(monkeypatch):
    failing(monkeypatch, ValueError("deep inside"))
    result = CliRunner().invoke(main, ["--debug", "anything"])
    assert isinstance(result.exception, ValueError) and str(result.exception) == "deep inside"


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch):
    failing(monkeypatch, AssertionError("a bug"))
    assert isinstance(CliRunner().invoke(main, ["anything"]).exception, AssertionError)


def test_an_interrupt_is_said_and_is_not_success(monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(main, ["anything"])
    assert result.exit_code == 130 and "ninefold: interrupted" in result.stderr


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "bench"])
def test_every_command_can_print_json(name):
    command = main.get_command(click.Context(main), name)
    assert any("--json" in parameter.opts for parameter in command.params), name


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o nosort"), ("zsh", "#compdef ninefold"), ("fish", "complete ")]
)
def test_the_shell_is_told_how_to_complete(shell, words):
    # Click asks bash for its version; what it prints does not need one.
    run = CliRunner().invoke(main, [], env={"_NINEFOLD_COMPLETE": f"{shell}_source"}, prog_name="ninefold")
    assert words in run.output


def test_commands_and_options_are_completed():
    asked = {"_NINEFOLD_COMPLETE": "zsh_complete", "COMP_WORDS": "ninefold rep", "COMP_CWORD": "1"}
    assert "report" in CliRunner().invoke(main, [], env=asked, prog_name="ninefold").output
    asked |= {"COMP_WORDS": "ninefold report --thr", "COMP_CWORD": "2"}
    assert "--threads" in CliRunner().invoke(main, [], env=asked, prog_name="ninefold").output
