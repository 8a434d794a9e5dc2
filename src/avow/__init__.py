"""Avow: run a model once; let anyone verify the answer.

    answer = avow.Client().chat("What is the capital of France?", method="tee")
    print(answer.text, answer.settled().id)
    report = avow.verify(answer.receipt.to_json(), trust="trust.json")

Names are loaded when they are first used: checking a receipt loads neither an HTTP client nor anything of a node.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from avow import errors
    from avow.client.asynchronous import AsyncClient
    from avow.client.exchange import Payment
    from avow.client.sync import Client
    from avow.client.transport import (
        openai_async_client,
        openai_async_transport,
        openai_client,
        openai_transport,
    )
    from avow.receipt.partial import PartialReceipt
    from avow.receipt.receipt import Receipt
    from avow.receipt.report import Report
    from avow.receipt.trust import TrustPolicy
    from avow.verification import load_receipt, verify

_PLACES = {
    "AsyncClient": "avow.client.asynchronous",
    "Client": "avow.client.sync",
    "Payment": "avow.client.exchange",
    "PartialReceipt": "avow.receipt.partial",
    "Receipt": "avow.receipt.receipt",
    "Report": "avow.receipt.report",
    "TrustPolicy": "avow.receipt.trust",
    "load_receipt": "avow.verification",
    "openai_async_client": "avow.client.transport",
    "openai_async_transport": "avow.client.transport",
    "openai_client": "avow.client.transport",
    "openai_transport": "avow.client.transport",
    "verify": "avow.verification",
}

__all__ = [
    "AsyncClient",
    "Client",
    "PartialReceipt",
    "Payment",
    "Receipt",
    "Report",
    "TrustPolicy",
    "__version__",
    "errors",
    "load_receipt",
    "openai_async_client",
    "openai_async_transport",
    "openai_client",
    "openai_transport",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("avow.errors")
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'avow' has no attribute {name!r}")
    return getattr(import_module(place), name)


def __dir__() -> list[str]:
    return sorted(__all__)
