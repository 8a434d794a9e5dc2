"""The gateway's allowances on chain, over JSON-RPC. A connection for each question: there is one every few seconds."""

from avow.nodes.chain_client import ChainClient


class ChainBank:
    """account.Bank for one account."""

    def __init__(self, url: str, private_key: bytes) -> None:
        self._url = url
        self._private_key = private_key

    async def allowance(self, payer: bytes, node: bytes) -> tuple[int, int]:
        async with ChainClient(self._url) as client:
            return await client.allowance(payer, node)

    async def allow(self, node: bytes, cap: int, expiry_ms: int) -> None:
        async with ChainClient(self._url, self._private_key) as client:
            await client.allow(node, cap, expiry_ms)
