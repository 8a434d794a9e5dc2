"""`avow verify`: the check of a receipt, offline."""

import sys
from pathlib import Path

import click

from avow.cli.frame import FAILED, OK, common, put_json, resolve_home, say
from avow.cli.show import put_report
from avow.errors import InputError, TooLarge
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import MAX_RECEIPT
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import Recomputation
from avow.verification import AnyReceipt, load_receipt
from avow.verification import verify as verify_receipt

LIMIT = 2 * MAX_RECEIPT
_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


def read_file(path: Path, limit: int = LIMIT) -> bytes:
    """A file's bytes, standard input for "-". Raises InputError or TooLarge."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise TooLarge(f"{path} is larger than {limit} bytes", limit=limit)
    return data


@click.command()
@click.argument("file", type=_FILE)
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Trust policy; else the one pinned for the receipt's chain.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="DEMAND",
    help="Fail unless it is met: settled, opened, fresh, tee, a check's name, … (repeatable).",
)
@click.option("--request", type=_FILE, help="The request's body as it was sent; compared with its commitment.")
@click.option("--response", type=_FILE, help="The response's body; compared with its commitment.")
@click.option("--nonce", metavar="BASE64URL", help="The nonce that was sent.")
@click.option(
    "--recompute",
    is_flag=True,
    help="Run an optimistic answer's program again, from the local store, and compare bit for bit.",
)
@click.option(
    "--at", "at_ms", type=int, metavar="MS", help="Judge as of this time, in milliseconds since 1970, instead of now."
)
@common
def verify(
    file: Path,
    trust: Path | None,
    require: tuple[str, ...],
    request: Path | None,
    response: Path | None,
    nonce: str | None,
    recompute: bool,
    at_ms: int | None,
    home: Path | None,
    as_json: bool,
) -> int:
    """Check the receipt in FILE ("-" is standard input), without any network.

    Exit codes: 0 it holds (pass or warn), 1 it does not, or your trust does not reach it, 2 FILE is not a receipt.
    """
    receipt = load_receipt(read_file(file))
    policy = _policy(receipt, trust, home)
    body = None if request is None else read_file(request)
    report = verify_receipt(
        receipt,
        policy,
        now_ms=at_ms,
        request=body,
        response=None if response is None else read_file(response),
        nonce=None if nonce is None else from_base64url(nonce, max_bytes=64),
        require=_demands(require),
        recomputation=_recomputation(receipt, body, home) if recompute else None,
    )
    if as_json:
        put_json(report.as_json())
    else:
        put_report(report)
        if policy is None:
            say(
                "hint: no trust policy is pinned for this chain; give one with --trust, or `avow trust pin` the network"
            )
    return OK if report.ok else FAILED


def _recomputation(receipt: AnyReceipt, request: bytes | None, home: Path | None) -> Recomputation:
    """The run of one's own. Raises InputError where it cannot be."""
    from avow.models.store import Store
    from avow.receipt.receipt import Receipt
    from avow.recomputation import recompute

    if not isinstance(receipt, Receipt):
        raise InputError("a stream that broke off has no statement whose run could be repeated")
    return recompute(receipt, Store(resolve_home(home)), request)


def _demands(require: tuple[str, ...]) -> tuple[str, ...]:
    """--require may be repeated, or hold several separated by commas."""
    return tuple(demand for given in require for demand in given.split(",") if demand)


def _policy(receipt: AnyReceipt, trust: Path | None, home: Path | None) -> TrustPolicy | None:
    from avow.client.pins import Pins, read_policy
    from avow.receipt.partial import PartialReceipt

    if trust is not None:
        return read_policy(trust)
    chain = receipt.chain_id if isinstance(receipt, PartialReceipt) else receipt.statement.private.chain_id
    return Pins(resolve_home(home)).for_chain(chain)
