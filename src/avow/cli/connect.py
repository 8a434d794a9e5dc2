"""How a command reaches a gateway: its address, the trust pinned for it, and the demands on its answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from avow.cli.frame import printable
from avow.client.accounts import Accounts
from avow.client.exchange import Payment
from avow.client.session import OnReceipt, first_chat, gateway_url
from avow.client.sync import Client
from avow.errors import InputError
from avow.home import home_folder
from avow.receipt.statement import Method

Command = TypeVar("Command", bound=Callable[..., Any])
METHODS = click.Choice([method.label for method in Method])


@dataclass(frozen=True, slots=True)
class Connection:
    """The options of `connection_options`."""

    home: Path
    url: str
    trust: Path | None
    method: str | None
    require: tuple[str, ...]
    account: str | None
    timeout: float
    audience: str | None = None
    opening: str = "anyone"
    pay: int | None = None
    pay_node: str | None = None

    def open(self, *, save: bool = False, on_receipt: OnReceipt | None = None, model: str | None = None) -> Client:
        """A client. `model`: which a payment is for, where no node is named; None: the first chat model.

        Raises TrustNotPinned, NotFound (account), InputError (payment), or what reading a policy raises.
        """
        if self.pay is None:
            if self.pay_node is not None:
                raise InputError("how much may the node charge?", hint="name the most, in wei, with --pay")
            return self._client(save, on_receipt, None)
        if self.account is None:
            raise InputError("who pays?", hint="name an account of `avow key` with --account: it signs, and is charged")
        return self._client(save, on_receipt, Payment(self.pay_node or self._node(model), self.pay))

    def _node(self, model: str | None) -> str:
        """The one node that can answer."""
        with self._client(False, None, None) as client:
            models = client.models()
        name = model or first_chat(models)
        offered = next((item.nodes for item in models if item.name == name), {})
        found = {node for method, nodes in offered.items() if self.method in (None, method) for node in nodes}
        if len(found) != 1:
            known = ", ".join(sorted(found)) or "none"
            raise InputError(
                f"a payment names the node that may charge it; for {printable(name)[:96]} the gateway reaches: {printable(known)[:1_000]}",
                hint="choose one with --pay-node",
            )
        return found.pop()

    def _client(self, save: bool, on_receipt: OnReceipt | None, payment: Payment | None) -> Client:
        key = None if self.account is None else Accounts(self.home).load(self.account).private_key
        return Client(
            self.url,
            trust=self.trust,
            method=self.method,
            require=self.require,
            key=key,
            payment=payment,
            save=save,
            on_receipt=on_receipt,
            timeout=self.timeout,
            audience=self.audience,
            opening=self.opening,
            home=self.home,
        )


def url_option(command: Command) -> Command:
    return click.option("--url", help="The gateway's address [$AVOW_URL, the local network].")(command)


def connection_options(command: Command) -> Command:
    """--url, --trust, --method, --require, --audience, --opening, --account, --pay, --pay-node, --timeout."""
    for option in reversed(
        (
            url_option,
            click.option(
                "--trust",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Trust policy to judge by.",
            ),
            click.option("--method", type=METHODS, help="How the answer is to be backed."),
            click.option(
                "--require", multiple=True, metavar="DEMAND", help="Refuse answers that do not meet it: settled, tee, …"
            ),
            click.option(
                "--audience",
                metavar="WHO",
                help="Who may check an optimistic answer: public, payer, or watchers and addresses after it.",
            ),
            click.option(
                "--opening",
                type=click.Choice(["anyone", "payer"]),
                default="anyone",
                help="Who may open an optimistic answer on chain to prove it wrong.",
            ),
            click.option("--account", metavar="NAME", help="Sign the request with this account of `avow key`."),
            click.option(
                "--pay",
                type=click.IntRange(1, (1 << 128) - 1),
                metavar="WEI",
                help="That account pays, by a signed authorisation: at most so much for this answer [the gateway pays].",
            ),
            click.option(
                "--pay-node",
                metavar="ADDRESS",
                help="The operator that may charge it [the one that the gateway reaches].",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.1),
                default=600.0,
                show_default=True,
                help="Seconds to wait for the gateway.",
            ),
        )
    ):
        command = option(command)
    return command


def connection(
    home: Path | None,
    url: str | None,
    trust: Path | None,
    method: str | None,
    require: tuple[str, ...],
    account: str | None,
    timeout: float,
    audience: str | None = None,
    opening: str = "anyone",
    pay: int | None = None,
    pay_node: str | None = None,
) -> Connection:
    folder = home_folder(home)
    where = url or gateway_url(folder)
    return Connection(folder, where, trust, method, require, account, timeout, audience, opening, pay, pay_node)
