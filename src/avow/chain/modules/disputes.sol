// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.0;

/// What keeps optimistic statements honest: bonds, challenges, demands, and the ends of batches.
/// At 0x0000000000000000000000000000000000000a05.
///
/// Clocks are the window clock's milliseconds: block time, but a halt of the chain does not count. A batch is named by its key and first
/// number. States: 0 open, 1 final, 2 overturned; 10 committed, 11 upheld, 12 rejected, 13 lapsed, 14 superseded, 15 rewarded;
/// 20 posed, 21 answered, 22 expired; 30 moot. Causes: 3 fraud, 4 a withheld trace.
interface Disputes {
    event Deposited(address indexed operator, uint256 amount, uint256 bond);
    event Withdrawn(address indexed operator, uint256 amount, uint256 bond);
    event Challenged(
        bytes32 indexed key, uint64 first, address indexed challenger, bytes32 commitment, uint64 order
    );
    event ChallengeResolved(bytes32 indexed key, address indexed challenger, bytes32 commitment, uint8 state);
    event Overturned(
        bytes32 indexed key,
        uint64 number,
        bytes32 indexed statement,
        uint8 cause,
        address indexed winner,
        uint256 slashed
    );
    event Rewarded(bytes32 indexed statement, address indexed winner, uint256 amount);
    /// `lastHeight` and `lastClock`: the node may answer until both have passed.
    event Demanded(
        bytes32 indexed key,
        uint64 number,
        bytes32 indexed demand,
        bytes32 statement,
        address indexed demander,
        uint64 lastHeight,
        uint64 lastClock,
        bytes asked
    );
    event Answered(bytes32 indexed key, uint64 number, bytes32 indexed demand, bytes given);
    event DemandResolved(bytes32 indexed key, uint64 number, bytes32 indexed demand, uint8 state);
    event Finalised(bytes32 indexed key, uint64 first, address indexed operator, uint256 paid);
    event WatcherAppointed(address indexed watcher);
    event WatcherDismissed(address indexed watcher);

    error Refused(uint32 code);

    /// Add the value sent to the caller's bond, which covers the open statements of all its keys.
    function deposit() external payable;

    /// Take back what no open statement locks; not while a challenge or demand waits against the caller.
    function withdraw(uint256 amount) external;

    /// Commit to a fraud proof against a statement of this batch. The value sent is `challengeBond`.
    function commit(bytes32 key, uint64 first, bytes32 commitment) external payable;

    /// Reveal the evidence of the caller's commitment, in a later block. The state that it leaves the challenge in.
    function prove(bytes calldata evidence, bytes32 salt) external returns (uint8 state);

    /// A commitment that was not revealed in time loses its bond. Anyone may say so.
    function lapse(address challenger, bytes32 commitment) external;

    /// Pay the winner of an overturned statement, once no earlier challenge can show up. Anyone may say so.
    function reward(bytes32 statement) external;

    /// Ask the node for a part of a trace that it withholds. The value sent is `demandBond`.
    function demand(bytes calldata data) external payable returns (bytes32 id);

    /// By the batch's operator.
    function answer(bytes32 id, bytes calldata given) external;

    /// A demand that was not answered in time overturns its statement; one whose statement is overturned gets its bond back.
    function expire(bytes32 id) external;

    /// The window has passed and nothing waits: fees are paid, the bond is free. Anyone may say so.
    function finalise(bytes32 key, uint64 first) external;

    /// By governance.
    function appoint(address watcher) external;

    function dismiss(address watcher) external;

    function bondOf(address operator) external view returns (uint256 amount, uint256 locked, uint64 disputes);

    function batchOf(bytes32 key, uint64 first)
        external
        view
        returns (
            bytes32 root,
            uint32 count,
            address operator,
            uint64 settledClock,
            uint64 deadlineClock,
            uint256 held,
            uint256 locked,
            bool isFinal,
            uint64[] memory overturned
        );

    /// State 0 means that nobody overturned it.
    function statementOf(bytes32 statement)
        external
        view
        returns (uint8 state, bytes32 key, uint64 number, uint8 cause, address winner, uint256 won, bool paid);

    function challengeOf(address challenger, bytes32 commitment)
        external
        view
        returns (bytes32 key, uint64 first, uint64 order, uint64 height, uint64 madeAt);

    function demandOf(bytes32 id)
        external
        view
        returns (
            address demander,
            bytes32 key,
            uint64 number,
            uint64 lastHeight,
            uint64 lastClock,
            bytes memory asked
        );

    function isWatcher(address account) external view returns (bool appointed);

    function parameters()
        external
        view
        returns (
            uint64 windowMs,
            uint64 moveMs,
            uint64 auditPpm,
            uint64 gainFactor,
            uint64 revealBlocks,
            uint256 bondFloor,
            uint256 challengeBond,
            uint256 demandBond
        );

    /// What a statement of this amount locks.
    function requiredBond(uint128 amount, uint8 terms) external view returns (uint256 locked);

    function clock() external view returns (uint64 now);
}
