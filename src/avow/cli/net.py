"""`avow net`: a network of validators under CometBFT: made, run on this machine for development, looked at, disturbed."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from avow.cli.frame import FAILED, OK, Group, common, put, put_json, resolve_home, say, table
from avow.cli.network import node_module


@click.group(cls=Group)
def net() -> None:
    """A network of several validators (CometBFT). `avow up` is the network of one that needs nothing else."""


def _ask(home: Path | None, command: str, **parameters: Any) -> Any:
    module = node_module("avow.nodes.net.control")
    return asyncio.run(module.ask(resolve_home(home), command, **parameters))


@net.command()
@click.option("--validators", type=click.IntRange(1, 64), default=4, show_default=True, help="How many.")
@click.option(
    "--port", type=click.IntRange(1024, 60000), default=26600, show_default=True, help="The first of the ports."
)
@click.option(
    "--heartbeat-ms", type=click.IntRange(min=500), default=2000, show_default=True, help="An empty block so often."
)
@click.option(
    "--relay", is_flag=True, help="Let validators reach each other through the network's process, for `partition`."
)
@click.option("--mempool", type=click.Choice(["flood", "app"]), default="flood", show_default=True)
@click.option("--fund", multiple=True, metavar="ADDRESS", help="An account that has money from the start.")
@common
def init(
    validators: int,
    port: int,
    heartbeat_ms: int,
    relay: bool,
    mempool: str,
    fund: tuple[str, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Write keys, genesis and configuration of a new network into --home."""
    layout = node_module("avow.nodes.net.layout")
    config = layout.NetConfig(
        resolve_home(home),
        validators,
        port,
        heartbeat_ms,
        relay,
        mempool,
        tuple(_address(item) for item in fund),
    )
    _show_layout(layout.create(config), layout, as_json=as_json)


def _address(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != 20:
        raise click.BadParameter(f"{text} is no address")
    return data


def _show_layout(made: Any, layout: Any, *, as_json: bool) -> None:
    rows = layout.summary(made)
    if as_json:
        put_json({"chain_id": made.chain_id, "validators": rows})
        return
    put(f"chain id {made.chain_id}")
    table(
        ["validator", "rpc", "CometBFT", "peer"],
        [[row["name"], row["rpc"], row["cometbft"], row["p2p"]] for row in rows],
    )


@net.command()
@click.option("--genesis", "genesis_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--peer", multiple=True, metavar="ID@HOST:PORT", help="A node to connect to and to stay connected with.")
@click.option("--p2p", default="tcp://0.0.0.0:26656", show_default=True, help="Where peers reach this node.")
@click.option("--external", default="", metavar="HOST:PORT", help="This node's address as others see it.")
@click.option("--moniker", default="avow", show_default=True)
@click.option(
    "--sync-rpc", multiple=True, metavar="HOST:PORT", help="RPC of a node to learn the newest state from; two."
)
@click.option("--trust-height", type=click.IntRange(min=1), help="A height that you know, for --sync-rpc.")
@click.option("--trust-hash", help="Its block's hash.")
@common
def join(
    genesis_file: Path,
    peer: tuple[str, ...],
    p2p: str,
    external: str,
    moniker: str,
    sync_rpc: tuple[str, ...],
    trust_height: int | None,
    trust_hash: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Prepare --home to follow a network from its genesis file; `avow chain --engine cometbft` then runs it."""
    layout = node_module("avow.nodes.net.layout")
    configuration = node_module("avow.consensus.cometbft.configuration")
    genesis = node_module("avow.chain.genesis").Genesis.from_bytes(genesis_file.read_bytes())
    if bool(sync_rpc) != bool(trust_height and trust_hash):
        raise click.UsageError("--sync-rpc, --trust-height and --trust-hash go together")
    sync = configuration.StateSync(sync_rpc, trust_height, trust_hash.upper()) if sync_rpc and trust_hash else None
    settings = configuration.Settings(
        moniker=moniker, p2p_address=p2p, external_address=external, persistent_peers=peer, state_sync=sync
    )
    folder = layout.write_home(resolve_home(home), genesis, settings)
    identity = configuration.node_identity(folder)
    key = node_module("avow.nodes.full").load_or_create_key(folder.path.parent / "validator.key")
    made = {
        "chain_id": genesis.chain_id,
        "node_id": identity,
        "validator": key.public_key().public_bytes_raw().hex(),
        "config": str(folder.config),
    }
    if as_json:
        put_json(made)
    else:
        for name, value in made.items():
            put(f"{name:<10} {value}")


@net.command()
@click.option(
    "--snapshot-interval", type=click.IntRange(min=0), default=0, metavar="BLOCKS", help="Snapshots, so often."
)
@common
def up(snapshot_interval: int, home: Path | None, as_json: bool) -> None:
    """Run all validators of --home on this machine, until Ctrl-C or `avow net stop`."""
    run = node_module("avow.nodes.net.run")
    layout = node_module("avow.nodes.net.layout")
    node_module("avow.nodes.process").configure_logging()
    node_module("avow.consensus.cometbft.binary").find()

    async def main() -> None:
        import signal

        network = run.Net(resolve_home(home), snapshot_interval=snapshot_interval)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        asked = loop.create_task(stop.wait())
        try:
            starting = loop.create_task(network.start())
            await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _show_layout(network.layout, layout, as_json=as_json)
                put("ready") if not as_json else None
                sys.stdout.flush()
                over = loop.create_task(network.run())
                await asyncio.wait([over, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            await network.stop()

    asyncio.run(main())
    say("stopped")


@net.command()
@common
def status(home: Path | None, as_json: bool) -> int:
    """Height and state of each validator. Exit code 1 unless all are up."""
    found = _ask(home, "status")
    if as_json:
        put_json(found)
    else:
        rows = [
            [
                item["name"],
                item["state"],
                str(item.get("height", "")),
                str(item.get("block_hash", ""))[:18],
                str(item.get("waiting", "")),
                f"{item['chain'] or '-'}/{item['cometbft'] or '-'}",
                str(item["restarts"]),
            ]
            for item in found
        ]
        table(["validator", "state", "height", "block", "waiting", "processes", "restarts"], rows)
    return OK if all(item["state"] == "up" for item in found) else FAILED


@net.command()
@click.argument("validator", required=False)
@common
def stop(validator: str | None, home: Path | None, as_json: bool) -> None:
    """Stop a validator until it is started again; without a name, the network."""
    _put(_ask(home, "stop", **({"validator": validator} if validator else {})), as_json=as_json)


@net.command()
@click.argument("validator")
@common
def start(validator: str, home: Path | None, as_json: bool) -> None:
    """Start a validator that was stopped."""
    _put(_ask(home, "start", validator=validator), as_json=as_json)


@net.command()
@click.argument("validator")
@click.option("--process", type=click.Choice(["chain", "cometbft", "both"]), default="both", show_default=True)
@click.option(
    "--signal", "name", type=click.Choice(["KILL", "TERM", "STOP", "CONT"]), default="KILL", show_default=True
)
@common
def kill(validator: str, process: str, name: str, home: Path | None, as_json: bool) -> None:
    """Send a signal to a validator's processes; what ends is started again. STOP and CONT pause and resume it."""
    sent = _ask(home, "kill", validator=validator, process=process, signal=name)
    if as_json:
        put_json(sent)
    else:
        put(f"sent {name} to {', '.join(map(str, sent))}" if sent else "nothing of it runs")


@net.command()
@click.argument("validators", nargs=-1, required=True)
@common
def partition(validators: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Part these validators from all others (a network made with --relay), until `heal`."""
    parted = _ask(home, "partition", groups=[list(validators)])
    _put(
        parted,
        as_json=as_json,
        said=f"parted from the others: {', '.join(validators)}; `avow net heal` joins them again",
    )


@net.command()
@common
def heal(home: Path | None, as_json: bool) -> None:
    """Join parted validators again."""
    _put(_ask(home, "heal"), as_json=as_json, said="all validators reach each other again")


def _put(value: Any, *, as_json: bool, said: str = "") -> None:
    if as_json:
        put_json(value)
    else:
        put(said or str(value))
