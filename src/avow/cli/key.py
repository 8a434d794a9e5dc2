"""`avow key`: accounts that sign requests. Private keys stay in their files."""

from pathlib import Path

import click

from avow.cli.frame import Group, common, mapping, put, put_json, resolve_home, say, table
from avow.client.accounts import Account, Accounts, checksummed


@click.group(cls=Group)
def key() -> None:
    """Your accounts (secp256k1, as Ethereum's): a request signed by one names it in the statement."""


def _view(account: Account) -> dict[str, str]:
    return {"name": account.name, "address": checksummed(account.address)}


@key.command()
@click.argument("name")
@common
def create(name: str, home: Path | None, as_json: bool) -> None:
    """Make the account NAME; its private key is kept under HOME/keys and never shown."""
    accounts = Accounts(resolve_home(home))
    account = accounts.create(name)
    if as_json:
        put_json(_view(account))
        return
    put(checksummed(account.address))
    say(f"kept in {accounts.folder / (name + '.key')}: back it up, nobody else has it")


@key.command("list")
@common
def list_keys(home: Path | None, as_json: bool) -> None:
    """All accounts."""
    accounts = Accounts(resolve_home(home)).all()
    if as_json:
        put_json([_view(account) for account in accounts])
    elif accounts:
        table(["name", "address"], [[account.name, checksummed(account.address)] for account in accounts])
    else:
        say("there are no accounts; `avow key create NAME` makes one")


@key.command()
@click.argument("name")
@common
def show(name: str, home: Path | None, as_json: bool) -> None:
    """The address of the account NAME."""
    account = Accounts(resolve_home(home)).load(name)
    if as_json:
        put_json(_view(account))
    else:
        mapping([("name", account.name), ("address", checksummed(account.address))])
