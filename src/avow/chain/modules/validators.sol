// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// Who validates, and with which power. At 0x0000000000000000000000000000000000000a06.
///
/// Keys are Ed25519 public keys. A change counts from the second block after the one that it stands in. A network with the
/// embedded engine has one validator for ever and takes no change.
interface Validators {
    event PowerSet(bytes32 indexed key, uint64 power);

    error Refused(uint32 code);

    /// By the governance account: a new validator, another power, or with power 0 the end of one. The last one cannot go, and who was
    /// proven to have signed two blocks does not come back.
    function setPower(bytes32 key, uint64 power) external;

    /// The power of a key, 0 when it does not validate.
    function power(bytes32 key) external view returns (uint64 power);

    /// The height and kind (1: two votes at one height, 2: an attack on light clients) of the fault that was proven of a validator and
    /// ended it; zeros when none was.
    function fault(bytes32 key) external view returns (uint64 height, uint32 kind);

    /// Every validator and its power, sorted by key.
    function validators() external view returns (bytes32[] memory keys, uint64[] memory powers);
}
