"""`avow receipts`: the receipts kept on this machine."""

import time
from pathlib import Path

import click

from avow.cli.connect import url_option
from avow.cli.frame import FAILED, OK, Group, common, put, put_json, resolve_home, say, table
from avow.cli.show import moment, put_receipt, put_report, receipt_json
from avow.client.errors import AnswerOverturned, NoReceipt, RemoteError, Unreachable
from avow.client.pins import Pins
from avow.client.saved import SavedReceipts
from avow.client.session import gateway_url
from avow.client.sync import Client
from avow.home import write_private
from avow.receipt.encoding import from_base64url
from avow.receipt.finality import BatchState
from avow.receipt.receipt import Receipt
from avow.receipt.statement import Method
from avow.verification import verify


@click.group(cls=Group)
def receipts() -> None:
    """The receipts kept on this machine, under HOME/receipts."""


@receipts.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@common
def list_receipts(limit: int, home: Path | None, as_json: bool) -> None:
    """The newest first."""
    folder = resolve_home(home)
    kept = []
    for path, receipt in SavedReceipts(folder).newest_first():
        kept.append((path, receipt))
        if len(kept) >= limit:
            break
    if as_json:
        put_json([receipt_json(receipt) | {"file": str(path)} for path, receipt in kept])
        return
    if not kept:
        say("no receipts are kept here; `avow ask` keeps one for each answer")
        return
    rows = []
    for _, receipt in kept:
        columns = receipt.statement.columns
        state = "–" if receipt.settlement is None else f"height {receipt.settlement.height}"
        rows.append(
            [receipt.id[:16], moment(columns.ended_ms), columns.method.label, columns.program.hex()[:16], state]
        )
    table(["receipt", "answered", "method", "program", "settled"], rows)


@receipts.command()
@click.argument("receipt_id", metavar="ID")
@click.option("--redacted", is_flag=True, help="Without prompt and answer.")
@click.option(
    "--only", multiple=True, metavar="PART", help="With only this part shown, as request/messages/0 (repeatable)."
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it to FILE instead of showing it.",
)
@common
def show(
    receipt_id: str, redacted: bool, only: tuple[str, ...], save: Path | None, home: Path | None, as_json: bool
) -> None:
    """Show the receipt whose id begins with ID, or write a redacted or partly disclosed copy to pass on."""
    receipt = SavedReceipts(resolve_home(home)).load(receipt_id)
    if only:
        receipt = receipt.disclosing(only)
    elif redacted:
        receipt = receipt.redacted()
    if save is not None:
        write_private(save, receipt.to_json())
        say(f"written to {save}")
    elif as_json:
        put(receipt.to_json().decode())
    else:
        put_receipt(receipt)


@receipts.command("verify")
@click.argument("receipt_id", metavar="ID")
@click.option("--require", multiple=True, metavar="DEMAND")
@common
def verify_kept(receipt_id: str, require: tuple[str, ...], home: Path | None, as_json: bool) -> int:
    """Check the kept receipt whose id begins with ID, as `avow verify` does."""
    folder = resolve_home(home)
    receipt = SavedReceipts(folder).load(receipt_id)
    report = verify(receipt, Pins(folder).for_chain(receipt.statement.private.chain_id), require=require)
    if as_json:
        put_json(report.as_json())
    else:
        put_report(report)
    return OK if report.ok else FAILED


@receipts.command()
@click.argument("receipt_id", metavar="[ID]", required=False)
@url_option
@click.option(
    "--wait",
    type=click.FloatRange(min=0, max=30),
    default=0.0,
    show_default=True,
    help="Seconds to wait for a settlement.",
)
@common
def refresh(receipt_id: str | None, url: str | None, wait: float, home: Path | None, as_json: bool) -> int:
    """Fetch the newest settlement proof of the receipt ID, or of every kept receipt that has none yet or can be challenged.

    Exit code 1 where one is not settled yet, or an optimistic answer was overturned.
    """
    folder = resolve_home(home)
    saved = SavedReceipts(folder)
    if receipt_id is not None:
        wanted = [saved.load(receipt_id)]
    else:
        wanted = [receipt for _, receipt in saved.newest_first() if _can_change(receipt)]
    with Client(url or gateway_url(folder), home=folder) as client:
        results = [(receipt.id, _refreshed(client, saved, receipt, wait)) for receipt in wanted]
    if as_json:
        put_json(
            [
                {"id": identity, "settled": state != _WAITS, "overturned": state.startswith(_OVERTURNED)}
                for identity, state in results
            ]
        )
    else:
        for identity, state in results:
            put(f"{identity[:16]}  {state}")
        if not results:
            say("every kept receipt is settled")
    return OK if all(state == _SETTLED for _, state in results) else FAILED


_SETTLED, _WAITS = "settled", "not settled yet"
_OVERTURNED = "overturned: a fault was proven, or what was committed to was withheld; the fee is returned"


def _can_change(receipt: Receipt) -> bool:
    """Whether the network may know more of it: it has not settled, or is an optimistic answer not known to be final or overturned."""
    columns, settlement = receipt.statement.columns, receipt.settlement
    if settlement is None:
        return True
    if columns.method is not Method.OPTIMISTIC:
        return False
    if settlement.finality is None:
        return True
    record = settlement.finality.check_membership(receipt.statement.private.key)
    return record.state is BatchState.OPEN and columns.number not in record.overturned


def _refreshed(client: Client, saved: SavedReceipts, receipt: Receipt, wait: float) -> str:
    """What became of a kept receipt; the newest proof is kept with it."""
    try:
        found = client.session.settled(receipt, client.receipt(receipt.id, wait=wait).to_bytes())
    except AnswerOverturned as overturned:
        saved.save(overturned.receipt)
        return "; ".join([_OVERTURNED, *_overturned_by(client, receipt.id)])
    if found is None:
        return _WAITS
    saved.save(found[0])
    return _SETTLED


def _overturned_by(client: Client, receipt_id: str) -> list[str]:
    """The transaction, in words, where the gateway can say it: that the answer was overturned is proven without it."""
    try:
        found = client.overturned_by(receipt_id)
    except (RemoteError, Unreachable):
        return []
    return [f"transaction {found.transaction} at height {found.height} ({found.cause.replace('_', ' ')})"]


@receipts.command()
@click.argument("receipt_id", metavar="ID")
@click.option(
    "--secret", metavar="BASE64URL", help="The secret that came with the answer; without it the receipt is redacted."
)
@url_option
@common
def fetch(receipt_id: str, secret: str | None, url: str | None, home: Path | None, as_json: bool) -> None:
    """Fetch a receipt by its full id from the gateway, check it, and keep it.

    A receipt of an answer that was overturned is kept too: it proves that. The exit code is then 1.
    """
    folder = resolve_home(home)
    saved = SavedReceipts(folder)
    opening = None if secret is None else from_base64url(secret, max_bytes=32)
    began = time.monotonic()
    with Client(url or gateway_url(folder), home=folder) as client:
        receipt = client.receipt(receipt_id, opening)
        if receipt.id != receipt_id:
            raise NoReceipt("the gateway gave another receipt than the one asked for", receipt=receipt.id)
        try:
            report = client.session.held(receipt)
        except AnswerOverturned as error:
            path = saved.merge(receipt)
            by = "; ".join(_overturned_by(client, receipt_id))
            hint = f"kept as {path}, with the proof; the fee is returned"
            raise AnswerOverturned(error.report, receipt, by=by, hint=hint, file=str(path)) from error
    path = saved.merge(receipt)
    if as_json:
        put_json(receipt_json(receipt, report) | {"file": str(path)})
        return
    put_receipt(receipt)
    say(f"kept as {path} ({int(1000 * (time.monotonic() - began))} ms)")
