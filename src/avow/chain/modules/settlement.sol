// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// The record that evidence was verified and fees moved.
/// At 0x0000000000000000000000000000000000000a04.
///
/// A batch is canonical CBOR (see docs/chain.md). It settles the next range of a key's numbers, whole or not at all.
interface Settlement {
    event Settled(
        bytes32 indexed key,
        address indexed operator,
        uint64 first,
        uint64 count,
        bytes32 root,
        uint256 charged,
        uint64 historyIndex
    );
    /// Beside Settled, for an optimistic key: the batch is final when the window clock has passed `deadlineClock` (disputes.sol).
    event Posted(
        bytes32 indexed key,
        address indexed operator,
        uint64 first,
        uint64 count,
        uint64 deadlineClock,
        uint256 locked
    );
    event Voided(bytes32 indexed key, uint64 number, uint8 cause, bytes32 statement);
    event FalseVoidProven(bytes32 indexed key, address indexed reporter, uint64 number);

    error Refused(uint32 code);
    /// The whole batch is refused because of the statement at `index`; 2^32 - 1 stands for the batch itself.
    error BatchRefused(uint32 index, uint32 code);

    /// By the key's operator.
    function settle(bytes calldata batch) external returns (bytes32 root, bytes32 key, uint64 first, uint64 count);

    /// By the key's operator: a batch whose every statement is void, each with its cause. Possible for a revoked key too.
    function void(bytes calldata batch) external returns (bytes32 root, bytes32 key, uint64 first, uint64 count);

    /// A statement that the node made void (docs/chain.md, section 4), and that was delivered: canonical CBOR [statement, head,
    /// COSE_Sign1], the statement whole as a receipt holds it. Revokes the key. Who received the answer may report.
    function reportFalseVoid(bytes32 key, bytes calldata evidence) external;

    /// The next number to settle and the head of the chain of statements before it.
    function next(bytes32 key) external view returns (uint64 number, bytes32 head);
}
