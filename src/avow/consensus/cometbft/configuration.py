"""CometBFT's folder: keys, genesis and settings in its own formats, made from ours.

Rules:
1. The validator's key is the same Ed25519 key that the embedded engine would use; CometBFT gets a copy in its own format. Its
   record of what it signed last (data/priv_validator_state.json) is made once and never replaced: it prevents double signing.
2. genesis.json follows from our genesis: the same chain id, time, validators and block limits; its `app_state` is our genesis in
   base64url. Two machines with one genesis write the same bytes.
3. config.toml is written once and then the operator's, who may edit it. What must agree with our process (the ABCI socket, the
   heartbeat) is passed on the command line and wins.
4. Sockets stand in the folder; where its path is too long for one, in a private folder under the system's temporary one.

Layout: config/{config.toml,genesis.json,node_key.json,priv_validator_key.json}, data/, cometbft.log.
"""

import json
import os
import tempfile
import tomllib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.genesis import Genesis
from avow.consensus.cometbft.errors import BadConfiguration
from avow.home import private_folder, write_private
from avow.receipt.encoding import base64url
from avow.receipt.headers import validator_address

PUBLIC_KEY = "tendermint/PubKeyEd25519"
PRIVATE_KEY = "tendermint/PrivKeyEd25519"
MAX_BATCH_CALLS = 512
EVIDENCE_BLOCKS = 100_000
EVIDENCE_NS = 48 * 3600 * 10**9
MEMPOOL_TYPES = ("flood", "app")
_MAX_SOCKET_PATH = 100
_MAX_CONFIG = 1024 * 1024
_LOOPBACK = "tcp://127.0.0.1"


@dataclass(frozen=True, slots=True)
class StateSync:
    """Join from a snapshot. `rpc_servers`: two or more, host:port; the trusted header is one that the operator knows."""

    rpc_servers: tuple[str, ...]
    trust_height: int
    trust_hash: str
    trust_period_s: int = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator chooses. Addresses are "tcp://host:port"; peers are "id@host:port"."""

    moniker: str = "avow"
    p2p_address: str = f"{_LOOPBACK}:26656"
    external_address: str = ""
    rpc_address: str = f"{_LOOPBACK}:26657"
    persistent_peers: tuple[str, ...] = ()
    private_peer_ids: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    pex: bool = True
    local: bool = False
    """All peers on one machine: several from one address, none of them routable."""
    mempool_type: str = "flood"
    timeout_commit_ms: int = 100
    timeout_propose_ms: int = 1_000
    gossip_sleep_ms: int = 10
    flush_throttle_ms: int = 3
    """Every message waits so long for others to share its packet: proposal, prevote and precommit one after another."""
    state_sync: StateSync | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """Where things are."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config" / "config.toml"

    @property
    def genesis(self) -> Path:
        return self.path / "config" / "genesis.json"

    @property
    def node_key(self) -> Path:
        return self.path / "config" / "node_key.json"

    @property
    def validator_key(self) -> Path:
        return self.path / "config" / "priv_validator_key.json"

    @property
    def signed_state(self) -> Path:
        return self.path / "data" / "priv_validator_state.json"

    @property
    def log(self) -> Path:
        return self.path / "cometbft.log"

    @property
    def process(self) -> Path:
        return self.path / "cometbft.pid"

    @property
    def abci_socket(self) -> Path:
        return self._socket("abci.sock")

    @property
    def rpc_socket(self) -> Path:
        return self._socket("rpc.sock")

    def _socket(self, name: str) -> Path:
        """Rule 4."""
        path = self.path.absolute() / name
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            return path
        short = sha256(os.fsencode(self.path.absolute())).hexdigest()[:16]
        return private_folder(Path(tempfile.gettempdir()) / f"avow-{os.getuid()}-{short}") / name


def write_folder(folder: Folder, genesis: Genesis, validator: Ed25519PrivateKey, settings: Settings) -> None:
    """Make what is not there yet. Raises BadConfiguration."""
    if settings.mempool_type not in MEMPOOL_TYPES:
        raise BadConfiguration("an unknown kind of mempool", kind=settings.mempool_type)
    private_folder(folder.path)
    write_private(folder.genesis, genesis_json(genesis))
    write_private(folder.validator_key, _json(_validator_key(validator)))
    _write_once(folder.signed_state, _json({"height": "0", "round": 0, "step": 0}))
    node_identity(folder)
    _write_once(folder.config, config_toml(folder, genesis, settings).encode())


def node_identity(folder: Folder) -> str:
    """The node's id among peers (hexadecimal); its key is made on first use."""
    _write_once(folder.node_key, _json({"priv_key": _private_key(Ed25519PrivateKey.generate())}))
    try:
        stored = json.loads(folder.node_key.read_bytes())["priv_key"]["value"]
        seed = _from_base64(stored)[:32]
        key = Ed25519PrivateKey.from_private_bytes(seed)
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfiguration("the node's key file is damaged", file=folder.node_key.name) from error
    return validator_address(key.public_key().public_bytes_raw()).hex()


def _from_base64(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text, validate=True)


def _write_once(path: Path, data: bytes) -> None:
    if not path.exists():
        write_private(path, data)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _private_key(key: Ed25519PrivateKey) -> dict[str, str]:
    both = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return {"type": PRIVATE_KEY, "value": b64encode(both).decode()}


def _public_key(public_key: bytes) -> dict[str, str]:
    return {"type": PUBLIC_KEY, "value": b64encode(public_key).decode()}


def _validator_key(key: Ed25519PrivateKey) -> dict[str, Any]:
    public_key = key.public_key().public_bytes_raw()
    return {
        "address": validator_address(public_key).hex().upper(),
        "pub_key": _public_key(public_key),
        "priv_key": _private_key(key),
    }


def genesis_json(genesis: Genesis) -> bytes:
    """Rule 2."""
    seconds, milliseconds = divmod(genesis.time_ms, 1000)
    time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{milliseconds:03d}000000Z"
    retained = genesis.retain_blocks or EVIDENCE_BLOCKS
    return _json(
        {
            "genesis_time": time,
            "chain_id": genesis.chain_id,
            "initial_height": "1",
            "consensus_params": {
                "block": {"max_bytes": str(genesis.block_max_bytes), "max_gas": str(genesis.block_gas_limit)},
                "evidence": {
                    "max_age_num_blocks": str(min(EVIDENCE_BLOCKS, retained)),
                    "max_age_duration": str(EVIDENCE_NS),
                    "max_bytes": str(min(1024 * 1024, genesis.block_max_bytes // 4)),
                },
                "validator": {"pub_key_types": ["ed25519"]},
                "version": {"app": "0"},
                "abci": {"vote_extensions_enable_height": "0"},
            },
            "validators": [
                {
                    "address": validator_address(public_key).hex().upper(),
                    "pub_key": _public_key(public_key),
                    "power": str(power),
                    "name": "",
                }
                for public_key, power in genesis.validators
            ],
            "app_hash": "",
            "app_state": base64url(genesis.to_bytes()),
        }
    )


# --- config.toml ------------------------------------------------------------------------------------------------------


def config_toml(folder: Folder, genesis: Genesis, settings: Settings) -> str:
    """The settings that differ from CometBFT's defaults (config/toml.go, v0.40), and those that an operator looks for."""
    return "\n".join(
        [
            "# Written by avow for CometBFT v0.40; yours to edit. Addresses, peers and limits are read from here.",
            *_lines({"moniker": settings.moniker, "log_level": "*:error", "db_backend": "goleveldb"}),
            *_section("rpc", _rpc(folder, settings)),
            *_section("p2p", _p2p(settings)),
            *_section("mempool", _mempool(genesis, settings)),
            *_section("statesync", _state_sync(settings.state_sync)),
            *_section("consensus", _consensus(genesis, settings)),
            *_section("tx_index", {"indexer": "null"}),
            "",
        ]
    )


def _rpc(folder: Folder, settings: Settings) -> dict[str, Any]:
    return {
        "laddr": f"{settings.rpc_address},unix://{folder.rpc_socket}",
        "max_request_batch_size": MAX_BATCH_CALLS,
        "max_body_bytes": 64 * 1024 * 1024,
    }


def _p2p(settings: Settings) -> dict[str, Any]:
    return {
        "laddr": settings.p2p_address,
        "external_address": settings.external_address,
        "persistent_peers": ",".join(settings.persistent_peers),
        "private_peer_ids": ",".join(settings.private_peer_ids),
        "seeds": ",".join(settings.seeds),
        "pex": settings.pex,
        "addr_book_strict": not settings.local,
        "allow_duplicate_ip": settings.local,
        "flush_throttle_timeout": f"{settings.flush_throttle_ms}ms",
    }


def _mempool(genesis: Genesis, settings: Settings) -> dict[str, Any]:
    return {
        "type": settings.mempool_type,
        "max_tx_bytes": genesis.block_max_bytes,
        "recheck_timeout": "10s",
        "reap_interval": "20ms",
    }


def _consensus(genesis: Genesis, settings: Settings) -> dict[str, Any]:
    on_demand = settings.mempool_type == "flood"  # the application's mempool never wakes the chain by itself
    return {
        "timeout_propose": f"{settings.timeout_propose_ms}ms",
        "timeout_propose_delta": "500ms",
        "timeout_prevote": "500ms",
        "timeout_prevote_delta": "250ms",
        "timeout_precommit": "500ms",
        "timeout_precommit_delta": "250ms",
        "timeout_commit": f"{settings.timeout_commit_ms}ms",
        "skip_timeout_commit": False,
        "create_empty_blocks": not on_demand,
        "create_empty_blocks_interval": f"{empty_block_ms(genesis)}ms" if on_demand else "0s",
        "peer_gossip_sleep_duration": f"{settings.gossip_sleep_ms}ms",
    }


def empty_block_ms(genesis: Genesis) -> int:
    """How long CometBFT waits before an empty block: less than the heartbeat by what making one takes. Block time is that of the
    votes before, and so never a heartbeat behind.
    """
    return genesis.heartbeat_ms - min(genesis.heartbeat_ms // 5, 400)


def _state_sync(wanted: StateSync | None) -> dict[str, Any]:
    if wanted is None:
        return {"enable": False}
    if len(wanted.rpc_servers) < 2:
        raise BadConfiguration("state sync needs two RPC servers: the light client compares them")
    return {
        "enable": True,
        "rpc_servers": ",".join(wanted.rpc_servers),
        "trust_height": wanted.trust_height,
        "trust_hash": wanted.trust_hash,
        "trust_period": f"{wanted.trust_period_s}s",
        "discovery_time": "5s",
    }


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *_lines(values)]


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return json.dumps(value)  # a JSON string is a TOML basic string


@dataclass(frozen=True, slots=True)
class Configured:
    """What our process must know of config.toml as it is now."""

    mempool_type: str
    rpc_addresses: tuple[str, ...]


def read_config(folder: Folder) -> Configured:
    """Raises BadConfiguration."""
    try:
        data = folder.config.read_bytes()
        if len(data) > _MAX_CONFIG:
            raise BadConfiguration("config.toml is too large", size=len(data))
        values = tomllib.loads(data.decode())
        mempool = values.get("mempool", {}).get("type", "flood")
        addresses = str(values.get("rpc", {}).get("laddr", "")).replace(" ", "").split(",")
    except FileNotFoundError:
        raise BadConfiguration("there is no config.toml", hint="`avow net init` makes one") from None
    except (ValueError, AttributeError) as error:
        raise BadConfiguration("config.toml cannot be read") from error
    if mempool not in MEMPOOL_TYPES:
        raise BadConfiguration("this kind of mempool does not work with avow", kind=mempool)
    return Configured(mempool, tuple(address for address in addresses if address))
