"""`avow ask`: a question to a chat model, with its receipt."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from avow.cli.connect import connection, connection_options
from avow.cli.frame import common, printable, put, put_json, say
from avow.cli.show import receipt_json, say_receipt
from avow.client.answers import ChatBody
from avow.client.errors import StreamCut
from avow.client.saved import SavedReceipts
from avow.client.sync import AnswerReceipt, Chat, Client
from avow.errors import InputError
from avow.home import write_private

MAX_PROMPT = 4 * 1024 * 1024


@click.command()
@click.argument("prompt")
@click.option("--model", help="Which model [the gateway's first chat model].")
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--seed", type=int, help="Seed of the sampling.")
@click.option(
    "--stream/--no-stream", default=None, help="Show the answer as it comes, chunk by chunk verified [on a terminal]."
)
@click.option("--settled", is_flag=True, help="Wait until the network has settled the receipt.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the receipt, with prompt and answer, to FILE.",
)
@click.option("--keep/--no-keep", default=True, show_default=True, help="Keep the receipt under HOME/receipts.")
@connection_options
@common
def ask(
    prompt: str,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    stream: bool | None,
    settled: bool,
    save: Path | None,
    keep: bool,
    home: Path | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Ask PROMPT ("-" reads standard input). Nothing is printed that did not hold."""
    link = connection(home, **where)
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": _prompt(prompt)})
    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    parameters = {name: value for name, value in given.items() if value is not None}
    streams = stream if stream is not None else sys.stdout.isatty() and not as_json
    with link.open(save=keep, model=model) as client:
        began = time.monotonic()
        try:
            answer = _ask(client, messages, model, parameters, streams=streams, show=not as_json)
        except StreamCut as error:
            _keep_partial(error, link.home, save)
            raise
        finish(answer, answer.receipt, settled=settled, save=save, as_json=as_json, began=began)


def _prompt(given: str) -> str:
    if given != "-":
        return given
    text = sys.stdin.read(MAX_PROMPT + 1)
    if len(text) > MAX_PROMPT:
        raise InputError(f"the prompt is longer than {MAX_PROMPT} characters")
    return text


def _ask(
    client: Client,
    messages: list[dict[str, str]],
    model: str | None,
    parameters: dict[str, Any],
    *,
    streams: bool,
    show: bool,
) -> Chat:
    if not streams:
        answer = client.chat(messages, model=model, **parameters)
        if show:
            put(_said(answer))
        return answer
    with client.stream(messages, model=model, **parameters) as chunks:
        for chunk in chunks:
            if show:
                click.echo(printable(chunk.text), nl=False)
        if show:
            put("")
    if chunks.answer is None:
        raise InputError("the stream ended without an answer")
    return chunks.answer


def _said(answer: ChatBody) -> str:
    """The answer's text, or its tool calls one a line."""
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in answer.tool_calls]
    return printable("\n".join([answer.text, *calls] if answer.text or not calls else calls))


def finish(
    answer: ChatBody | Any,
    receipt: AnswerReceipt,
    *,
    settled: bool,
    save: Path | None,
    as_json: bool,
    began: float,
) -> None:
    """What follows every answer: settlement and saving where asked for, then a line about the receipt, or JSON.

    `began` is when the request left (monotonic); settled_ms counts from the delivery.
    """
    delivered = time.monotonic()
    delivered_ms, settled_ms = int(1000 * (delivered - began)), None
    if settled:
        receipt.settled()
        settled_ms = int(1000 * (time.monotonic() - delivered))
    if save is not None:
        receipt.save(save)
    if as_json:
        view = {"answer": answer.body, "receipt": receipt_json(receipt.value, receipt.report)}
        put_json(
            view
            | {"delivered_ms": delivered_ms, "settled_ms": settled_ms, "saved": None if save is None else str(save)}
        )
        return
    say_receipt(receipt.value, receipt.report, delivered_ms, settled_ms)
    say(
        click.style(
            f"check it: avow verify {save}" if save else f"check it: avow receipts verify {receipt.id[:16]}", dim=True
        )
    )


def _keep_partial(error: StreamCut, home: Path, save: Path | None) -> None:
    """A broken stream's receipt is kept like any other."""
    if error.receipt is None:
        return
    path = save or SavedReceipts(home).folder / f"partial-{error.receipt.id[:16]}.json"
    write_private(path, error.receipt.to_json())
    say(f"\nthe receipt of what was delivered: {path}")
