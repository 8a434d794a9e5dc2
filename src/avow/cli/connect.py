"""How a command reaches a gateway: its address, the trust pinned for it, and the demands on its answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from avow.client.accounts import Accounts
from avow.client.session import OnReceipt, gateway_url
from avow.client.sync import Client
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

    def open(self, *, save: bool = False, on_receipt: OnReceipt | None = None) -> Client:
        """A client. Raises TrustNotPinned, NotFound (account), or what reading a policy raises."""
        key = None if self.account is None else Accounts(self.home).load(self.account).private_key
        return Client(
            self.url,
            trust=self.trust,
            method=self.method,
            require=self.require,
            key=key,
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
    """--url, --trust, --method, --require, --audience, --opening, --account, --timeout."""
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
) -> Connection:
    folder = home_folder(home)
    where = url or gateway_url(folder)
    return Connection(folder, where, trust, method, require, account, timeout, audience, opening)
