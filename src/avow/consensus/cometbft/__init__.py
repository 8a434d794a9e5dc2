"""The distributed engine: CometBFT orders blocks in a process of its own and asks our application over a Unix socket (ABCI 2.0)."""
