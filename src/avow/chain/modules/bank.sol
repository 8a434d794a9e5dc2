// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// Money and consent. Balances are the accounts' own, in wei; this module holds what a payer agreed to pay.
/// At 0x0000000000000000000000000000000000000a01.
interface Bank {
    event Allowed(address indexed payer, address indexed node, uint256 cap, uint64 expiryMs);
    event AuthorisationCancelled(address indexed payer, uint64 nonce);

    error Refused(uint32 code);

    /// Let `node` charge the caller up to `cap` wei in all, until block time passes `expiryMs` (milliseconds). Replaces an
    /// earlier allowance; a cap of 0 ends it.
    function allow(address node, uint256 cap, uint64 expiryMs) external;

    /// Make the caller's EIP-712 authorisation with this nonce worthless.
    function cancelAuthorisation(uint64 nonce) external;

    /// What `node` may still charge `payer`.
    function allowance(address payer, address node) external view returns (uint256 remaining, uint64 expiryMs);

    function authorisationUsed(address payer, uint64 nonce) external view returns (bool used);

    function balanceOf(address account) external view returns (uint256 balance);
}
