"""The user's accounts: secp256k1 keys in HOME/keys/<name>.key, 32 bytes as hex, readable by their owner alone.

A private key is read to sign and never shown. Addresses are shown with the checksum of EIP-55.
"""

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from coincurve import PrivateKey

from avow.errors import EncodingError, InputError, NotFound
from avow.home import write_private
from avow.receipt.requester import address_of, keccak256

FOLDER = "keys"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Account:
    """A named account. `private_key`: 32 bytes."""

    name: str
    address: bytes
    private_key: bytes = field(repr=False)


def checksummed(address: bytes) -> str:
    """The address as text, upper and lower case as EIP-55 has it."""
    digits = address.hex()
    digest = keccak256(digits.encode()).hex()
    pairs = zip(digits, digest, strict=False)
    return "0x" + "".join(digit.upper() if int(nibble, 16) >= 8 else digit for digit, nibble in pairs)


class Accounts:
    """The accounts under one HOME."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def create(self, name: str) -> Account:
        """A new account with a key of the system's randomness. Raises InputError when the name is taken or no name."""
        path = self._path(name)
        if path.exists():
            raise InputError(f"there is an account {name} already", hint="`avow key show` shows its address")
        write_private(path, secrets.token_bytes(32).hex().encode() + b"\n")
        return self.load(name)

    def load(self, name: str) -> Account:
        """Raises NotFound, or EncodingError for a file that holds no key."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                text = file.read(256)
        except FileNotFoundError:
            raise NotFound(f"there is no account {name}", hint=f"`avow key create {name}` makes it") from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        return Account(name, *_key(text, path))

    def all(self) -> list[Account]:
        """By name; files that hold no key are an EncodingError."""
        return [self.load(path.stem) for path in sorted(self.folder.glob("*.key"))]

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError("an account's name is letters, digits, dots, dashes and underscores, at most 64")
        return self.folder / f"{name}.key"


def _key(text: bytes, path: Path) -> tuple[bytes, bytes]:
    """Address and private key of a file's content."""
    secret, public = b"", b""
    try:
        secret = bytes.fromhex(text.decode("ascii").strip().removeprefix("0x"))
        if len(secret) == 32:
            public = PrivateKey(secret).public_key.format(compressed=False)
    except ValueError:
        public = b""
    if not public:
        raise EncodingError(f"{path} does not hold a private key (32 bytes as hex)")
    return address_of(public), secret
