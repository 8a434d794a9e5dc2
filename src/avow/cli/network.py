"""`avow up`, and each of its processes alone: thin wrappers, so that one program starts them all.

`chain`, `enclave`, `node` and `gateway` pass their options on as they are; `avow node --help` shows the process's own help.
"""

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from avow.cli.frame import common, put, put_json, resolve_home, say
from avow.cli.progress import progress
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


@click.command()
@click.option("--model", help="The chat model, by its name in the catalogue or among your own [smollm2-135m-instruct].")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="The gateway's port; 0 picks one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The gateway's address.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per answer.")
@click.option("--slots", type=click.IntRange(min=1), default=4, show_default=True, help="Answers at once.")
@click.option("--demo", "with_demo", is_flag=True, help="Run `avow demo` once it is up.")
@common
def up(
    model: str | None,
    port: int,
    host: str,
    threads: int,
    slots: int,
    with_demo: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Start a network on this machine: chain, enclave, node and gateway. It runs until Ctrl-C."""
    module = node_module("avow.nodes.up")
    node_module("avow.nodes.process").configure_logging()
    folder = resolve_home(home)
    programs = module.programs_for(model or module.DEFAULT_MODEL)
    config = module.UpConfig(folder, port, host, programs, threads=threads, slots=slots)

    async def ready(state: dict[str, Any]) -> None:
        shown = module.describe(state)
        if with_demo:
            done = await asyncio.to_thread(_demo, state["url"], folder, as_json=as_json)
            state = state | {"demo": done}
            put("")
        if as_json:
            put_json(state)
        else:
            put(shown.rstrip("\n"))
        sys.stdout.flush()

    with progress(quiet=as_json) as callback:
        asyncio.run(module.up(config, ready, callback))
    say("stopped")


def _demo(url: str, home: Path, *, as_json: bool) -> Any:
    """The demo's JSON, or its display; a demo that fails leaves the network up, to be looked at."""
    from avow.cli.demo import demo_json, show_demo

    if as_json:
        return demo_json(url, home, home / "demo")
    if show_demo(url, home, home / "demo"):
        say(click.style("the demo did not hold; the network stays up", fg="red"))
    return None


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
