"""What all commands share: the options --home and --json, output, and the one place where errors become exit codes."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from avow.errors import AvowError, InputError, NotAReceipt, NotFound
from avow.home import home_folder

OK, FAILED, NOT_USABLE, INTERRUPTED = 0, 1, 2, 130

Command = TypeVar("Command", bound=Callable[..., Any])

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of keys, pins and receipts [$AVOW_HOME, ~/.avow].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value.")


def common(command: Command) -> Command:
    """The options --home and --json, for every command."""
    return home_option(json_option(command))


class Group(click.Group):
    """Lists its commands with their whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=200)) for name, command in commands])


def exit_code(error: AvowError) -> int:
    """Rule 2 of the package: what is wrong with the input is 2, everything else that fails is 1."""
    return NOT_USABLE if isinstance(error, InputError | NotAReceipt | NotFound) else FAILED


def printable(text: str) -> str:
    """Somebody else's words without the control characters by which they could steer a terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def say(text: str = "") -> None:
    """For people: standard error."""
    click.echo(text, err=True)


def put(text: str) -> None:
    """What was asked for: standard output."""
    click.echo(text)


def put_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(headings: list[str], rows: list[list[str]], *, title: str | None = None) -> None:
    """Rows for people, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(grid)


def mapping(pairs: list[tuple[str, str]]) -> None:
    """Names and values for people, one a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        put(f"{click.style(name.ljust(width), dim=True)}  {printable(value)}")


def resolve_home(home: Path | None) -> Path:
    return home_folder(home)


def run(command: click.Command, arguments: list[str] | None) -> NoReturn:
    """Run a command and exit: the one place where errors become messages and codes."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    try:
        code = command.main(args=given, prog_name="avow", standalone_mode=False)
        sys.stdout.flush()
    except AvowError as error:
        _report(error, as_json=as_json)
        sys.exit(exit_code(error))
    except click.exceptions.Abort:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        if as_json:
            put_json({"error": {"code": "usage", "detail": error.format_message()}})
        else:
            error.show()
        sys.exit(NOT_USABLE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is still in the buffer
        sys.exit(OK)
    except OSError as error:
        _report(InputError(str(error)), as_json=as_json)
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else OK)


def _report(error: AvowError, *, as_json: bool) -> None:
    if as_json:
        put_json({"error": error.as_json()})
        return
    code = error.fields.get("remote_code") or error.code
    say(f"{click.style('error', fg='red', bold=True)}: {printable(error.detail)} [{printable(str(code))}]")
    if error.hint:
        say(f"{click.style('hint', fg='cyan')}: {error.hint}")
