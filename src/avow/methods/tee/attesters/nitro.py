"""Attestation by the AWS Nitro security module of the enclave that this process runs in."""

import fcntl
from pathlib import Path

from avow.methods.tee.attesters.nsm import DEVICE, Ioctl, SecurityModule
from avow.methods.tee.document import low_s_form
from avow.methods.tee.errors import AttestationError, AttesterRefused
from avow.methods.tee.roots import AWS_NITRO_ROOT_G1


class NitroAttester:
    """Opens the device for each document: one is made about once an hour."""

    name = "nitro"
    hardware = True
    root = AWS_NITRO_ROOT_G1

    def __init__(self, device: Path = DEVICE, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._device = device
        self._ioctl = ioctl

    def attest(
        self, public_key: bytes | None = None, user_data: bytes | None = None, nonce: bytes | None = None
    ) -> bytes:
        """A fresh document in its low-S form: the module signs with either S, the verifier accepts one."""
        with SecurityModule(self._device, ioctl=self._ioctl) as module:
            document = module.attestation(user_data=user_data, nonce=nonce, public_key=public_key)
        try:
            return low_s_form(document)
        except AttestationError as error:
            raise AttesterRefused(f"the security module's document is malformed: {error.detail}") from error
