"""What the seed's holder compares without the program: each lie about a run's two ends fails by its own code."""

import json
import math
import struct
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Salts, trace_of
from avow.exact.tensors import pack, unpack
from avow.methods.optimistic.ends import _fits, ends_check
from avow.methods.optimistic.ports import into_program, out_of_program, read_ports
from avow.receipt.question import Facts, Question, Shown
from avow.receipt.report import Outcome
from avow.receipt.statement import Method
from tests.simulator import CHAT, EXACT_CHAT, INFER, Simulator

PORT = {
    "name": "x", "scale": "0.1", "rounding": "nearest", "stands_for": "float32", "type": "int8", "low": -127, "high": 127,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    made = Simulator("ends")
    made.register(Method.OPTIMISTIC)
    return made


@pytest.fixture(scope="module")
def chat(network):
    body = network.chat_body("What?", seed=7, temperature=0, max_tokens=64)
    response, receipt = network.answer(CHAT, body, Method.OPTIMISTIC)
    return receipt.opened(body, response)


@pytest.fixture(scope="module")
def tensor(network):
    values = {"name": "input", "shape": [3], "datatype": "FP64", "data": [1.4, -7, 0.5]}
    body = json.dumps({"inputs": [{**values, "data": [1, -7, 0]}]}).encode()
    response, receipt = network.answer(INFER, body, Method.OPTIMISTIC)
    return receipt.opened(body, response)


def found(receipt):
    question = Question(0)
    check = ends_check(receipt, Facts(None, question, anchored=True, shown=Shown(receipt, question)))
    return check.outcome, check.code


def with_header(receipt, **changes):
    """The receipt of a node that committed to another header: signatures are other checks' matter."""
    header = replace(Header.parse(receipt.opening.header), **changes).encoded()
    columns = replace(receipt.statement.columns, trace=trace_of(header))
    return replace(
        receipt, statement=replace(receipt.statement, columns=columns), opening=replace(receipt.opening, header=header)
    )


def with_effective(receipt, **changes):
    effective = json.dumps({**json.loads(receipt.opening.effective), **changes}).encode()
    return replace(receipt, opening=replace(receipt.opening, effective=effective))


def with_part(receipt, kind, name, data):
    parts = tuple((at, data if at == name else value) for at, value in getattr(receipt.opening, kind))
    assert parts != getattr(receipt.opening, kind)
    return replace(receipt, opening=replace(receipt.opening, **{kind: parts}))


def with_counts(receipt, units=None, **usage):
    private = replace(receipt.statement.private, usage=tuple(usage.items()))
    columns = receipt.statement.columns if units is None else replace(receipt.statement.columns, units=units)
    return replace(receipt, statement=replace(receipt.statement, private=private, columns=columns))


def test_honest_runs(chat, tensor):
    assert found(chat) == (Outcome.PASS, "")
    assert found(tensor) == (Outcome.PASS, "")


def test_what_is_not_shown(chat, tensor):
    bare = replace(chat.opening, request=None, response=None)
    assert found(replace(chat, opening=bare)) == (Outcome.PASS, "")  # counts and parameters stand in the receipt itself
    assert found(replace(tensor, opening=replace(tensor.opening, request=None, response=None)))[0] is Outcome.SKIPPED
    assert found(replace(tensor, opening=replace(tensor.opening, request=None)))[0] is Outcome.PASS
    assert found(chat.redacted())[0] is Outcome.SKIPPED
    assert found(replace(chat, opening=replace(chat.opening, header=None)))[0] is Outcome.SKIPPED
    assert found(replace(chat, opening=replace(chat.opening, header=tensor.opening.header)))[0] is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"prompt": 2}, "wrong_usage"),
        ({"prompt": 4}, "wrong_usage"),
        ({"steps": 7}, "wrong_usage"),
        ({"steps": 5}, "wrong_usage"),
        ({"finish": "length"}, "wrong_finish"),
        ({"finish": "text"}, "wrong_finish"),
        ({"parameters": {"max_tokens": 63, "seed": 7, "temperature_m": 0, "temperature_s": 1}}, "wrong_parameters"),
        ({"parameters": {"max_tokens": 64, "seed": 8, "temperature_m": 0, "temperature_s": 1}}, "wrong_parameters"),
        ({"parameters": {"max_tokens": 64, "seed": 7, "temperature_m": 1, "temperature_s": 1}}, "wrong_parameters"),
        ({"parameters": {"max_tokens": 64, "seed": 7, "temperature_m": 0, "temperature_s": 2}}, "wrong_parameters"),
        ({"parameters": {}}, "wrong_parameters"),
    ],
)
def test_a_chat_that_ran_otherwise(chat, change, code):
    assert found(with_header(chat, **change)) == (Outcome.FAIL, code)


def sampled(receipt, temperature, m, s):
    """Header and effective parameters alike."""
    values = {"max_tokens": 64, "seed": 7, "temperature_m": m, "temperature_s": s}
    changed = with_effective(receipt, sampling={"temperature": temperature, "temperature_m": m, "temperature_s": s})
    return with_header(changed, parameters=values)


def test_parameters_that_are_not_the_requests(chat):
    """A node that states what it ran, but not what was asked."""
    assert found(sampled(chat, 0.5, 16384, 13)) == (Outcome.FAIL, "wrong_parameters")
    free = with_part(chat, "request", "/temperature", b"null")
    assert found(sampled(free, 0.5, 16384, 13)) == (Outcome.PASS, "")
    assert found(sampled(free, 0.5, 16384, 14)) == (Outcome.FAIL, "wrong_parameters")
    assert found(with_part(chat, "request", "/seed", b"8")) == (Outcome.FAIL, "wrong_parameters")
    assert found(with_part(chat, "request", "/seed", str(7 + (1 << 53)).encode())) == (Outcome.PASS, "")
    assert found(with_part(chat, "request", "/seed", str(7 - (1 << 53)).encode())) == (Outcome.PASS, "")
    assert found(with_part(chat, "request", "/seed", str(7 + (1 << 52)).encode())) == (Outcome.FAIL, "wrong_parameters")
    assert found(with_part(chat, "request", "/seed", b"null")) == (Outcome.PASS, "")
    assert found(sampled(free, 0.001, 25_600, 8)) == (Outcome.PASS, "")  # as cold as 0.01
    assert found(with_part(chat, "request", "/max_tokens", b"63")) == (Outcome.FAIL, "wrong_parameters")
    assert found(with_part(chat, "request", "/max_tokens", b"65")) == (Outcome.PASS, "")
    assert found(with_part(chat, "request", "/max_tokens", b"{")) == (Outcome.PASS, "")


def test_the_newer_name_of_the_most_tokens_counts_first(chat):
    for most, outcome in ((b"63", Outcome.FAIL), (b"64", Outcome.PASS)):
        parts = (*chat.opening.request, ("/max_completion_tokens", most))
        assert found(replace(chat, opening=replace(chat.opening, request=parts)))[0] is outcome


def test_true_is_no_number(chat):
    """In JSON they differ; a verifier in another language would not find them equal."""
    values = {"max_tokens": 64, "seed": 1, "temperature_m": 0, "temperature_s": 1}
    free = with_part(with_header(chat, parameters=values), "request", "/seed", b"null")
    assert found(with_effective(free, seed=1)) == (Outcome.PASS, "")
    assert found(with_effective(free, seed=True)) == (Outcome.FAIL, "wrong_parameters")


def test_counts_that_are_not_the_runs(chat):
    assert found(with_counts(chat, prompt_tokens=3, completion_tokens=4)) == (Outcome.PASS, "")
    assert found(with_counts(chat, prompt_tokens=4, completion_tokens=4)) == (Outcome.FAIL, "wrong_usage")
    assert found(with_counts(chat, prompt_tokens=3, completion_tokens=5)) == (Outcome.FAIL, "wrong_usage")
    assert found(with_counts(chat)) == (Outcome.FAIL, "wrong_usage")
    assert found(with_counts(chat, units=8, prompt_tokens=3, completion_tokens=4)) == (Outcome.FAIL, "wrong_usage")


def test_ends_that_are_not_the_runs(chat):
    name = "/choices/0/finish_reason"
    assert found(with_part(chat, "response", name, b'"length"')) == (Outcome.FAIL, "wrong_finish")
    assert found(with_part(chat, "response", name, b'"tool_calls"')) == (Outcome.FAIL, "wrong_finish")
    assert found(with_part(chat, "response", name, b"{}")) == (Outcome.FAIL, "wrong_finish")
    cut = with_header(chat, finish="length")
    assert found(with_part(cut, "response", name, b'"length"')) == (Outcome.PASS, "")
    stops = with_effective(chat, stop=["."])
    for finish in ("text", "length", "end"):
        assert found(with_header(stops, finish=finish)) == (Outcome.PASS, "")
    assert found(with_part(stops, "response", name, b'"length"')) == (Outcome.FAIL, "wrong_finish")
    left = replace(chat.statement, private=replace(chat.statement.private, complete=False))
    assert found(with_header(replace(chat, statement=left), finish="text")) == (Outcome.PASS, "")


@pytest.mark.parametrize(
    "effective", [b"", b"[]", b"{}", b"\xff", b'{"sampling":{}}', b'{"sampling":[],"stop":[]}', b"[" * 9_000]
)
def test_effective_parameters_that_record_nothing_warn(chat, tensor, effective):
    for receipt in (chat, tensor):
        bare = replace(receipt, opening=replace(receipt.opening, effective=effective))
        assert found(bare) == (Outcome.WARN, "")


def test_tensors(tensor):
    asked = json.loads(dict(tensor.opening.request)["/inputs/0"])
    given = json.loads(dict(tensor.opening.response)["/outputs/0"])

    def request(**changes):
        return with_part(tensor, "request", "/inputs/0", json.dumps({**asked, **changes}).encode())

    def response(**changes):
        return with_part(tensor, "response", "/outputs/0", json.dumps({**given, **changes}).encode())

    assert found(request(data=[1, -7, 1])) == (Outcome.FAIL, "wrong_inputs")
    assert found(request(data=[1, -7])) == (Outcome.FAIL, "wrong_inputs")
    assert found(request(data=[[1], [-7], [0]])) == (Outcome.PASS, "")
    assert found(request(name="other")) == (Outcome.FAIL, "wrong_inputs")
    for none in (b"[]", b"{}", b"1", b"x", b'{"name":1}'):
        assert found(with_part(tensor, "request", "/inputs/0", none)) == (Outcome.FAIL, "wrong_inputs")
    assert found(request(datatype="FP16"))[0] is Outcome.PASS  # the answer's tensor is compared still
    assert found(response(data=[given["data"][0] + 1])) == (Outcome.FAIL, "wrong_outputs")
    assert found(response(data=[given["data"][0] + 0.5])) == (Outcome.FAIL, "wrong_outputs")
    assert found(response(data=[1e300])) == (Outcome.FAIL, "wrong_outputs")
    for none in ([None], ["1"], [[1], 2], {}, "AAAA", None, [10**400]):
        assert found(response(data=none)) == (Outcome.FAIL, "wrong_outputs")
    salts = Salts(tensor.opening.seed)
    assert found(with_header(tensor, inputs=(salts.digest(INPUT_SLOT, b""),))) == (Outcome.FAIL, "wrong_inputs")
    assert found(with_header(tensor, outputs=(salts.digest(OUTPUT_SLOT, b""),))) == (Outcome.FAIL, "wrong_outputs")
    other = Salts(bytes(32)).digest(INPUT_SLOT, pack("int32", asked["data"]))
    assert found(with_header(tensor, inputs=(other,))) == (Outcome.FAIL, "wrong_inputs")


def test_every_tensor_of_an_answer_is_one_of_the_runs(tensor):
    """A lie beside the truth: a caller reads the first, or the last, or another name."""
    name = "/outputs/0"
    right = dict(tensor.opening.response)[name]
    lie = json.dumps({**json.loads(right), "data": [99]}).encode()
    others = [part for part in tensor.opening.response if part[0] != name]
    assert found(replace(tensor, opening=replace(tensor.opening, response=tuple(others))))[0] is Outcome.PASS
    for shown in (
        [lie, right],
        [right, lie],
        [right, right],
        [right, json.dumps({**json.loads(lie), "name": "other"}).encode()],
        [json.dumps({**json.loads(right), "name": "other"}).encode()],
        [b"{}", right],
        [right, b"[1]"],
        [b"x"],
    ):
        parts = (*others, *((f"/outputs/{at}", data) for at, data in enumerate(shown)))
        changed = replace(tensor, opening=replace(tensor.opening, response=parts))
        assert found(changed) == (Outcome.FAIL, "wrong_outputs")
        ports = {**json.loads(tensor.opening.effective)["ports"], "outputs": [None]}
        assert (
            found(with_effective(changed, ports=ports))[0] is Outcome.PASS
        )  # names of what is not recorded are not known


def test_processors_and_ports(tensor):
    ports = json.loads(tensor.opening.effective)["ports"]
    assert found(with_effective(tensor, engine={"processor": "magika"}))[0] is Outcome.SKIPPED
    assert found(with_effective(tensor, engine={})) == (Outcome.WARN, "")
    assert found(with_effective(tensor, ports={**ports, "inputs": ports["inputs"] * 2})) == (
        Outcome.FAIL,
        "wrong_inputs",
    )
    assert found(with_effective(tensor, ports={**ports, "inputs": [None]}))[0] is Outcome.PASS
    assert found(with_effective(tensor, ports={"inputs": [None], "outputs": [None]}))[0] is Outcome.SKIPPED
    half = [{**ports["outputs"][0], "stands_for": "float16"}]
    assert found(with_effective(tensor, ports={"inputs": [None], "outputs": half}))[0] is Outcome.SKIPPED
    for wrong in (
        None,
        [],
        {},
        {"inputs": ports["inputs"]},
        {"outputs": ports["outputs"]},
        {**ports, "outputs": [{}]},
        {**ports, "inputs": [{}]},
    ):
        assert found(with_effective(tensor, ports=wrong)) == (Outcome.WARN, "")


# --- Ports ---------------------------------------------------------------------------------------------------------


def port(**changes):
    [made] = read_ports([{**PORT, **changes}])
    return made


@pytest.mark.parametrize(
    "change",
    [{"scale": "0"}, {"scale": "-1"}, {"scale": "nan"}, {"scale": "1e999"}, {"scale": ""}, {"scale": "1,,1"}, {"scale": "1 "}, {"scale": 1},
     {"scale": ",".join(["1"] * 65)}, {"rounding": "up"}, {"type": "int64"}, {"low": -129}, {"low": 5, "high": 4}, {"high": 128},
     {"low": True}, {"name": 1}, {"more": 1}],
)  # fmt: skip
def test_ports_that_are_none(change):
    assert read_ports([{**PORT, **change}]) is None


def test_values_go_in_as_the_notes_say():
    def given(data, datatype="FP64", **changes):
        data = into_program(port(**changes), {"datatype": datatype, "data": data})
        return None if data is None else list(unpack("int8", data))

    assert given([0.05, 0.15, 0.25, -0.05, 0.1]) == [0, 1, 2, 0, 1]  # halves to even; 0.15 / 0.1 is below 1.5
    assert given([0.05, 0.19, -0.01], rounding="floor") == [0, 1, -1]
    assert given([1e300, -1e300, 12.7, -12.7]) == [127, -127, 127, -127]
    assert given([1, 2, 3, 4], scale="1,2") == [1, 1, 3, 2]
    assert given([True, False], "BOOL", scale="1") == [1, 0]
    assert given([3, 4], "INT64", scale="1") == [3, 4]
    assert given([0.2500000001], "FP64", scale="0.5") == [1]
    assert given([0.2500000001], "FP32", scale="0.5") == [0]  # 0.25 is what the tensor holds
    assert given(["a"], "BYTES") is given([1], "FP16") is given([[1], 2]) is given({}, "FP32") is None
    assert given([1e300], "FP32") is None


def test_nested_lists_are_read_row_by_row():
    wanted = pack("int8", [1, 2, 3, 4])
    whole = port(scale="1")
    for data in ([[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]], [[1, 2, 3], [4]]):
        assert into_program(whole, {"datatype": "FP64", "data": data}) == wanted
        assert out_of_program(whole, {"data": data}) == wanted
    for data in ([[1], 2], [1, [2]], [[[1]], [2]], [[1], None], [["1"]], {"0": 1}, "12", 12):
        assert into_program(whole, {"datatype": "FP64", "data": data}) is None
        with pytest.raises(ValueError, match="numbers"):
            out_of_program(whole, {"data": data})


@pytest.mark.parametrize("value", [128, -129, 127.5, 1e30, -1e300, 2**1023, 1e-9])
def test_what_no_integer_of_the_port_stands_for_is_no_answer(value):
    for kind in ("float32", "float64"):
        with pytest.raises((ValueError, OverflowError)):
            out_of_program(port(scale="1", stands_for=kind), {"data": [value]})
        with pytest.raises((ValueError, OverflowError)):
            out_of_program(port(scale="1e-300", stands_for=kind), {"data": [value]})


def test_as_many_ports_and_scales_as_there_may_be():
    for count in (0, 65):
        assert read_ports([PORT] * count) is None
        assert read_ports([{**PORT, "scale": ",".join(["1"] * count)}]) is None
    assert read_ports([PORT] * 64) == (port(),) * 64
    assert len(port(scale=",".join(["1"] * 64)).scales) == 64


@given(st.lists(st.integers(-127, 127), max_size=40), st.floats(1e-6, 1e6), st.sampled_from(["float32", "float64"]))
def test_what_goes_out_comes_back(integers, scale, kind):
    """An honest answer is always found to be the run's, whatever its scale."""
    made = port(scale=repr(scale), stands_for=kind)
    values = [value * scale for value in integers]
    if kind == "float32":
        values = list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))
    data = json.loads(json.dumps(values))
    assert out_of_program(made, {"data": data}) == pack("int8", integers)
    moved = [math.nextafter(value, math.inf) for value in data]
    if integers and kind == "float64":
        with pytest.raises(ValueError, match="program can give"):
            out_of_program(made, {"data": moved})


@pytest.mark.parametrize("temperature", [0, 0.001, 0.01, 0.1, 0.2, 0.7, 1, 1.3, 1.999, 2])
def test_temperatures_fit_their_integers(temperature):
    pytest.importorskip("numpy")
    from avow.engines.exact_chat import temperature_integers

    m, s = temperature_integers(temperature)
    assert _fits(temperature, m, s)
    assert not _fits(temperature, m + 3, s)
    assert not _fits(temperature, m, s + 1)
    assert not _fits(temperature + 0.01, m, s)
    assert not _fits("1", m, s)
    assert not _fits(True, m, s)


@pytest.mark.parametrize(
    ("temperature", "m", "s", "fits"),
    [
        (0, 0, 1, True),
        (0, 25_600, 8, False),  # as cold as can be, and still not 0
        (0.01, 25_600, 8, True),
        (0.01, 51_200, 9, False),  # more than 15 bits
        (2.0**31, 1 << 14, 45, True),
        (2.0**32, 1 << 14, 46, False),  # a shift that no header has
        (1, 0, 0, False),
        (1, 1 << 15, 15, False),
        (1, 1, 0, True),
    ],
)
def test_temperatures_at_the_edges_of_what_integers_can_say(temperature, m, s, fits):
    assert _fits(temperature, m, s) is fits


def test_a_part_of_the_request_that_looks_like_a_tensor_is_none(tensor):
    asked = json.loads(dict(tensor.opening.request)["/inputs/0"])
    fake = ("/parameters", json.dumps({**asked, "data": [9, 9, 9]}).encode())
    parts = tuple(sorted((*tensor.opening.request, fake), key=lambda part: part[0]))
    assert found(replace(tensor, opening=replace(tensor.opening, request=parts))) == (Outcome.PASS, "")


def test_the_engine_and_the_check_agree_on_random_values():
    np = pytest.importorskip("numpy")
    from avow.exact.kernels.ports import Port

    random = Random(4)
    for _ in range(60):
        scales = [random.uniform(1e-3, 3) for _ in range(random.choice((1, 4)))]
        rounding, kind = random.choice(("nearest", "floor")), random.choice(("float32", "float64"))
        theirs = Port("x", np.array(scales), (1, 4), kind, rounding, "int8", (4,), -127, 127)
        mine = port(scale=",".join(map(repr, scales)), rounding=rounding, stands_for=kind)
        values = [random.uniform(-200, 200) * random.choice((1, scales[0])) for _ in range(8)]
        array = np.array(values, dtype=kind).reshape(2, 4)
        wanted = theirs.to_integers(array).tobytes()
        datatype = "FP32" if kind == "float32" else "FP64"
        assert into_program(mine, {"datatype": datatype, "data": values}) == wanted
        out = theirs.to_floats(np.frombuffer(wanted, np.int8).reshape(2, 4)).reshape(-1).tolist()
        assert out_of_program(mine, {"data": out}) == wanted


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*PORT, "data", "datatype"]), inner, max_size=7),
                    max_leaves=12))  # fmt: skip
def test_any_json_is_a_port_or_none(value):
    read_ports(value)
    read_ports([value])
    if isinstance(value, dict):
        into_program(port(), {**value, "datatype": "FP32"})
        try:
            out_of_program(port(), value)
        except (ValueError, OverflowError):
            pass


def test_the_simulators_parameters_are_an_engines():
    assert set(json.loads(EXACT_CHAT)) >= {"sampling", "seed", "max_tokens", "stop", "engine"}
