"""Chat by llama.cpp (xllamacpp), in process, several jobs at once by continuous batching.

Rules:
1. The engine library sees a file only after its digest and its header were checked.
2. Every parameter that it is given is in the effective parameters: nothing rests on its defaults for sampling.
3. No key-value cache is shared between requests: `cache_prompt` is false, so that neither bits nor times of one caller's
   answer depend on another's prompt.
4. What the library does not enforce (tool choice, schemas) is enforced by a grammar of ours; a grammar that it does not
   understand is an error there, never ignored.
5. Its built-in HTTP server is bound to a socket file in a private folder that is gone once it runs: nobody can reach it.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from secrets import randbits, token_hex
from typing import Any, Literal, cast

from avow.engines.completion import Completion, Emit
from avow.engines.errors import (
    EngineClosed,
    EngineFailed,
    InvalidOptions,
    UnsupportedParameter,
    WrongKind,
)
from avow.engines.grammar import Grammar, any_object, schema_grammar
from avow.engines.llama_answers import StreamReader, by_character, refused
from avow.engines.openai import NEUTRAL, ChatBody, chat_body
from avow.engines.options import Options
from avow.engines.prompt import Turn, added_digest, tools_text, turns
from avow.engines.runtime import package_version, runtime_id
from avow.engines.tools import ToolCallParser, ToolPlan, Words, bare_prefixes, plan_tools, tool_grammar
from avow.models.errors import ManifestError
from avow.models.gguf import check_gguf
from avow.models.store import StoredProgram

SAMPLERS = ["penalties", "top_k", "top_p", "min_p", "temperature"]
_SEEDS = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """The manifest's options for this engine. `context` is in tokens per slot."""

    model: str
    template: str
    system: str
    tools: bool
    context: int
    batch: int
    flash_attention: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float


def read_options(program: StoredProgram) -> LlamaOptions:
    """The options of a program of this engine. Raises InvalidOptions, ManifestError."""
    options = Options(program.manifest.options, "llama")
    files = program.manifest.files
    defaults = options.section("defaults")
    read = LlamaOptions(
        model=options.text("model", files[0].path if len(files) == 1 else None),
        template=options.text("template"),
        system=options.text("system", ""),
        tools=options.text("tools", "none", among=("none", "hermes")) == "hermes",
        context=options.integer("context", 2048, 256, 1 << 20),
        batch=options.integer("batch", 512, 32, 4096),
        flash_attention=options.truth("flash_attention", default=False),
        temperature=defaults.decimal("temperature", "1", 0, 2),
        top_p=defaults.decimal("top_p", "1", 0.001, 1),
        top_k=defaults.integer("top_k", 0, 0, 1 << 20),
        min_p=defaults.decimal("min_p", "0", 0, 1),
        repeat_penalty=defaults.decimal("repeat_penalty", "1", 0.5, 2),
    )
    options.end()
    defaults.end()
    if read.context % 256 or not read.template:
        raise ManifestError("context is a multiple of 256 and there is a template")
    return read


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request comes down to, as a function of request and program alone."""

    turns: list[Turn]
    tools: ToolPlan
    grammar: Grammar | None


class LlamaEngine:
    """One loaded program. Thread-safe: more calls than slots wait their turn."""

    name = "llama"
    kind: Literal["chat", "tensor"] = "chat"

    def __init__(self, program: StoredProgram, *, threads: int, slots: int) -> None:
        self.version = f"xllamacpp-{package_version('xllamacpp')}"
        self.runtime = runtime_id("xllamacpp", "*.so")
        self._options = read_options(program)
        self._program = program
        self._threads, self._slots = threads, slots
        path = program.paths[program.manifest.file(self._options.model).path]
        check_gguf(path)
        self._fingerprint = "fp_" + sha256(f"{self.version} {self.runtime}".encode()).hexdigest()[:12]
        self._server: Any = self._start(path)
        self._running = 0
        self._idle = threading.Condition()

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter that shapes the answer, the seed drawn if the caller gave none. Raises InvalidRequest."""
        body = chat_body(request)
        plan = self._plan(body)
        options = self._options
        seed = randbits(31) % _SEEDS if body.seed is None else body.seed % _SEEDS
        return {
            "program": self._program.program_id.hex(),
            "engine": self._describe(),
            "sampling": {
                "temperature": options.temperature if body.temperature is None else body.temperature,
                "top_p": options.top_p if body.top_p is None else body.top_p,
                "top_k": options.top_k,
                "min_p": options.min_p,
                "frequency_penalty": body.frequency_penalty or 0.0,
                "presence_penalty": body.presence_penalty or 0.0,
                "repeat_penalty": options.repeat_penalty,
                "repeat_last_n": 64,
                "samplers": list(SAMPLERS),
                "logit_bias": sorted([int(token), bias] for token, bias in (body.logit_bias or {}).items()),
            },
            "seed": seed,
            "n": body.choices,
            "max_tokens": min(body.max_completion_tokens or body.max_tokens or options.context, options.context),
            "stop": body.stops,
            "logprobs": bool(body.logprobs),
            "top_logprobs": body.top_logprobs or 0,
            "response_format": body.response_format.type if body.response_format else "text",
            "tools": {
                "mode": plan.tools.mode,
                "parallel": plan.tools.parallel,
                "prompt_sha256": added_digest(tools_text(plan.tools.told)) if plan.tools.told else None,
            },
            "grammar_sha256": sha256(plan.grammar.text.encode()).hexdigest() if plan.grammar else None,
            "not_enforced": list(plan.grammar.unenforced) if plan.grammar else [],
            "without_influence": [name for name in NEUTRAL if getattr(body, name) is not None],
        }

    def chat(
        self, request: Mapping[str, Any], effective: Mapping[str, Any], emit: Emit | None = None
    ) -> dict[str, Any]:
        """Answers in OpenAI's form; blocks. With `emit`, chunks go there as they come; True from it ends the work.

        Raises InvalidRequest, ContextTooLong, EngineFailed, EngineClosed, and whatever `emit` raises.
        """
        body = chat_body(request)
        plan = self._plan(body)
        digest = sha256(plan.grammar.text.encode()).hexdigest() if plan.grammar else None
        if effective.get("grammar_sha256") != digest or effective.get("engine") != self._describe():
            raise EngineFailed("the effective parameters are not those of this request on this engine")
        options = body.stream_options
        completion = Completion(
            model=self._program.manifest.name,
            fingerprint=self._fingerprint,
            created=int(time.time()),
            logprobs=bool(body.logprobs),
            emit=emit,
            include_usage=bool(options and options.include_usage),
        )
        with self._work():
            for index in range(int(effective["n"])):
                if completion.cancelled or not completion.begin_choice():
                    break
                job = self._job(plan, effective, index)
                if body.logprobs:
                    self._run_whole(job, plan, completion, int(effective["top_logprobs"]))
                else:
                    self._run_stream(job, plan, completion)
        return completion.end()

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002  # the interface's
        raise WrongKind("this program chats: use /v1/chat/completions", program=self._program.manifest.name)

    def close(self) -> None:
        """Ends the engine once the running answers are done; later calls raise EngineClosed."""
        with self._idle:
            server, self._server = self._server, None
            self._idle.wait_for(lambda: self._running == 0)
        del server

    def _describe(self) -> dict[str, Any]:
        options = self._options
        return {
            "name": self.name,
            "version": self.version,
            "runtime": self.runtime,
            "threads": self._threads,
            "slots": self._slots,
            "context": options.context,
            "batch": options.batch,
            "flash_attention": options.flash_attention,
            "cache_type": "f16",
            "cache_prompt": False,
            "continuous_batching": True,
            "template_sha256": sha256(options.template.encode()).hexdigest(),
            "special_tokens_in_texts": "recognised",
        }

    def _start(self, path: Path) -> Any:
        # By name: the library is an extension module whose types nobody has written down.
        xllamacpp = import_module("xllamacpp")
        options = self._options
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.chat_template = options.template
        params.use_jinja = True
        params.force_pure_content_parser = True
        params.n_ctx = options.context * self._slots
        params.n_parallel = self._slots
        params.n_batch = params.n_ubatch = options.batch
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.flash_attn_type = (
            xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if options.flash_attention
            else xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.kv_unified = params.cache_prompt = params.cache_idle_slots = params.ctx_shift = False
        params.cache_ram_mib = params.n_cache_reuse = params.n_ctx_checkpoints = 0
        params.slot_prompt_similarity = 0.0
        params.fit_params = params.ui = params.endpoint_slots = False
        params.no_mmproj = params.offline = params.check_tensors = True
        params.n_threads_http = 1
        params.verbosity = -1
        folder = Path(tempfile.mkdtemp(prefix="avow-llama-"))
        try:
            params.hostnames = [str(folder / "closed.sock")]
            params.api_keys = [token_hex(32)]
            server = xllamacpp.Server(params)
            self._try(server)
            return server
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineFailed("the engine cannot load this model", program=self._program.manifest.name) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _try(self, server: Any) -> None:
        """One token, so that a template that does not render is noticed now.

        It is needed for another reason too: the library's constructor returns before its loop runs, and a server that is
        freed before that is never told to stop: freeing it would wait for ever.
        """
        job = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "cache_prompt": False}
        answer = server.handle_chat_completions(job)
        if "error" in answer:
            raise InvalidOptions("the model's template cannot be rendered", engine=self.name, option="template")

    @contextmanager
    def _work(self) -> Iterator[None]:
        with self._idle:
            if self._server is None:
                raise EngineClosed("the engine is shutting down")
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _plan(self, body: ChatBody) -> _Plan:
        tools = plan_tools(body)
        if tools.told and not self._options.tools:
            raise UnsupportedParameter("this program was not taught to call tools", param="tools")
        grammar: Grammar | None = None
        form = body.response_format
        if tools.mode != "none":
            grammar = tool_grammar(tools)
        elif form and form.json_schema:
            place = "response_format.json_schema.schema"
            grammar = schema_grammar(form.json_schema.schema or {}, strict=bool(form.json_schema.strict), param=place)
        elif form and form.type == "json_object":
            grammar = any_object()
        return _Plan(turns(body.messages, tools.told, self._options.system), tools, grammar)

    def _job(self, plan: _Plan, effective: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The library's request for one choice; choice i is sampled with seed + i."""
        sampling = cast("Mapping[str, Any]", effective["sampling"])
        job: dict[str, Any] = {
            "messages": plan.turns,
            **{name: value for name, value in sampling.items() if name != "repeat_last_n"},
            "repeat_last_n": sampling["repeat_last_n"],
            "seed": (int(effective["seed"]) + index) % _SEEDS,
            "max_tokens": effective["max_tokens"],
            "stop": effective["stop"],
            "cache_prompt": False,
            "add_generation_prompt": True,
        }
        if plan.grammar:
            job["grammar"] = plan.grammar.text
        return job

    def _run_stream(self, job: dict[str, Any], plan: _Plan, completion: Completion) -> None:
        parser = ToolCallParser(bare_prefixes(plan.tools)) if plan.tools.mode != "none" else None
        progress = StreamReader(completion)
        failure: list[BaseException] = []

        def receive(piece: dict[str, Any]) -> bool:
            # An exception cannot cross the library: it is kept, and the work ends.
            try:
                for text in progress.read(piece):
                    for event in parser.feed(text) if parser else (Words(text),):
                        completion.take(event)
            except BaseException as error:  # noqa: BLE001
                failure.append(error)
            return bool(failure) or completion.cancelled

        self._call({**job, "stream": True, "timings_per_token": True}, receive)
        if failure:
            raise failure[0]
        for event in parser.finish() if parser and not completion.cancelled else ():
            completion.take(event)
        if not completion.cancelled:
            completion.end_choice(progress.finish_reason())

    def _run_whole(self, job: dict[str, Any], plan: _Plan, completion: Completion, top: int) -> None:
        """Makes the answer whole before it is sent on, for the sake of its log-probabilities.

        In the library's streams, tokens whose text is held back (half a character, the beginning of a stop text) lose theirs.
        """
        answer = self._call({**job, "logprobs": True, "top_logprobs": max(1, top)}, None)
        choice = answer["choices"][0]
        completion.usage.prompt = answer["usage"]["prompt_tokens"]
        completion.usage.completion += answer["usage"]["completion_tokens"]
        parser = ToolCallParser(bare_prefixes(plan.tools)) if plan.tools.mode != "none" else None
        text = choice["message"]["content"] or ""
        entries = (choice.get("logprobs") or {}).get("content") or []
        if parser:
            for event in [*parser.feed(text), *parser.finish()]:
                completion.take(event)
        else:
            for words, tokens in by_character(text, entries, top):
                completion.take(Words(words), tokens)
        if not completion.cancelled:
            completion.end_choice(choice["finish_reason"])

    def _call(self, job: dict[str, Any], receive: Callable[[dict[str, Any]], bool] | None) -> dict[str, Any]:
        server = self._server
        try:
            answer = server.handle_chat_completions(job, receive) if receive else server.handle_chat_completions(job)
        except (RuntimeError, ValueError, TypeError) as error:
            raise EngineFailed("the engine could not run this request") from error
        if answer is None:
            return {}
        if "error" in answer:
            raise refused(answer["error"])
        return cast("dict[str, Any]", answer)
