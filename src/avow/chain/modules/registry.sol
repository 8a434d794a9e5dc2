// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// Programs by name. A name has one owner and a list of versions; a program is its content's hash and may stand under several names.
/// It is withdrawn once no name offers it any more, so that nobody can withdraw another's.
/// At 0x0000000000000000000000000000000000000a02.
interface Registry {
    event NameClaimed(string name, address indexed owner);
    event NameTransferred(string name, address indexed from, address indexed to);
    event ProgramPublished(string name, bytes32 indexed program, uint32 version);
    event ProgramWithdrawn(string name, bytes32 indexed program, uint32 version);

    event ProgramDeclared(bytes32 indexed program, bytes32 root);

    error Refused(uint32 code);

    /// Publish `program` as the next version of `name`. The first to publish under a name owns it.
    function publish(string calldata name, bytes32 program) external returns (uint32 version);

    /// Take a version back: nothing new may run on it under this name.
    function withdraw(string calldata name, uint32 version) external;

    function transferName(string calldata name, address owner) external;

    /// The newest version of `name` that is not withdrawn; version 0 when there is none.
    function resolve(string calldata name) external view returns (bytes32 program, uint32 version, address owner);

    function versionOf(string calldata name, uint32 version) external view returns (bytes32 program, bool withdrawn);

    /// How many names offer `program` now, and the height at which it was first published (0: never).
    function program(bytes32 id) external view returns (uint32 offers, uint64 fromHeight);

    /// Show the chain an exact program: its manifest, and the header of its file. Optimistic statements settle on declared programs
    /// alone. Anyone may, once is enough, and nothing takes it back.
    function declare(bytes calldata manifest, bytes calldata header) external returns (bytes32 program, bytes32 root);

    /// The program root of a declared program, and the height at which it was declared (zeros: it is not).
    function declared(bytes32 id) external view returns (bytes32 root, uint64 height);
}
