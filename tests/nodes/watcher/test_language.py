"""Answers of chat programs: tokens, text, usage, ends and streams; honest ones are agreed to, and each lie about them is told apart."""

import json

import msgspec
import pytest

from avow.exact.hashing import Header
from avow.nodes.watcher.check import examine
from avow.nodes.watcher.states import Event
from tests.nodes.watcher.language import Answered, request_of, runnable_chat


@pytest.fixture(scope="module")
def runnable(tmp_path_factory):
    return runnable_chat(tmp_path_factory.mktemp("chat"))


def found(runnable, statement):
    return examine(runnable, statement.shown, statement.trace, statement)


def words(statement):
    return json.loads(statement.shown.response)["choices"][0]["message"]["content"]


def stop_of(runnable, at=6):
    """A text that comes up in the answer."""
    text = words(Answered(runnable, request_of()))
    return text[at : at + 3]


HONEST = {
    "as it is": {},
    "at temperature 0": {"temperature": 0},
    "hot": {"temperature": 1.7, "seed": 3},
    "one token": {"max_tokens": 1},
    "without a limit": {"max_tokens": None},
    "without a seed": {"seed": None},
    "with a system message": {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hé 你"}]
    },
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("more", HONEST.values(), ids=HONEST)
def test_an_honest_answer_is_agreed_to_and_nothing_is_asked(runnable, more, streamed):
    stated = {name: value for name, value in more.items() if value is not None}
    dropped = [name for name, value in more.items() if value is None]
    body = request_of(**stated, **({"stream": True} if streamed else {}))
    if dropped:
        import json

        body = json.dumps({name: value for name, value in json.loads(body).items() if name not in dropped}).encode()
    statement = Answered(runnable, body, streamed=streamed)
    assert found(runnable, statement).event is Event.SAME_RUN
    assert not statement.asked


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_stop_text_ends_an_answer(runnable, streamed):
    stop = stop_of(runnable)
    statement = Answered(runnable, request_of(stop=stop, stream=streamed), streamed=streamed)
    assert Header.parse(statement.header).finish == "text"
    assert stop not in words(statement)
    assert found(runnable, statement).event is Event.SAME_RUN


@pytest.mark.parametrize("left_after", [2, 3, 7, 20, 25, 26, 27])
def test_a_caller_may_leave_at_any_chunk(runnable, left_after):
    for more in ({}, {"stop": stop_of(runnable, 15)}, {"stop": ["zzz", "the "]}):
        statement = Answered(runnable, request_of(stream=True, **more), left_after=left_after)
        assert found(runnable, statement).event is Event.SAME_RUN, (left_after, more)


def say(text):
    def told(answer):
        answer["choices"][0]["message"]["content"] = text(answer["choices"][0]["message"]["content"])

    return told


def member(name, value, choice=True):
    def told(answer):
        (answer["choices"][0] if choice else answer)[name] = value

    return told


def message(name, value):
    def told(answer):
        answer["choices"][0]["message"][name] = value

    return told


TEXTS = {
    "another text": say(lambda text: "no" + text[2:]),
    "a text more": say(lambda text: text + " Amen."),
    "less text": say(lambda text: text[:-2]),
    "no text": say(lambda _: ""),
    "another finish": member("finish_reason", "stop"),
    "no finish": member("finish_reason", None),
    "a refusal": message("refusal", "I will not"),
    "a call of a tool": message(
        "tool_calls", [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    ),
    "another model": member("model", "gpt-9", choice=False),
    "another fingerprint": member("system_fingerprint", "fp_0", choice=False),
    "two choices": lambda answer: answer["choices"].append(answer["choices"][0]),
    "no choices": lambda answer: answer["choices"].clear(),
    "a member that answers do not have": member("extra", "x", choice=False),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("told", TEXTS.values(), ids=TEXTS)
def test_a_lie_about_the_answer_is_told(runnable, told, streamed):
    statement = Answered(runnable, request_of(stream=streamed), told=told, streamed=streamed)
    assert found(runnable, statement).event is Event.ANSWER_DIFFERS


@pytest.mark.parametrize(
    "lie",
    [
        {"usage": {"completion_tokens": 25}},
        {"usage": {"prompt_tokens": 1}},
        {"usage": {"total_tokens": 1_000}},
        {"usage": {"cached": 3}},
        {"units": 1_000},
        {"units": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("left_after", [None, 5])
def test_a_lie_about_what_is_counted_or_charged_is_told(runnable, lie, left_after):
    statement = Answered(runnable, request_of(stream=True), left_after=left_after, streamed=True, **lie)
    assert found(runnable, statement).event is Event.ANSWER_DIFFERS


@pytest.mark.parametrize(
    "parameters",
    [
        {"seed": 12},
        {"max_tokens": 23},
        {"sampling": {"temperature": 1, "temperature_m": 0, "temperature_s": 1}},
        {"sampling": {"temperature": 1, "temperature_m": 20_000, "temperature_s": 14}},
    ],
    ids=str,
)
def test_a_run_with_other_parameters_than_the_request_s_is_told(runnable, parameters):
    statement = Answered(runnable, request_of(), parameters=parameters)
    assert found(runnable, statement).event is Event.INPUTS_DIFFER


@pytest.mark.parametrize(
    "ran",
    [
        request_of(messages=[{"role": "user", "content": "the sea, 43"}]),
        request_of(messages=[{"role": "user", "content": "the sea"}]),
        request_of(messages=[{"role": "user", "content": "the sea, 42, and more of it"}]),
        request_of(messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "the sea, 42"}]),
        request_of(messages=[{"role": "assistant", "content": "the sea, 42"}, {"role": "user", "content": "go on"}]),
    ],
    ids=["another", "shorter", "longer", "with a system message", "with another's words"],
)
def test_a_run_on_another_prompt_is_told(runnable, ran):
    statement = Answered(runnable, request_of(), ran=ran)
    assert found(runnable, statement).event is Event.INPUTS_DIFFER


def test_a_node_that_breaks_off_and_calls_it_whole_is_told(runnable):
    """Fewer tokens than the request asked for, and a caller who waits for all of them."""
    for left_after in (3, 10):
        statement = Answered(runnable, request_of(stream=True), left_after=left_after, complete=True)
        assert found(runnable, statement).event is Event.ANSWER_DIFFERS


def test_a_stop_text_that_the_request_does_not_have_ends_nothing(runnable):
    ran = request_of(stop=stop_of(runnable))
    statement = Answered(runnable, request_of(), ran=ran, parameters={"stop": [stop_of(runnable)]})
    assert found(runnable, statement).event is Event.ANSWER_DIFFERS


@pytest.mark.parametrize(
    "told",
    [
        say(lambda text: "x" + text),
        say(lambda text: text + "!"),
        member("finish_reason", "stop"),
        member("finish_reason", "length"),
    ],
    ids=["another text", "a text more", "stopped", "long enough"],
)
def test_a_stream_that_was_cut_says_what_the_run_had_said_and_no_more(runnable, told):
    statement = Answered(runnable, request_of(stream=True), left_after=6, told=told)
    assert found(runnable, statement).event is Event.ANSWER_DIFFERS


@pytest.mark.parametrize(
    "response", [b'{"choices":[]}', b'{"choices":{}}', b'{"choices":[[]]}', b"{}", b'{"choices":[{"message":3}]}']
)
@pytest.mark.parametrize("complete", [True, False])
def test_whatever_was_answered_is_a_finding_and_no_failure(runnable, response, complete):
    statement = Answered(runnable, request_of(stream=True), left_after=5, complete=complete)
    statement.shown = msgspec.structs.replace(statement.shown, response=response)
    assert found(runnable, statement).event in (Event.ANSWER_DIFFERS, Event.SAME_RUN)


def test_a_stream_may_carry_its_usage(runnable):
    body = request_of(stream=True, stream_options={"include_usage": True})
    assert found(runnable, Answered(runnable, body, streamed=True)).event is Event.SAME_RUN
