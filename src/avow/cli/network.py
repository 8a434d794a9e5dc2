"""`avow up`, and each of its processes alone: thin wrappers, so that one program starts them all.

`chain`, `enclave`, `node` and `gateway` pass their options on as they are; `avow node --help` shows the process's own help.
"""

import sys
from importlib import import_module
from typing import Any

import click

from avow.errors import Unavailable

_PROCESSES = {
    "chain": ("avow.nodes.full", "Order, verify and record settlements: a full node."),
    "enclave": ("avow.nodes.enclave_process", "Hold the key, run the engine, sign: an enclave."),
    "node": ("avow.nodes.inference", "Answer jobs, settle what was answered: an inference node."),
    "gateway": ("avow.nodes.gateway.__main__", "Speak OpenAI's API in front of nodes: a gateway."),
}


class NotInstalled(Unavailable):
    """The parts that run a network are not installed here."""

    code = "not_installed"


def node_module(name: str) -> Any:
    """A module of the node's side. Raises NotInstalled when its packages are not there."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("avow"):
            raise
        raise NotInstalled(
            f"running a network needs {error.name}, which is not installed", hint="pip install 'avow[node]'"
        ) from error


def _process(name: str) -> click.Command:
    module, text = _PROCESSES[name]

    @click.command(
        name,
        help=text,
        short_help=text,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    @click.argument("options", nargs=-1, type=click.UNPROCESSED)
    def run(options: tuple[str, ...]) -> int:
        main = node_module(module).main
        sys.argv = [f"avow {name}", *options]
        try:
            main()
        except SystemExit as stopped:
            return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        return 0

    return run


chain = _process("chain")
enclave = _process("enclave")
node = _process("node")
gateway = _process("gateway")
