"""The command line. Each group of commands is a module of its own, loaded when it is called.

Rules:
1. What a program asked for goes to standard output, everything else to standard error. With --json, standard output is one JSON value.
2. Exit codes: 0 done and everything holds, 1 something does not, or failed, 2 the input is not what the command takes, 130 Ctrl-C.
3. An error is one line with its reason, a hint where there is one, and never a traceback; with --json it is {"error": {…}}.
"""

from importlib import import_module
from typing import Any

import click

_COMMANDS: dict[str, tuple[str, str]] = {
    "ask": ("avow.cli.ask", "Ask a chat model; the answer is checked before you see it."),
    "infer": ("avow.cli.infer", "Run a model on a file; the answer is checked before you see it."),
    "verify": ("avow.cli.verify", "Check a receipt, offline."),
    "receipts": ("avow.cli.receipts", "The receipts kept on this machine."),
    "model": ("avow.cli.model", "The models on this machine: add, list, show, remove."),
    "compile": ("avow.cli.compile", "Compile a model into an exact program: integers, the same everywhere."),
    "key": ("avow.cli.key", "Your accounts: create, list, show."),
    "trust": ("avow.cli.trust", "Whom you trust: show it, pin it."),
    "status": ("avow.cli.status", "What runs, and how it is."),
    "watch": ("avow.cli.watch", "Run optimistic answers again, and challenge what is wrong."),
    "demo": ("avow.cli.demo", "Ask, stream and classify by each method; check and settle all of it."),
    "up": ("avow.cli.network", "Start a network on this machine."),
    "net": ("avow.cli.net", "Networks of several validators: make, run, disturb one."),
    "chain": ("avow.cli.network", "Run a full node alone."),
    "enclave": ("avow.cli.network", "Run an enclave alone."),
    "node": ("avow.cli.network", "Run an inference node alone."),
    "gateway": ("avow.cli.network", "Run a gateway alone."),
    "completion": ("avow.cli.completion", "Print the completion script of a shell."),
}
"""Name of a command → the module that has it (as `command`, or under its own name) and its help, so that listing loads none."""


class _Commands(click.Group):
    """Commands that are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in _COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, _COMMANDS, n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="avow", message="avow %(version)s")
def cli() -> None:
    """Run a model once; let anyone verify the answer."""


def main(arguments: list[str] | None = None) -> Any:
    """The program `avow`: runs one command and exits with its code."""
    from avow.cli.frame import run

    return run(cli, arguments)
