"""`avow demo`: the whole way, scripted. Each kind of answer by each method, verified, settled, and checked again from its file.

Where the gateway lists an exact program, it answers by optimistic too: settled, and open to challenge for a while.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from avow.cli.connect import url_option
from avow.cli.frame import FAILED, OK, common, printable, put, put_json, resolve_home, say
from avow.cli.show import put_report
from avow.client.errors import ReceiptRefused
from avow.client.session import Model, gateway_url
from avow.client.sync import AnswerReceipt, Client
from avow.errors import AvowError, NotFound
from avow.receipt.report import CheckName, Report
from avow.verification import verify

METHODS = ("vanilla", "tee")
OPTIMISTIC = "optimistic"
EXACT_CLASSIFIER = "magika-exact"
SETTLE_S = 60.0
QUESTION = "What is the capital of France?"
SAMPLE = b'#!/usr/bin/env python3\nimport sys\n\n\ndef main() -> int:\n    """Echo."""\n    print(*sys.argv[1:])\n    return 0\n'


@dataclass(slots=True)
class Step:
    """One answer of the demo. `delivered_ms` counts from the request, `settled_ms` from the delivery."""

    program: str
    method: str
    stream: bool
    said: str = ""
    receipt: str = ""
    report: Report | None = None
    delivered_ms: int | None = None
    settled_ms: int | None = None
    error: AvowError | None = None

    @property
    def finality(self) -> str | None:
        """Until when the answer can be challenged, in words; None for methods whose answers never can."""
        checks = () if self.report is None else self.report.checks
        return next((check.detail for check in checks if check.name is CheckName.FINALITY), None)

    @property
    def ok(self) -> bool:
        return self.error is None and self.report is not None and self.report.ok and self.settled_ms is not None

    def as_json(self) -> dict[str, Any]:
        view: dict[str, Any] = {
            "program": self.program,
            "method": self.method,
            "stream": self.stream,
            "receipt": self.receipt,
            "checks": [] if self.report is None else [check.as_json() for check in self.report.checks],
            "delivered_ms": self.delivered_ms,
            "settled_ms": self.settled_ms,
        }
        if self.finality is not None:
            view["finality"] = self.finality
        return view if self.error is None else view | {"error": self.error.as_json()}


Ask = Callable[[Client, str, str], tuple[str, AnswerReceipt]]


def _chat(client: Client, model: str, method: str) -> tuple[str, AnswerReceipt]:
    answer = client.chat(QUESTION, model=model, method=method, temperature=0, max_tokens=24)
    return answer.text, answer.receipt


def _stream(client: Client, model: str, method: str) -> tuple[str, AnswerReceipt]:
    with client.stream(QUESTION, model=model, method=method, temperature=0, max_tokens=24) as stream:
        text = "".join(chunk.text for chunk in stream)
    return text, stream.receipt


def _classify(client: Client, model: str, method: str) -> tuple[str, AnswerReceipt]:
    answer = client.infer(model, {"file": SAMPLE}, method=method)
    return ", ".join(f"{tensor.get('name')} {tensor.get('data')}" for tensor in answer.outputs), answer.receipt


def run_demo(client: Client, out: Path) -> Iterator[Step]:
    """The steps, as they are done. Receipts are written to `out`. Raises NotFound when the gateway lacks a kind of model."""
    models = client.models()
    chat, tensor = _first(models, "chat"), _first(models, "tensor")
    plan: list[tuple[str, Model, bool, Ask]] = [
        ("chat", chat, False, _chat),
        ("stream", chat, True, _stream),
        ("classify", tensor, False, _classify),
    ]
    each = [(kind, model, stream, ask, method) for kind, model, stream, ask in plan for method in METHODS]
    exact = _exact(models)
    if exact is not None:
        kind, asked = ("chat", _chat) if exact.kind == "chat" else ("classify", _classify)
        each.append((kind, exact, False, asked, OPTIMISTIC))
    for kind, model, stream, ask, method in each:
        step = Step(model.name, method, stream)
        try:
            _run(client, step, ask, out / f"{kind}-{method}.json")
        except AvowError as error:
            step.error = error
        yield step


def _exact(models: list[Model]) -> Model | None:
    """An exact program that the demo knows how to ask, if one answers by optimistic; a quick one rather than a chat model."""
    known = [model for model in models if OPTIMISTIC in model.prices]
    quick = [model for model in known if model.name == EXACT_CLASSIFIER]
    return next(iter([*quick, *[model for model in known if model.kind == "chat"]]), None)


def _first(models: list[Model], kind: str) -> Model:
    for model in models:
        if model.kind == kind and set(METHODS) <= set(model.prices):
            return model
    raise NotFound(f"the gateway lists no {kind} model that answers by {' and '.join(METHODS)}")


def _run(client: Client, step: Step, ask: Ask, path: Path) -> None:
    began = time.monotonic()
    step.said, receipt = ask(client, step.program, step.method)
    step.delivered_ms = int(1000 * (time.monotonic() - began))
    step.report = receipt.report
    path.parent.mkdir(parents=True, exist_ok=True)
    step.receipt = str(receipt.save(path))
    delivered = time.monotonic()
    receipt.settled(timeout=SETTLE_S)
    step.settled_ms = int(1000 * (time.monotonic() - delivered))
    receipt.save(path)
    step.report = verify(path.read_bytes(), client.session.trust, require=("settled", "opened", "fresh", "complete"))
    if not step.report.ok:
        raise ReceiptRefused("the receipt in its file does not hold", step.report)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the receipts [HOME/demo].")
@click.option("--trust", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Trust policy to judge by.")
@url_option
@common
def demo(out: Path | None, trust: Path | None, url: str | None, home: Path | None, as_json: bool) -> int:
    """Ask a chat model, stream, and classify a file, each by vanilla and by tee; check, settle and keep every receipt.

    An exact program is asked by optimistic too.

    Exit code 0 only if all of it held.
    """
    folder = resolve_home(home)
    address, where = url or gateway_url(folder), out or folder / "demo"
    if not as_json:
        return show_demo(address, folder, where, trust)
    view = demo_json(address, folder, where, trust)
    put_json(view)
    return OK if view["ok"] else FAILED


def demo_json(url: str, home: Path, out: Path, trust: Path | None = None) -> dict[str, Any]:
    """Run the demo against the gateway at `url`; {"ok", "answers": […]}."""
    with Client(url, trust=trust, home=home) as client:
        steps = list(run_demo(client, out))
    return {"ok": _held(steps), "answers": [step.as_json() for step in steps]}


def show_demo(url: str, home: Path, out: Path, trust: Path | None = None) -> int:
    """Run the demo and show each step as it is done; the exit code."""
    steps: list[Step] = []
    with Client(url, trust=trust, home=home) as client:
        for step in run_demo(client, out):
            steps.append(step)
            _put(step)
    last = steps[-1]
    if last.report is not None:
        put("")
        put_report(last.report)
    say(f"\nreceipts: {out}" + (f"\ncheck one yourself: avow verify {last.receipt}" if last.receipt else ""))
    return OK if _held(steps) else FAILED


def _held(steps: list[Step]) -> bool:
    return bool(steps) and all(step.ok for step in steps)


def _put(step: Step) -> None:
    kind = "stream" if step.stream else "answer"
    if step.error is not None:
        put(
            f"{click.style('✗', fg='red')} {step.program} {kind} by {step.method}: {step.error.detail} [{step.error.code}]"
        )
        return
    verdict = "" if step.report is None else step.report.verdict.value
    times = f"delivered {step.delivered_ms} ms, settled {step.settled_ms} ms later"
    put(f"{click.style('✓', fg='green')} {step.program} {kind} by {step.method}: {verdict}, {times}")
    put(click.style(f"    {printable(step.said).strip()[:100]}", dim=True))
    if step.finality is not None:
        put(click.style(f"    {step.finality}", dim=True))
