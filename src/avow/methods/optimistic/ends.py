"""The two ends of a run beside request and answer: what the seed's holder can compare without the program (check `ends`).

Rules:
1. The header is the trace's, and is salted with the opening's seed (check `trace`): so a tensor's digest follows from its values.
2. A program that generates: the header's sampling parameters are the effective ones, and these are the request's where it names them
   (`seed`, `temperature`, `max_tokens`); the statement counts as many prompt tokens as the header, and as many answered as it has chosen.
   The answer says that it ended as the header does: "length" for `length`, "stop" for `end`; `text` needs a stop text in the request, or a
   caller who left. The tokens themselves need the tokeniser: recompute.
3. Another program without a processor: the digests of the request's tensors, made the program's integers as the effective parameters
   record it (ports.py), are the header's inputs; those of the answer's tensors are its outputs. Each tensor of an answer is one output of
   the run, under its name, and no two are the same one: else a wrong one could stand beside, or be read as, what is compared.
4. What is not shown is not compared. Effective parameters that do not record what they should: a warning, since a node that runs something
   else would leave just that out.

Pure but for ports.py's arithmetic: no clock, no randomness, no input or output.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Salts, trace_of
from avow.methods.optimistic.ports import Port, into_program, out_of_program, read_ports
from avow.receipt.commitment import Part
from avow.receipt.question import Facts
from avow.receipt.receipt import Opening, Receipt
from avow.receipt.report import Check, CheckName, Outcome

_COLDEST = 0.01
"""The lowest temperature but 0 that exact chat programs tell apart."""
_SEEDS = 1 << 53
"""Seeds of exact chat programs, and what a request's is taken modulo."""
_NAME = CheckName.ENDS
_decode = msgspec.json.Decoder().decode


class _Wrong(Exception):  # a finding on its way to the report, no error
    """`code` of a failure, or empty for a warning."""

    def __init__(self, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


def ends_check(receipt: Receipt, facts: Facts) -> Check:
    """Rules 1 to 4. Raises EncodingError and its kin for a header that is none."""
    opening = receipt.opening
    if opening is None or opening.header is None:
        return Check(
            _NAME, Outcome.SKIPPED, "the trace's header is not shown: nothing to compare request and answer with"
        )
    if trace_of(opening.header) != receipt.statement.columns.trace:
        return Check(_NAME, Outcome.SKIPPED, "the header shown is not the one committed: nothing to compare with")
    header = Header.parse(opening.header)
    try:
        effective = _object(opening.effective)
        if effective is None:
            raise _Wrong("the effective parameters do not say how the program was run")
        if header.prompt:
            return _generated(header, effective, receipt, facts)
        return _computed(header, effective, opening, facts)
    except _Wrong as wrong:
        return Check(_NAME, Outcome.FAIL if wrong.code else Outcome.WARN, wrong.detail, wrong.code)


# --- Programs that generate (rule 2) -------------------------------------------------------------------------------


def _generated(header: Header, effective: Mapping[str, Any], receipt: Receipt, facts: Facts) -> Check:
    private, units = receipt.statement.private, receipt.statement.columns.units
    sampling = effective.get("sampling")
    stops = effective.get("stop")
    if not isinstance(sampling, dict) or not isinstance(stops, list):
        raise _Wrong("the effective parameters do not say how the answer was sampled")
    said = {
        "max_tokens": effective.get("max_tokens"),
        "seed": effective.get("seed"),
        "temperature_m": sampling.get("temperature_m"),
        "temperature_s": sampling.get("temperature_s"),
    }
    if said != dict(header.parameters) or any(isinstance(value, bool) for value in said.values()):
        raise _Wrong("the run was sampled with other parameters than the effective ones", "wrong_parameters")
    request = _named(facts.shown.request, "/seed", "/temperature", "/max_tokens", "/max_completion_tokens")
    _check_asked(request, effective, sampling)
    usage, chosen = dict(private.usage), header.steps - header.prompt + 1
    if usage.get("prompt_tokens") != header.prompt:
        raise _Wrong(
            f"the run had {header.prompt} tokens of prompt, the statement counts another number", "wrong_usage"
        )
    if usage.get("completion_tokens") != chosen:
        raise _Wrong(f"the run chose {chosen} tokens, the statement counts another number", "wrong_usage")
    if units != header.prompt + chosen:
        raise _Wrong(
            f"the run had {header.prompt + chosen} tokens in all, the statement charges another number", "wrong_usage"
        )
    if private.complete:
        _check_end(header, bool(stops), _named(facts.shown.response, "/choices/0/finish_reason"))
    detail = f"{header.prompt} tokens asked, {chosen} chosen, sampled as the parameters say; the tokens themselves are not compared"
    return Check(_NAME, Outcome.PASS, detail)


def _check_asked(request: Mapping[str, Any], effective: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """The effective parameters are the request's, where it names them."""
    seed, temperature = request.get("/seed"), request.get("/temperature")
    if type(seed) is int and seed % _SEEDS != effective.get("seed"):
        raise _Wrong("the answer was sampled with another seed than the request's", "wrong_parameters")
    if temperature is not None and temperature != sampling.get("temperature"):
        raise _Wrong("the answer was sampled at another temperature than the request's", "wrong_parameters")
    most = request.get("/max_completion_tokens") or request.get("/max_tokens")
    if type(most) is int and effective["max_tokens"] > most:
        raise _Wrong("the run may choose more tokens than the request asks for", "wrong_parameters")
    if not _fits(sampling.get("temperature"), sampling["temperature_m"], sampling["temperature_s"]):
        raise _Wrong("the run's temperature is not the one that the parameters say", "wrong_parameters")


def _fits(temperature: object, m: int, s: int) -> bool:
    """Whether m / 2^s is 1 / temperature, to what 15 bits hold; (0, 1) is for 0."""
    if type(temperature) not in (int, float) or not isinstance(temperature, int | float):
        return False
    if temperature == 0 or m == 0:
        return temperature == 0 and (m, s) == (0, 1)
    return m < 1 << 15 and s <= 45 and abs(m * max(temperature, _COLDEST) - (1 << s)) * (1 << 14) <= 1 << s


def _check_end(header: Header, stops: bool, response: Mapping[str, Any]) -> None:
    """How the answer says that it ended, beside the header."""
    if header.finish == "text" and not stops:
        raise _Wrong("the run was broken off, and the request names no stop text", "wrong_finish")
    if "/choices/0/finish_reason" not in response:
        return
    told = response["/choices/0/finish_reason"]
    allowed = ("length",) if told == "length" else ("end", "text") if told == "stop" else ()
    with_the_last = told == "stop" and stops  # a stop text can end with the last token that is allowed
    if header.finish not in allowed and not with_the_last:
        raise _Wrong("the answer says that it ended otherwise than the run did", "wrong_finish")


# --- Other programs (rule 3) ---------------------------------------------------------------------------------------


def _computed(header: Header, effective: Mapping[str, Any], opening: Opening, facts: Facts) -> Check:
    engine = effective.get("engine")
    processor = engine.get("processor") if isinstance(engine, dict) else None
    if not isinstance(processor, str):
        raise _Wrong("the effective parameters do not say how the request becomes the program's inputs")
    if processor != "none":
        detail = f"the processor {processor[:32]} makes the program's inputs: only a run of one's own compares them"
        return Check(_NAME, Outcome.SKIPPED, detail)
    inputs, outputs = _recorded(effective, header)
    salts = Salts(opening.seed)
    asked = _tensors(facts.shown.request, "/inputs/")
    given = _answered(facts.shown.response, outputs)
    compared = [
        *_compared_inputs(header, salts, inputs, asked),
        *_compared_outputs(header, salts, outputs, given),
    ]
    if not compared:
        return Check(
            _NAME, Outcome.SKIPPED, "neither the request's tensors nor the answer's are shown, or can be compared"
        )
    return Check(_NAME, Outcome.PASS, f"the run has the values shown, of the tensors {', '.join(compared)}")


def _recorded(effective: Mapping[str, Any], header: Header) -> tuple[Sequence[Port | None], Sequence[Port | None]]:
    recorded = effective.get("ports")
    item = recorded if isinstance(recorded, dict) else {}
    inputs, outputs = read_ports(item.get("inputs")), read_ports(item.get("outputs"))
    if inputs is None or outputs is None:
        raise _Wrong("the effective parameters do not say what the program's integers stand for")
    if (len(inputs), len(outputs)) != (len(header.inputs), len(header.outputs)):
        raise _Wrong("the effective parameters record other inputs or outputs than the run has", "wrong_inputs")
    return inputs, outputs


def _compared_inputs(
    header: Header, salts: Salts, ports: Sequence[Port | None], tensors: Mapping[str, Mapping[str, Any]] | None
) -> list[str]:
    compared = []
    for at, port in enumerate(ports):
        if port is None or tensors is None:
            continue
        tensor = tensors.get(port.name)
        if tensor is None:
            raise _Wrong("the run has an input that the request does not have", "wrong_inputs")
        data = into_program(port, tensor)
        if data is None:
            continue
        if salts.digest(INPUT_SLOT + at, data) != header.inputs[at]:
            raise _Wrong("the run began with other values than the request's", "wrong_inputs")
        compared.append(port.name[:64])
    return compared


def _answered(parts: Sequence[Part] | None, ports: Sequence[Port | None]) -> Mapping[str, Mapping[str, Any]] | None:
    """The answer's tensors by their names; where all outputs are recorded, every tensor is one of them, once."""
    found, names = _tensors(parts, "/outputs/"), [None if port is None else port.name for port in ports]
    if found is not None and None not in names:
        shown = sum(name.startswith("/outputs/") for name, _ in parts or ())
        if shown != len(found) or not found.keys() <= set(names):
            raise _Wrong("the answer has a tensor that the run did not give", "wrong_outputs")
    return found


def _compared_outputs(
    header: Header, salts: Salts, ports: Sequence[Port | None], tensors: Mapping[str, Mapping[str, Any]] | None
) -> list[str]:
    compared = []
    for at, port in enumerate(ports):
        tensor = None if port is None or tensors is None else tensors.get(port.name)  # a request may ask for some alone
        if port is None or tensor is None:
            continue
        try:
            data = out_of_program(port, tensor)
        except (ValueError, OverflowError):
            raise _Wrong("the answer has values that the program cannot give", "wrong_outputs") from None
        if data is None:
            continue
        if salts.digest(OUTPUT_SLOT + at, data) != header.outputs[at]:
            raise _Wrong("the answer has other values than the run gave", "wrong_outputs")
        compared.append(port.name[:64])
    return compared


# --- JSON ----------------------------------------------------------------------------------------------------------


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _named(parts: Sequence[Part] | None, *names: str) -> dict[str, Any]:
    """The values of those parts that are shown and are JSON."""
    found: dict[str, Any] = {}
    for name, data in parts or ():
        if name in names:
            try:
                found[name] = _decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
    return found


def _tensors(parts: Sequence[Part] | None, prefix: str) -> dict[str, Mapping[str, Any]] | None:
    """The tensors of a body by their names; None where it is not shown."""
    if parts is None:
        return None
    found: dict[str, Mapping[str, Any]] = {}
    for name, data in parts:
        if name.startswith(prefix):
            tensor = _object(data)
            if tensor is not None and isinstance(tensor.get("name"), str):
                found[tensor["name"]] = tensor
    return found
