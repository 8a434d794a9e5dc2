"""A network's folders: keys, genesis and configuration of each validator.

Rules:
1. HOME/net.json says what there is; HOME/validatorN is a home of its own, as a server would have it: chain/genesis.cbor,
   chain/validator.key, chain/cometbft. All validators have the same genesis.
2. HOME/keys/governance holds the governance account: it alone changes the validators.
3. Ports are fixed when the network is made: BLOCK of them for each validator, from `port` on.
4. With `relay`, validators know each other by ports of the network's process, which passes everything on and can part them.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avow.chain.genesis import AllowedMeasurement, Genesis
from avow.consensus.cometbft.configuration import Folder, Settings, StateSync, node_identity, write_folder
from avow.consensus.home import load_or_create_key
from avow.errors import EncodingError
from avow.home import private_folder, write_private
from avow.nodes.full import COMETBFT, FOLDER, GENESIS, VALIDATOR_KEY
from avow.nodes.gateway.account import account_address
from avow.nodes.net.errors import NetworkExists, NotUp, UnknownValidator

FILE = "net.json"
GOVERNANCE = Path("keys") / "governance"
FUNDS_WEI = 10**27
HEARTBEAT_MS = 2_000
DEFAULT_PORT = 26_600
BLOCK = 10
RELAYS = 1_000
"""Relay ports begin so far above `port`."""
MAX_VALIDATORS = 64
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ValidatorPlace:
    """A validator of a network on one machine. `node_id`: its name among peers."""

    name: str
    index: int
    home: str
    p2p_port: int
    comet_rpc_port: int
    rpc_port: int
    node_id: str

    @property
    def comet(self) -> Folder:
        return Folder(Path(self.home) / FOLDER / COMETBFT)


@dataclass(frozen=True, slots=True)
class Layout:
    """All of net.json."""

    chain_id: str
    port: int
    relay: bool
    validators: tuple[ValidatorPlace, ...]

    def validator(self, name: str) -> ValidatorPlace:
        """By name or number. Raises UnknownValidator."""
        for place in self.validators:
            if name in (place.name, str(place.index)):
                return place
        names = ", ".join(place.name for place in self.validators)
        raise UnknownValidator(f"there is no {name}; there are {names}", name=name)

    def relay_port(self, source: int, target: int) -> int:
        """Where validator `source` reaches validator `target` (rule 4)."""
        return self.port + RELAYS + source * MAX_VALIDATORS + target

    def peers_of(self, index: int) -> tuple[str, ...]:
        return tuple(
            f"{other.node_id}@{_LOOPBACK}:{self.relay_port(index, other.index) if self.relay else other.p2p_port}"
            for other in self.validators
            if other.index != index
        )


@dataclass(frozen=True, slots=True)
class NetConfig:
    """`accounts` are funded besides governance; `measurements` and `attestation_roots` go into the genesis."""

    home: Path
    validators: int = 4
    port: int = DEFAULT_PORT
    heartbeat_ms: int = HEARTBEAT_MS
    relay: bool = False
    mempool_type: str = "flood"
    accounts: tuple[bytes, ...] = ()
    attestation_roots: tuple[bytes, ...] = ()
    measurements: tuple[AllowedMeasurement, ...] = ()
    retain_blocks: int = 0


def create(config: NetConfig) -> Layout:
    """Make a network. Raises NetworkExists."""
    home = private_folder(config.home)
    if (home / FILE).exists():
        raise NetworkExists(
            "there is a network in this folder already",
            hint="`avow net up` runs it; --home names another folder",
            home=str(home),
        )
    folders = [home / f"validator{index}" for index in range(config.validators)]
    keys = [load_or_create_key(private_folder(folder / FOLDER) / VALIDATOR_KEY) for folder in folders]
    governance = account_address(home / GOVERNANCE)
    genesis = Genesis(
        time_ms=time.time_ns() // 1_000_000,
        governance=governance,
        treasury=governance,
        accounts=tuple(sorted(dict.fromkeys((governance, *config.accounts), FUNDS_WEI).items())),
        validators=tuple((key.public_key().public_bytes_raw(), 10) for key in keys),
        attestation_roots=config.attestation_roots,
        measurements=config.measurements,
        heartbeat_ms=config.heartbeat_ms,
        retain_blocks=config.retain_blocks,
    )
    layout = Layout(genesis.chain_id, config.port, config.relay, ())
    layout = Layout(
        genesis.chain_id,
        config.port,
        config.relay,
        tuple(_place(layout, index, folder) for index, folder in enumerate(folders)),
    )
    for place in layout.validators:
        write_validator(layout, place, genesis, mempool_type=config.mempool_type)
    write_private(home / "genesis.cbor", genesis.to_bytes())
    save(home, layout)
    return layout


def add(home: Path, *, state_sync: StateSync | None = None) -> ValidatorPlace:
    """One more node for a network on this machine: it follows, and validates once governance gives it power.

    Raises NotUp when there is no network.
    """
    layout = load(home)
    folder = home / f"validator{len(layout.validators)}"
    load_or_create_key(private_folder(folder / FOLDER) / VALIDATOR_KEY)
    place = _place(layout, len(layout.validators), folder)
    layout = Layout(layout.chain_id, layout.port, layout.relay, (*layout.validators, place))
    genesis = Genesis.from_bytes((home / "genesis.cbor").read_bytes())
    write_validator(layout, place, genesis, state_sync=state_sync)
    save(home, layout)
    return place


def _place(layout: Layout, index: int, folder: Path) -> ValidatorPlace:
    first = layout.port + BLOCK * index
    identity = node_identity(Folder(private_folder(folder / FOLDER / COMETBFT)))
    return ValidatorPlace(folder.name, index, str(folder.absolute()), first, first + 1, first + 2, identity)


def write_validator(
    layout: Layout,
    place: ValidatorPlace,
    genesis: Genesis,
    *,
    mempool_type: str = "flood",
    state_sync: StateSync | None = None,
) -> None:
    """One validator's files; what is there already stays."""
    settings = Settings(
        moniker=place.name,
        p2p_address=f"tcp://{_LOOPBACK}:{place.p2p_port}",
        rpc_address=f"tcp://{_LOOPBACK}:{place.comet_rpc_port}",
        persistent_peers=layout.peers_of(place.index),
        pex=False,
        local=True,
        mempool_type=mempool_type,
        state_sync=state_sync,
    )
    write_home(Path(place.home), genesis, settings)


def write_home(home: Path, genesis: Genesis, settings: Settings) -> Folder:
    """A validator's home from a genesis: what `avow chain --engine cometbft` runs on. Raises NetworkExists for another chain's."""
    chain = private_folder(home / FOLDER)
    if not (chain / GENESIS).exists():
        write_private(chain / GENESIS, genesis.to_bytes())
    elif (chain / GENESIS).read_bytes() != genesis.to_bytes():
        raise NetworkExists("this home belongs to another chain", home=str(home))
    folder = Folder(chain / COMETBFT)
    write_folder(folder, genesis, load_or_create_key(chain / VALIDATOR_KEY), settings)
    return folder


def save(home: Path, layout: Layout) -> None:
    write_private(home / FILE, json.dumps(asdict(layout), indent=2).encode() + b"\n")


def load(home: Path) -> Layout:
    """Raises NotUp when there is no network here, EncodingError for a damaged file."""
    try:
        value = json.loads((home / FILE).read_bytes())
        places = tuple(ValidatorPlace(**item) for item in value["validators"])
        return Layout(value["chain_id"], value["port"], value["relay"], places)
    except FileNotFoundError:
        raise NotUp("there is no network in this folder", hint="`avow net init` makes one", home=str(home)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise EncodingError(f"{FILE} is damaged", file=str(home / FILE)) from error


def summary(layout: Layout) -> list[dict[str, Any]]:
    """Where each validator is, for people and programs."""
    return [
        {
            "name": place.name,
            "rpc": f"http://{_LOOPBACK}:{place.rpc_port}",
            "cometbft": f"http://{_LOOPBACK}:{place.comet_rpc_port}",
            "p2p": f"{place.node_id}@{_LOOPBACK}:{place.p2p_port}",
            "home": place.home,
        }
        for place in layout.validators
    ]


def names(layout: Layout, given: Sequence[str]) -> list[ValidatorPlace]:
    """The validators named, or all."""
    return [layout.validator(name) for name in given] if given else list(layout.validators)
