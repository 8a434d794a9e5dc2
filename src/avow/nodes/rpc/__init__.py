"""The chain's JSON-RPC server: Ethereum's methods for wallets and libraries, and Avow's own for proofs."""
