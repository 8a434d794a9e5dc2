"""Another implementation of ABCI's messages: protobuf's own runtime, over the fields of types.proto (CometBFT v0.40)."""

import re

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELDS = """
Request: echo RequestEcho 1, flush RequestFlush 2, info RequestInfo 3, init_chain RequestInitChain 5, query RequestQuery 6,
  check_tx RequestCheckTx 8, commit RequestCommit 11, list_snapshots RequestListSnapshots 12,
  offer_snapshot RequestOfferSnapshot 13, load_snapshot_chunk RequestLoadSnapshotChunk 14,
  apply_snapshot_chunk RequestApplySnapshotChunk 15, prepare_proposal RequestPrepareProposal 16,
  process_proposal RequestProcessProposal 17, extend_vote RequestExtendVote 18,
  verify_vote_extension RequestVerifyVoteExtension 19, finalize_block RequestFinalizeBlock 20,
  insert_tx RequestInsertTx 21, reap_txs RequestReapTxs 22
Timestamp: seconds int64 1, nanos int32 2
PublicKey: ed25519 bytes 1, secp256k1 bytes 2
ValidatorUpdate: pub_key PublicKey 1, power int64 2
Validator: address bytes 1, power int64 3
VoteInfo: validator Validator 1, block_id_flag int32 3
CommitInfo: round int32 1, votes *VoteInfo 2
Misbehavior: type int32 1, validator Validator 2, height int64 3, time Timestamp 4, total_voting_power int64 5
BlockParams: max_bytes int64 1, max_gas int64 2
ConsensusParams: block BlockParams 1
Snapshot: height uint64 1, format uint32 2, chunks uint32 3, hash bytes 4, metadata bytes 5
RequestEcho: message string 1
RequestFlush:
RequestInfo: version string 1, block_version uint64 2, p2p_version uint64 3, abci_version string 4
RequestInitChain: time Timestamp 1, chain_id string 2, consensus_params ConsensusParams 3, validators *ValidatorUpdate 4,
  app_state_bytes bytes 5, initial_height int64 6
RequestQuery: data bytes 1, path string 2, height int64 3, prove bool 4
RequestCheckTx: tx bytes 1, type int32 2
RequestCommit:
RequestListSnapshots:
RequestOfferSnapshot: snapshot Snapshot 1, app_hash bytes 2
RequestLoadSnapshotChunk: height uint64 1, format uint32 2, chunk uint32 3
RequestApplySnapshotChunk: index uint32 1, chunk bytes 2, sender string 3
RequestPrepareProposal: max_tx_bytes int64 1, txs *bytes 2, local_last_commit CommitInfo 3, misbehavior *Misbehavior 4,
  height int64 5, time Timestamp 6, next_validators_hash bytes 7, proposer_address bytes 8
RequestProcessProposal: txs *bytes 1, proposed_last_commit CommitInfo 2, misbehavior *Misbehavior 3, hash bytes 4,
  height int64 5, time Timestamp 6, next_validators_hash bytes 7, proposer_address bytes 8
RequestFinalizeBlock: txs *bytes 1, decided_last_commit CommitInfo 2, misbehavior *Misbehavior 3, hash bytes 4,
  height int64 5, time Timestamp 6, next_validators_hash bytes 7, proposer_address bytes 8
RequestExtendVote: hash bytes 1, height int64 2, time Timestamp 3, txs *bytes 4, proposed_last_commit CommitInfo 5
RequestVerifyVoteExtension: hash bytes 1, validator_address bytes 2, height int64 3, vote_extension bytes 4
RequestInsertTx: tx bytes 1
RequestReapTxs: max_bytes uint64 1, max_gas uint64 2
Response: exception ResponseException 1, echo ResponseEcho 2, flush ResponseFlush 3, info ResponseInfo 4,
  init_chain ResponseInitChain 6, query ResponseQuery 7, check_tx ResponseCheckTx 9, commit ResponseCommit 12,
  list_snapshots ResponseListSnapshots 13, offer_snapshot ResponseOfferSnapshot 14,
  load_snapshot_chunk ResponseLoadSnapshotChunk 15, apply_snapshot_chunk ResponseApplySnapshotChunk 16,
  prepare_proposal ResponsePrepareProposal 17, process_proposal ResponseProcessProposal 18,
  extend_vote ResponseExtendVote 19, verify_vote_extension ResponseVerifyVoteExtension 20,
  finalize_block ResponseFinalizeBlock 21, insert_tx ResponseInsertTx 22, reap_txs ResponseReapTxs 23
ResponseException: error string 1
ResponseEcho: message string 1
ResponseFlush:
ResponseInfo: data string 1, version string 2, app_version uint64 3, last_block_height int64 4, last_block_app_hash bytes 5
ResponseInitChain: consensus_params ConsensusParams 1, validators *ValidatorUpdate 2, app_hash bytes 3
ProofOp: type string 1, key bytes 2, data bytes 3
ProofOps: ops *ProofOp 1
ResponseQuery: code uint32 1, log string 3, info string 4, index int64 5, key bytes 6, value bytes 7, proof_ops ProofOps 8,
  height int64 9, codespace string 10
EventAttribute: key string 1, value string 2, index bool 3
Event: type string 1, attributes *EventAttribute 2
ResponseCheckTx: code uint32 1, data bytes 2, log string 3, info string 4, gas_wanted int64 5, gas_used int64 6,
  events *Event 7, codespace string 8
ExecTxResult: code uint32 1, data bytes 2, log string 3, info string 4, gas_wanted int64 5, gas_used int64 6,
  events *Event 7, codespace string 8
ResponseCommit: retain_height int64 3
ResponseListSnapshots: snapshots *Snapshot 1
ResponseOfferSnapshot: result int32 1
ResponseLoadSnapshotChunk: chunk bytes 1
ResponseApplySnapshotChunk: result int32 1, refetch_chunks *uint32 2, reject_senders *string 3
ResponsePrepareProposal: txs *bytes 1
ResponseProcessProposal: status int32 1
ResponseExtendVote: vote_extension bytes 1
ResponseVerifyVoteExtension: status int32 1
ResponseFinalizeBlock: events *Event 1, tx_results *ExecTxResult 2, validator_updates *ValidatorUpdate 3,
  consensus_param_updates ConsensusParams 4, app_hash bytes 5
ResponseInsertTx: code uint32 1
ResponseReapTxs: txs *bytes 1
"""

_SCALARS = {"bool": 8, "bytes": 12, "int32": 5, "int64": 3, "string": 9, "uint32": 13, "uint64": 4}
_MESSAGE = 11


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="abci-oracle.proto", package="oracle", syntax="proto3")
    for line in re.sub(r"\n  +", " ", FIELDS).strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        if name in ("Request", "Response"):
            message.oneof_decl.add(name="value")
        for part in fields.split(","):
            if not part.strip():
                continue
            label, kind, number = part.split()
            field = message.field.add(name=label, number=int(number), label=3 if kind.startswith("*") else 1)
            kind = kind.removeprefix("*")
            field.type = _SCALARS.get(kind, _MESSAGE)
            if field.type == _MESSAGE:
                field.type_name = f".oracle.{kind}"
            if name in ("Request", "Response"):
                field.oneof_index = 0
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def message(name: str):
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"oracle.{name}"))


Request, Response = message("Request"), message("Response")
