"""Growing a network of this machine: one more node, and power by governance's transaction."""

from pathlib import Path

from avow.chain.modules import validators
from avow.consensus.cometbft.configuration import StateSync
from avow.consensus.cometbft.rpc import CometRpc
from avow.consensus.home import load_or_create_key
from avow.nodes.chain_client import ChainClient
from avow.nodes.full import FOLDER, VALIDATOR_KEY
from avow.nodes.gateway.account import account_key
from avow.nodes.net import control
from avow.nodes.net.errors import NotUp
from avow.nodes.net.layout import GOVERNANCE, ValidatorPlace, add, load


async def add_node(home: Path, *, from_snapshot: bool = False) -> ValidatorPlace:
    """Make a node, and let the network's process start it. Raises NotUp, RpcFailed (nobody to learn the state from)."""
    state_sync = await trusted(home) if from_snapshot else None
    place = add(home, state_sync=state_sync)
    try:
        await control.ask(home, "reload")
    except NotUp:
        if from_snapshot:
            raise
    return place


async def trusted(home: Path) -> StateSync:
    """The newest block of a network that its own operator runs: known without anybody's word."""
    layout = load(home)
    first = CometRpc(f"tcp://127.0.0.1:{layout.validators[0].comet_rpc_port}")
    try:
        height = int((await first.status())["sync_info"]["latest_block_height"])
        ((header, _),) = await first.signed_headers([height])
    finally:
        await first.close()
    ports = [place.comet_rpc_port for place in layout.validators]
    servers = tuple(f"127.0.0.1:{port}" for port in (ports * 2)[: max(2, len(ports))])
    return StateSync(servers, height, header.hash.hex().upper())


def validator_key(place: ValidatorPlace) -> bytes:
    """The public key by which the node would validate."""
    return load_or_create_key(Path(place.home) / FOLDER / VALIDATOR_KEY).public_key().public_bytes_raw()


async def set_power(home: Path, key: bytes, power: int) -> int:
    """Governance's transaction; the height of its block. In force two blocks later."""
    layout = load(home)
    url = f"http://127.0.0.1:{layout.validators[0].rpc_port}"
    async with ChainClient(url, account_key(home / GOVERNANCE)) as client:
        included = await client.transact(validators.ADDRESS, "setPower", key, power)
    return included.height
