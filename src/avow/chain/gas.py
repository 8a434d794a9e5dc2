"""What things cost, in gas. Near Ethereum's own prices where Ethereum has one, so that its tools estimate sensibly."""

LOAD = 2_100  # cold SLOAD, EIP-2929
STORE = 5_000  # SSTORE of a changed value, EIP-2929
STORE_NEW = 20_000  # SSTORE of a new value
STORE_BYTE = 50  # beyond the first 32 bytes of a value
TRANSFER = 9_000  # CALL with value
LOG = 375
LOG_TOPIC = 375
LOG_BYTE = 8
SECP256K1_RECOVER = 3_000  # ECRECOVER
P256_VERIFY = 6_900  # EIP-7951
P384_VERIFY = 30_000  # about four times P-256 in time
ATTESTATION = 500_000  # four certificates and a document of P-384, and their parsing
STATEMENT = 400  # four SHA-256 of up to three blocks (60 + 12 a word each, appendix G) and the rules of one statement
PARSE = 3_000  # a private part: CBOR of about 600 bytes, hashed
DESCENT_BYTE = 4  # of a demand or its answer: parsed, and hashed once or twice
DECLARATION_BYTE = 64  # of a program's outline: parsed, hashed, each record's form checked
BATCH_BYTE = 4  # before anything is parsed; a canonical batch has an item in 16 bytes at most
HISTORY = 25_000  # one leaf of the history, kept for ever
CALL = 2_600  # cold account, EIP-2929
