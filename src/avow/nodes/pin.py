"""Where a process' trust in the chain's headers begins, and the policy of a network whose headers are trusted.

Rules:
1. Given on the command line (--trust): a policy's file, or HEIGHT:HASH of a block. That decides, whoever is asked.
2. Else the newest policy for the chain among HOME/trust.json and HOME/pins/*.json. Another machine's node is asked with one or not at
   all: TrustNotPinned says what to do.
3. A chain's node on this machine is the operator's own process: where no policy is for its chain, or the policy has expired, the first
   block is taken as it comes.
4. A policy for readers is built from a header that is trusted and from the genesis, whose hash the chain id is: nothing of it is a
   node's word.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from avow.chain.genesis import Genesis
from avow.errors import InputError, TrustNotPinned
from avow.methods.tee.roots import HARDWARE_ROOTS
from avow.nodes.endpoints import Endpoints
from avow.receipt.headers import SignedBlock
from avow.receipt.trust import MAX_POLICY, AttestationRoot, TrustPolicy

POLICY = "trust.json"
PINS = "pins"
TRUST_HELP = "where trust in the chain's headers begins: a policy's file, or HEIGHT:HASH [HOME/trust.json or HOME/pins]"
_BLOCK = re.compile(r"([1-9][0-9]{0,18}):(?:0x)?([0-9a-fA-F]{64})\Z")


@dataclass(frozen=True, slots=True)
class BlockPin:
    """The header of a height, by its hash (32 bytes)."""

    height: int
    hash: bytes


Pin = BlockPin | TrustPolicy


def find_pin(home: Path, chain: str, given: str | None, chain_id: str | None = None) -> Pin | None:
    """Rules 1 to 3; None: the first block is taken. `chain`: addresses as Endpoints.parse takes them; `chain_id` where it is known.

    Raises TrustNotPinned, InputError, BadPolicy.
    """
    if given is not None:
        block = _BLOCK.match(given)
        if block:
            return BlockPin(int(block[1]), bytes.fromhex(block[2]))
        policy = _read(Path(given))
        if chain_id not in (None, policy.chain_id):
            raise TrustNotPinned(f"the policy is for {policy.chain_id}, the chain's node is on {chain_id}")
        return policy
    files = [file for file in (home / POLICY, *sorted((home / PINS).glob("*.json"))) if file.exists()]
    fitting = [policy for policy in map(_read, files) if chain_id in (None, policy.chain_id)]
    if fitting:
        return max(fitting, key=lambda policy: policy.time_ms)
    if is_own(chain):
        return None
    raise TrustNotPinned(
        "the chain's node is on another machine, and nothing is pinned to judge it by",
        hint=f"put the network's policy at {home / POLICY}, or give --trust FILE or --trust HEIGHT:HASH",
    )


def is_own(chain: str) -> bool:
    """Whether every address can only be this machine."""
    return all(Endpoints.is_loopback(url) for url in Endpoints.parse(chain).urls)


def _read(path: Path) -> TrustPolicy:
    try:
        with path.open("rb") as file:
            return TrustPolicy.from_json(file.read(MAX_POLICY + 1))
    except OSError as error:
        raise InputError(f"cannot read the trust policy {path}: {error.strerror}") from error


def policy_of(genesis: Genesis, block: SignedBlock) -> TrustPolicy:
    """Rule 4: what pins this network at a block."""
    return TrustPolicy(
        chain_id=genesis.chain_id,
        height=block.header.height,
        time_ms=block.header.time_ns // 1_000_000,
        validators=tuple(block.validators),
        attestation_roots=tuple([_root(certificate) for certificate in genesis.attestation_roots]),
        stake=genesis.optimistic.stake,
    )


def _root(certificate: bytes) -> AttestationRoot:
    """A genesis root as policies name it. Only a hardware vendor's published root is called by its name."""
    hardware = hashlib.sha256(certificate).digest() in HARDWARE_ROOTS
    name = "AWS Nitro Enclaves" if hardware else "development enclave, not hardware"
    return AttestationRoot(name, "nitro" if hardware else "development", certificate)
