"""What a network on one machine is made of: its programs, its accounts, its genesis."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from avow.chain.genesis import AllowedMeasurement
from avow.methods.tee.attesters import development_root
from avow.models.catalogue import entries, install
from avow.models.errors import UnknownProgram
from avow.models.store import Progress, Store, no_progress
from avow.nodes.enclave_process import development_attester
from avow.nodes.full import create_network
from avow.nodes.gateway.account import account_address
from avow.receipt.finality import OptimisticParameters
from avow.receipt.statement import Method

FUNDS_WEI = 10**27
DEFAULT_MODEL = "smollm2-135m-instruct"
CLASSIFIER = "magika"
EXACT_CLASSIFIER = "magika-exact"

COMPILER = ("numba", "onnx")
"""What it takes to compile an exact program and to run it (`avow[exact,compile]`)."""


def programs_for(model: str) -> tuple[str, ...]:
    """A chat model and the classifier, which where it can be made is there as an exact program too."""
    exact = (EXACT_CLASSIFIER,) if all(find_spec(name) for name in COMPILER) else ()
    return tuple(dict.fromkeys((model, CLASSIFIER, *exact)))


def install_programs(home: Path, names: Sequence[str], progress: Progress = no_progress) -> tuple[bytes, ...]:
    """Programs that are in the store, or in the catalogue and fetched now; their ids."""
    store = Store(home)
    known = {entry.name for entry in entries()}
    return tuple(install(store, name, progress) if name in known else store.find(name).program_id for name in names)


def methods_of(home: Path, program: bytes) -> frozenset[Method]:
    """By which methods a network here answers with a program: by optimistic too if it is exact."""
    try:
        engine = Store(home).get(program).manifest.engine
    except UnknownProgram:  # code stands in for it (tests)
        engine = ""
    both = {Method.VANILLA, Method.TEE}
    return frozenset(both | {Method.OPTIMISTIC} if engine == "exact" else both)


@dataclass(frozen=True, slots=True)
class LocalAccounts:
    """The accounts of a home's network. Their keys are made when they are asked for the first time."""

    home: Path

    @property
    def governance(self) -> Path:
        return self.home / "keys" / "governance"

    @property
    def operator(self) -> Path:
        return self.home / "node" / "key"

    @property
    def payer(self) -> Path:
        return self.home / "gateway" / "key"

    @property
    def watcher(self) -> Path:
        return self.home / "watcher" / "key"

    def addresses(self) -> dict[str, str]:
        """By name, as text."""
        names = ("governance", "operator", "payer", "watcher")
        return {name: "0x" + account_address(getattr(self, name)).hex() for name in names}


def measurement_of(home: Path, programs: Sequence[bytes]) -> bytes:
    """Of the enclave as this code and these programs make it."""
    return development_attester(home, programs).measurement


def make_genesis(home: Path, programs: Sequence[bytes]) -> str:
    """The chain id of the network in `home`, which is made now if there is none: all accounts funded, the watcher appointed."""
    accounts = LocalAccounts(home)
    files = (accounts.governance, accounts.operator, accounts.payer, accounts.watcher)
    addresses = [account_address(file) for file in files]
    root, _ = development_root(home)
    genesis = create_network(
        home,
        governance=addresses[0],
        accounts=[(address, FUNDS_WEI) for address in addresses],
        attestation_roots=[root],
        measurements=[AllowedMeasurement(measurement_of(home, programs), None, 0, None)],
        optimistic=OptimisticParameters(watchers=(addresses[3],)),
    )
    return genesis.chain_id
