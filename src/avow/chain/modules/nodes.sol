// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// The keys that sign statements, what backs them, and what their operators charge.
/// At 0x0000000000000000000000000000000000000a03.
///
/// Methods: 0 vanilla, 1 optimistic, 2 tee. States of a key: 0 registered, 1 active, 2 draining, 3 retired, 4 revoked.
/// Key ids are SHA-256 of a tag and the signing key. Times are block time in milliseconds; 2^64 - 1 means "no end".
interface Nodes {
    event KeyRegistered(bytes32 indexed key, address indexed operator, uint8 method, bytes32 measurement, uint8 state);
    event KeyChanged(bytes32 indexed key, uint8 state, uint64 untilMs);
    event KeyCompromised(bytes32 indexed key, uint64 fromHeight);
    event KeyAttested(bytes32 indexed key, bytes32 attestation, uint64 untilMs);
    event EquivocationProven(bytes32 indexed key, address indexed reporter, uint64 number);
    event MeasurementAllowed(bytes32 indexed measurement, bytes32 indexed program, uint64 fromMs, uint64 untilMs);
    event MeasurementWithdrawn(bytes32 indexed measurement, bytes32 indexed program);
    event PriceSet(address indexed operator, bytes32 indexed program, uint8 method, uint32 version, uint256 perUnit);

    error Refused(uint32 code);

    /// Register a key as the caller's. `attestation`: for tee an attestation document whose public key is `signingKey` and
    /// whose user data binds chain, caller, both keys and `blockHash`; for the others a COSE_Sign1 by the key over the same digest.
    /// `blockHash` is one that `beacon` gave within the last ten minutes. A tee key whose measurement is not allowed yet
    /// is registered but not active.
    function register(
        uint8 method,
        bytes calldata signingKey,
        bytes calldata transportKey,
        bytes32 blockHash,
        bytes calldata attestation
    ) external returns (bytes32 key);

    /// Register a new key as above, and drain the old one.
    function rotate(
        bytes32 oldKey,
        uint8 method,
        bytes calldata signingKey,
        bytes calldata transportKey,
        bytes32 blockHash,
        bytes calldata attestation
    ) external returns (bytes32 key);

    /// Make a registered key active, once its measurement is allowed.
    function activate(bytes32 key) external;

    /// Renew a tee key's attestation; the measurement must be the same.
    function reattest(bytes32 key, bytes32 blockHash, bytes calldata attestation) external;

    /// No new statements from now on; what was signed still settles, within the settlement window.
    function drain(bytes32 key) external;

    function retire(bytes32 key) external;

    /// By the operator or the governance account: nothing of this key settles from this block on.
    function revoke(bytes32 key) external;

    /// By the operator or the governance account: revoke, and name the height from which statements are not to be believed.
    /// Only governance names one before the current height.
    function compromised(bytes32 key, uint64 fromHeight) external;

    /// Two different statements, or histories, that one key signed under one number revoke it. Each is canonical CBOR
    /// [number, statement hash, head, COSE_Sign1]. Anyone may report.
    function reportEquivocation(bytes32 key, bytes calldata first, bytes calldata second) external;

    /// A delivered statement (as above) that is another, or has another history, in what the key signed later: canonical CBOR
    /// [number, head before the delivered number, statement hashes from there to number joined, COSE_Sign1]. Anyone may report.
    function reportSubstitution(bytes32 key, bytes calldata delivered, bytes calldata later) external;

    /// By governance: keys with this measurement may run `program` (0: any) from `fromMs` until `untilMs`.
    function allowMeasurement(bytes32 measurement, bytes32 program, uint64 fromMs, uint64 untilMs) external;

    function withdrawMeasurement(bytes32 measurement, bytes32 program) external;

    /// The caller's price in wei per unit; earlier versions stay chargeable for ten minutes.
    function setPrice(bytes32 program, uint8 method, uint256 perUnit) external returns (uint32 version);

    /// The record of a key (canonical CBOR), empty when there is none.
    function keyRecord(bytes32 key) external view returns (bytes memory record);

    function keyState(bytes32 key)
        external
        view
        returns (uint8 state, address operator, uint8 method, uint64 untilMs, uint64 compromisedFrom);

    /// Which proven fault revoked the key, and at which height: 1 equivocation, 2 a false void, 3 fraud, 4 a withheld trace; 0: none.
    function revocation(bytes32 key) external view returns (uint8 cause, uint64 height);

    function allowedMeasurement(bytes32 measurement, bytes32 program)
        external
        view
        returns (bool allowed, uint64 fromMs, uint64 untilMs);

    /// Version 0: no price is set.
    function price(address operator, bytes32 program, uint8 method)
        external
        view
        returns (uint32 version, uint256 perUnit);

    /// The newest block hash that a registration may bind.
    function beacon() external view returns (bytes32 blockHash, uint64 height, uint64 timeMs);
}
