"""What a reader expects of an attestation that holds: policies are values, checked in one place.

Rules, in order; each only if it is set, the first that fails decides:
1. The measurement is among the expected ones (PCR0, PCR1 and PCR2 as one value).
2. The bound public key, the user data and the nonce are, byte for byte, the expected ones. Absent is not empty.
3. It is no older than `max_age_ms`, and not from later than now by more than `max_ahead_ms`.

Pure: no clock, no randomness, no input or output.
"""

from collections.abc import Collection
from dataclasses import dataclass

from avow.methods.tee.errors import (
    FutureAttestation,
    StaleAttestation,
    UnexpectedMeasurement,
    UnexpectedNonce,
    UnexpectedPublicKey,
    UnexpectedUserData,
)
from avow.methods.tee.verify import Attestation


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to demand; None demands nothing of that field. Ages are in milliseconds."""

    measurements: Collection[bytes] | None = None
    public_key: bytes | None = None
    user_data: bytes | None = None
    nonce: bytes | None = None
    max_age_ms: int | None = None
    max_ahead_ms: int | None = None

    def check(self, attestation: Attestation, *, now_ms: int) -> None:
        """Raises the AttestationError of the first rule that `attestation` breaks."""
        if self.measurements is not None and attestation.measurement not in self.measurements:
            raise UnexpectedMeasurement(found=attestation.measurement.hex())
        if self.public_key is not None and attestation.public_key != self.public_key:
            raise UnexpectedPublicKey(expected=self.public_key.hex(), found=_hex(attestation.public_key))
        if self.user_data is not None and attestation.user_data != self.user_data:
            raise UnexpectedUserData(expected=self.user_data.hex(), found=_hex(attestation.user_data))
        if self.nonce is not None and attestation.nonce != self.nonce:
            raise UnexpectedNonce(expected=self.nonce.hex(), found=_hex(attestation.nonce))
        age_ms = now_ms - attestation.timestamp_ms
        if self.max_age_ms is not None and age_ms > self.max_age_ms:
            raise StaleAttestation(age_ms=age_ms, limit=self.max_age_ms)
        if self.max_ahead_ms is not None and -age_ms > self.max_ahead_ms:
            raise FutureAttestation(ahead_ms=-age_ms, limit=self.max_ahead_ms)


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()
