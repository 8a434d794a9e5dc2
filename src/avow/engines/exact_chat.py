"""Chat by an exact program: the same tokens on every machine, with or without a trace.

Rules:
1. What is sampled with are integers: temperature_m, temperature_s, seed, max_tokens. They are in the effective parameters, and a run is a
   function of them, the program and the prompt's tokens alone. Choice i has seed + i.
2. What integers cannot honour is refused by the parameter's name: top_p below 1, penalties, logit_bias, logprobs, tools, JSON forms.
3. The tokeniser is a file of the program. Its work, and that of the template, is checked by name beside the proofs, not by them.
4. A traced run has one choice.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from secrets import randbits
from typing import Any, Literal

from avow.engines.completion import Completion, Emit
from avow.engines.errors import (
    ContextTooLong,
    EngineClosed,
    EngineFailed,
    InvalidOptions,
    UnsupportedParameter,
    WrongKind,
)
from avow.engines.exact_text import TEMPLATES, Said, Text, chat_tokens
from avow.engines.interface import Cost
from avow.engines.openai import NEUTRAL, ChatBody, chat_body
from avow.engines.options import Options
from avow.engines.prompt import Turn, turns
from avow.engines.runtime import package_version
from avow.engines.tools import Words
from avow.exact.errors import BadProgram
from avow.exact.hashing import Header, Salts, Trace
from avow.exact.kernels.language_machine import Followed, LanguageMachine
from avow.exact.kernels.language_run import Generated
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.program import Program
from avow.exact.specification.cells import Parameters
from avow.exact.tokeniser import MAX_FILE, Tokeniser
from avow.models.store import StoredProgram

_SEEDS = 1 << 53
"""Seeds are below this, so that every JSON reader has them right."""
COLDEST = 0.01
"""A temperature between 0 and this is this: below, scores would leave their interval."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The manifest's options of an exact program that chats."""

    root: bytes
    program: str
    tokeniser: str
    template: str
    system: str
    temperature: float


def read_options(program: StoredProgram) -> ChatOptions:
    """Raises InvalidOptions."""
    options = Options(program.manifest.options, "exact")
    defaults = options.section("defaults")
    read = ChatOptions(
        root=_root(options.text("root")),
        program=options.text("program", "program.exact"),
        tokeniser=options.text("tokeniser", "tokeniser.cbor"),
        template=options.text("template", "chatml", among=TEMPLATES),
        system=options.text("system", ""),
        temperature=defaults.decimal("temperature", "1", 0, 2),
    )
    options.end()
    defaults.end()
    return read


def _root(text: str) -> bytes:
    try:
        root = bytes.fromhex(text)
    except ValueError:
        root = b""
    if len(root) != 32 or root.hex() != text:
        raise InvalidOptions("option root must be 64 hexadecimal digits", engine="exact", option="root")
    return root


def temperature_integers(temperature: float) -> tuple[int, int]:
    """1 / temperature as m·2^−s with 2^14 ≤ m < 2^15; (0, 1) for 0, which chooses the largest logit."""
    if temperature == 0:
        return 0, 1
    mantissa, exponent = math.frexp(1 / max(temperature, COLDEST))
    m = round(mantissa * (1 << 15))
    return (1 << 14, 14 - exponent) if m == 1 << 15 else (m, 15 - exponent)


class ExactChat:
    """A loaded program of mode `generate`. Thread-safe; each run has its own memory."""

    name = "exact"
    kind: Literal["chat", "tensor"] = "chat"

    def __init__(self, program: StoredProgram, exact: Program, *, slots: int) -> None:
        """`exact`: the program's file, loaded and checked. Raises BadProgram, BadTokeniser, InvalidOptions."""
        self._options = options = read_options(program)
        self._stored = program
        if exact.root != options.root or exact.mode != "generate":
            raise BadProgram("the program is not the one that the manifest names")
        data = program.read(options.tokeniser, limit=MAX_FILE)
        self._tokeniser = Tokeniser.read(data)
        if len(self._tokeniser.vocabulary.tokens) != exact.inputs[0].high + 1:
            raise InvalidOptions("the tokeniser is not the program's", engine=self.name, option="tokeniser")
        self._tokeniser_digest = sha256(data).hexdigest()
        self.version = f"avow-{package_version('avow')}"
        self.runtime = f"exact-program-{exact.root.hex()}"
        self._exact = exact
        self._slots = threading.BoundedSemaphore(slots)
        self._machine: LanguageMachine | None = LanguageMachine(exact)
        self._fingerprint = f"fp_{exact.root.hex()[:12]}"

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter that shapes the answer, the seed drawn if the caller gave none. Raises InvalidRequest."""
        body = chat_body(request)
        _refuse(body)
        temperature = self._options.temperature if body.temperature is None else body.temperature
        m, s = temperature_integers(temperature)
        context = self._exact.context
        return {
            "program": self._stored.program_id.hex(),
            "engine": self._describe(),
            "sampling": {"temperature": temperature, "temperature_m": m, "temperature_s": s},
            "seed": randbits(53) if body.seed is None else body.seed % _SEEDS,
            "n": body.choices,
            "max_tokens": min(body.max_completion_tokens or body.max_tokens or context, context),
            "stop": body.stops,
            "without_influence": [name for name in NEUTRAL if getattr(body, name) is not None],
        }

    def chat(
        self, request: Mapping[str, Any], effective: Mapping[str, Any], emit: Emit | None = None
    ) -> dict[str, Any]:
        """Answers in OpenAI's form; blocks. With `emit`, chunks go there as they come; True from it ends the work."""
        machine = self._running()
        return self._answer(request, effective, emit, machine.run)

    def traced_chat(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        seed: bytes,
        emit: Emit | None = None,
        *,
        said: str = "",
    ) -> tuple[dict[str, Any], Trace]:
        """`chat` and its trace, salted from the opening's 32-byte seed; one choice. A cancelled run ends with `finish` "text".

        `said`: what somebody answered already; the right words make the run several times cheaper, wrong ones change nothing.
        """
        if effective["n"] != 1:
            raise UnsupportedParameter("an answer that can be challenged has one choice", param="n")
        machine = self._running()
        tracer = BulkTracer(seed, self._exact.ranks)
        traces: list[Trace] = []

        def run(prompt: list[int], parameters: Parameters, *, on_token: Callable[[int], bool]) -> Generated:
            expected = Said(self._tokeniser, said) if said else None
            generated, trace = machine.trace(prompt, parameters, tracer, on_token=on_token, expected=expected)
            traces.append(trace)
            return generated

        answer = self._answer(request, effective, emit, run)
        if not traces:
            raise EngineFailed("the caller left before the work began")
        return answer, traces[0]

    def replay(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: Header,
        *,
        said: str = "",
    ) -> Followed:
        """The honest run of as many steps as `header` claims; `said` as in `traced_chat`. Raises BadRun, InvalidRequest."""
        prompt, parameters = self.inputs(request, effective)
        steps = min(max(header.steps, len(prompt)), self._exact.context)
        return self._running().follow(prompt, parameters, steps, salts, Said(self._tokeniser, said))

    def kept_bytes(self, request: Mapping[str, Any], effective: Mapping[str, Any]) -> int:
        """How much a run of this request leaves behind, at most (`KeptTrace.parts`). Raises InvalidRequest."""
        prompt, parameters = self.inputs(request, effective)
        return self._running().kept_bytes(min(self._exact.context, len(prompt) + parameters.max_tokens))

    def restore(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: bytes,
        data: memoryview,
    ) -> Followed:
        """The run that left `data` behind. Raises BadRun where that cannot be, InvalidRequest."""
        del salts
        prompt, parameters = self.inputs(request, effective)
        return self._running().restore(prompt, parameters, Header.parse(header), header, data)

    def cost(self) -> Cost:
        """What answers about a run cost at most, measured now."""
        return Cost(*self._running().longest_ms())

    def answer_ms(self, request: Mapping[str, Any]) -> float:  # noqa: ARG002  # the interface's
        """One step, whatever the request."""
        return 0.0

    def words(self, effective: Mapping[str, Any], tokens: Sequence[int]) -> str:
        """What is said of chosen tokens while the answer goes on: what may begin a stop text is held back."""
        text = Text(self._tokeniser, list(effective["stop"]))
        return "".join(text.take(token) for token in tokens)

    def inputs(self, request: Mapping[str, Any], effective: Mapping[str, Any]) -> tuple[list[int], Parameters]:
        """What the program itself is given for the first choice: the prompt's tokens and the integers. Raises InvalidRequest."""
        return self._prompt(chat_body(request)), _parameters(effective, 0)

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002  # the interface's
        raise WrongKind("this program chats: use /v1/chat/completions", program=self._stored.manifest.name)

    def traced_infer(self, request: Mapping[str, Any], seed: bytes) -> tuple[dict[str, Any], Trace]:  # noqa: ARG002
        raise WrongKind("this program chats: use /v1/chat/completions", program=self._stored.manifest.name)

    def close(self) -> None:
        """Later calls raise EngineClosed; running answers end as they would have."""
        self._machine = None

    def _running(self) -> LanguageMachine:
        if self._machine is None:
            raise EngineClosed("the engine is shutting down")
        return self._machine

    def _prompt(self, body: ChatBody) -> list[int]:
        rendered: list[Turn] = turns(body.messages, (), self._options.system)
        prompt = chat_tokens(self._tokeniser, rendered)
        if len(prompt) > self._exact.context:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens, the context {self._exact.context}",
                param="messages",
                context=self._exact.context,
            )
        return prompt

    def _answer(
        self, request: Mapping[str, Any], effective: Mapping[str, Any], emit: Emit | None, run: Callable[..., Generated]
    ) -> dict[str, Any]:
        body = chat_body(request)
        _refuse(body)
        if effective.get("engine") != self._describe():
            raise EngineFailed("the effective parameters are not those of this request on this engine")
        prompt = self._prompt(body)
        options = body.stream_options
        completion = Completion(
            model=self._stored.manifest.name,
            fingerprint=self._fingerprint,
            created=int(time.time()),
            logprobs=False,
            emit=emit,
            include_usage=bool(options and options.include_usage),
        )
        completion.usage.prompt = len(prompt)
        with self._slots:
            for index in range(int(effective["n"])):
                if completion.cancelled or not completion.begin_choice():
                    break
                self._choice(prompt, _parameters(effective, index), list(effective["stop"]), completion, run)
        return completion.end()

    def _choice(
        self,
        prompt: list[int],
        parameters: Parameters,
        stops: list[str],
        completion: Completion,
        run: Callable[..., Generated],
    ) -> None:
        text = Text(self._tokeniser, stops)

        def receive(token: int) -> bool:
            completion.usage.completion += 1
            said = text.take(token)
            if said:
                completion.take(Words(said))
            return text.stopped or completion.cancelled

        generated = run(prompt, parameters, on_token=receive)
        if completion.cancelled:
            return
        rest = text.finish()
        if rest:
            completion.take(Words(rest))
        if not completion.cancelled:
            completion.end_choice("length" if generated.finish == "length" and not text.stopped else "stop")

    def _describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "root": self._exact.root.hex(),
            "context": self._exact.context,
            "template": self._options.template,
            "system": self._options.system,
            "tokeniser_sha256": self._tokeniser_digest,
            "special_tokens_in_texts": "plain",
        }


def _parameters(effective: Mapping[str, Any], index: int) -> Parameters:
    sampling = effective["sampling"]
    return Parameters(
        temperature_m=int(sampling["temperature_m"]),
        temperature_s=int(sampling["temperature_s"]),
        seed=(int(effective["seed"]) + index) % _SEEDS,
        max_tokens=int(effective["max_tokens"]),
    )


def _refuse(body: ChatBody) -> None:
    """Rule 2. Raises UnsupportedParameter."""
    form = body.response_format
    asked = (
        ("top_p", body.top_p not in (None, 1)),
        ("frequency_penalty", bool(body.frequency_penalty)),
        ("presence_penalty", bool(body.presence_penalty)),
        ("logit_bias", bool(body.logit_bias)),
        ("logprobs", bool(body.logprobs)),
        ("tools", bool(body.tools)),
        ("response_format", form is not None and form.type != "text"),
    )
    for name, given in asked:
        if given:
            raise UnsupportedParameter(f"exact programs do not offer {name}", param=name)
