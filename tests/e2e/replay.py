"""`python -m tests.e2e.replay FILE`: execute a file of blocks (blocks.py) on an empty state, and compare every application hash.

Prints one line of JSON: blocks, a digest over all hashes and results, and what this interpreter is. Imports the chain alone, so that it
runs wherever the chain's few dependencies are.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.genesis import Genesis
from avow.chain.state import MemoryStore, SqliteStore


def replay(lines, store) -> tuple[int, str]:
    genesis = Genesis.from_bytes(bytes.fromhex(json.loads(next(lines))["genesis"]))
    application = Application(store, genesis)
    application.init_chain(abci.InitChainRequest(genesis.time_ms * 10**6, genesis.chain_id, (), genesis.to_bytes()))
    digest = hashlib.sha256()
    blocks = 0
    for line in lines:
        block = json.loads(line)
        txs = tuple([bytes.fromhex(tx) for tx in block["txs"]])
        height, block_hash = block["height"], bytes.fromhex(block["hash"])
        response = application.finalize_block(
            abci.FinalizeBlockRequest(txs, block_hash, height, block["time_ns"], bytes(20))
        )
        application.commit()
        if response.app_hash.hex() != block["app_hash"]:
            raise SystemExit(f"block {height} gives {response.app_hash.hex()}, not {block['app_hash']}")
        digest.update(response.app_hash)
        for result in response.tx_results:
            digest.update(repr(result.deterministic()).encode())
        for update in response.validator_updates:
            digest.update(update.public_key + update.power.to_bytes(8))
        blocks += 1
    return blocks, digest.hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Path(sys.argv[1]).open() as lines:
        on_disk = "--disk" in sys.argv
        store = SqliteStore(str(Path(folder) / "chain.db")) if on_disk else MemoryStore()
        blocks, digest = replay(lines, store)
        store.close()
    seen = {
        "blocks": blocks,
        "digest": digest,
        "python": platform.python_version(),
        "hash_seed": os.environ.get("PYTHONHASHSEED"),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
