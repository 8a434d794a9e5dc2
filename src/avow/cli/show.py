"""Receipts and reports, as people read them. Plain text without a terminal library, so that `avow verify` starts fast."""

import datetime as dt
from typing import Any

import click

from avow.cli.frame import mapping, printable, put, say
from avow.receipt.receipt import Receipt
from avow.receipt.report import Outcome, Report, Verdict

_MARKS = {
    Outcome.PASS: ("✓", "green"),
    Outcome.WARN: ("!", "yellow"),
    Outcome.FAIL: ("✗", "red"),
    Outcome.SKIPPED: ("–", "bright_black"),
}
_VERDICTS = {
    Verdict.PASS: ("green", "it holds"),
    Verdict.WARN: ("yellow", "it holds, with the remarks above"),
    Verdict.UNANCHORED: ("magenta", "your trust does not reach it: nothing here shows that it holds"),
    Verdict.FAIL: ("red", "it does not hold"),
}


MAX_SHOWN = 2_000
"""Characters of one part, for people; --json has all of it."""


def put_report(report: Report) -> None:
    """Each check one line, then the verdict and what is not proven."""
    put(f"receipt {report.receipt}")
    width = max(len(check.name.value) for check in report.checks)
    for check in report.checks:
        mark, colour = _MARKS[check.outcome]
        code = click.style(f" [{check.code}]", dim=True) if check.code else ""
        put(f" {click.style(mark, fg=colour)} {check.name.value.ljust(width)}  {printable(check.detail)}{code}")
    colour, meaning = _VERDICTS[report.verdict]
    put(f"{click.style(report.verdict.value, fg=colour, bold=True)}: {meaning}")
    if report.not_proven:
        put(click.style("What this does not prove:", dim=True))
        for line in report.not_proven:
            put(click.style(f"   {line}", dim=True))


def say_receipt(receipt: Receipt, report: Report, delivered_ms: int, settled_ms: int | None) -> None:
    """One line on standard error: what stands behind an answer."""
    colour, _ = _VERDICTS[report.verdict]
    columns = receipt.statement.columns
    state = "not settled yet"
    if receipt.settlement is not None:
        state = "settled" if settled_ms is None else f"settled {settled_ms} ms later"
    verdict = click.style(report.verdict.value, fg=colour)
    say(
        click.style(f"receipt {receipt.id[:16]}…  {columns.method.label}, ", dim=True)
        + verdict
        + click.style(f", delivered in {delivered_ms} ms, {state}", dim=True)
    )


def moment(time_ms: int) -> str:
    """A time as local date and time, to the second."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def receipt_json(receipt: Receipt, report: Report | None = None) -> dict[str, Any]:
    """The main facts of a receipt for programs; the receipt itself is a file of its own."""
    columns, private = receipt.statement.columns, receipt.statement.private
    view: dict[str, Any] = {
        "id": receipt.id,
        "method": columns.method.label,
        "program": columns.program.hex(),
        "chain_id": private.chain_id,
        "number": columns.number,
        "amount_wei": str(columns.amount),
        "ended_ms": columns.ended_ms,
        "settled": receipt.settlement is not None,
        "height": None if receipt.settlement is None else receipt.settlement.height,
    }
    if report is not None:
        view["verdict"] = report.verdict.value
        view["checks"] = [check.as_json() for check in report.checks]
    return view


def put_receipt(receipt: Receipt) -> None:
    """A receipt's facts and, where it has an opening, what was said."""
    columns, private = receipt.statement.columns, receipt.statement.private
    settlement = receipt.settlement
    mapping(
        [
            ("receipt", receipt.id),
            ("chain", private.chain_id),
            ("method", columns.method.label),
            ("program", columns.program.hex()),
            ("engine", f"{private.engine.name} {private.engine.version}"),
            ("node", f"0x{private.node.hex()}, statement {columns.number} of key {private.key.hex()[:16]}…"),
            ("time", f"{moment(private.started_ms)}, {columns.ended_ms - private.started_ms} ms"),
            ("usage", ", ".join(f"{count} {name}" for name, count in private.usage) or "–"),
            ("price", f"{columns.amount} wei, charged to 0x{columns.payer.hex()}"),
            ("settled", "not yet" if settlement is None else f"at height {settlement.height}"),
        ]
    )
    opening = receipt.opening
    for title, parts in () if opening is None else (("request", opening.request), ("response", opening.response)):
        if parts is None:
            continue
        put(click.style(f"\n{title}", bold=True))
        for name, data in parts:
            put(f"  {click.style(name, dim=True)}  {_readable(data)}")
    for item in receipt.disclosures:
        put(f"  {click.style(f'{item.kind} {item.name}', dim=True)}  {_readable(item.data)}")


def _readable(data: bytes) -> str:
    """Bytes as text where they are text; control characters never reach the terminal."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data)} bytes"
    shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 20]}… ({len(text)} characters)"
    return "".join(character if character.isprintable() else "·" for character in shown)
