"""Who makes attestation documents, on the node's side: the enclave asks one of these.

nitro        the security module of an AWS Nitro enclave, through its device
development  a signer of our own under a root of this network's own: the same format, not hardware
"""

from typing import Protocol

from avow.methods.tee.attesters.development import DevelopmentAttester, development_root
from avow.methods.tee.attesters.nitro import NitroAttester

__all__ = ["Attester", "DevelopmentAttester", "NitroAttester", "development_root"]


class Attester(Protocol):
    """Makes documents that `verify.verify_attestation` accepts under `root` while they are fresh."""

    @property
    def name(self) -> str: ...

    @property
    def hardware(self) -> bool:
        """Whether a hardware vendor's root stands behind it."""
        ...

    @property
    def root(self) -> bytes:
        """The certificate (DER) that its documents chain to."""
        ...

    def attest(
        self, public_key: bytes | None = None, user_data: bytes | None = None, nonce: bytes | None = None
    ) -> bytes:
        """A fresh document over at most 1,024, 512 and 512 bytes, in its low-S form.

        May block for seconds. Raises AttesterUnavailable, AttesterRefused.
        """
        ...
