"""What an engine answers when it cannot answer. `fields["param"]` names the offending field, as OpenAI's API does."""

from avow.errors import AvowError, InputError, NotFound, Unavailable


class InvalidRequest(InputError):
    """A field of the request is missing, malformed or out of range."""

    code = "invalid_request"


class UnknownParameter(InvalidRequest):
    """A field that this interface does not have."""

    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """A field, or a value of it, that this program cannot honour; it is refused rather than ignored."""

    code = "unsupported_parameter"


class InvalidSchema(InvalidRequest):
    """A JSON Schema that cannot be enforced."""

    code = "invalid_schema"


class ContextTooLong(InvalidRequest):
    """The prompt does not fit into the program's context."""

    code = "context_length_exceeded"


class InvalidTensor(InvalidRequest):
    """An input tensor has the wrong name, type, shape or data."""

    code = "invalid_tensor"


class WrongKind(NotFound):
    """The program does not answer requests of this kind."""

    code = "wrong_program_kind"


class InvalidOptions(InputError):
    """The manifest's options are not ones that the engine knows."""

    code = "bad_engine_options"


class EngineFailed(AvowError):
    """The engine could not load or run the program."""

    code = "engine_failed"


class EngineClosed(Unavailable):
    """The engine was shut down."""

    code = "engine_closed"


class UpstreamFailed(AvowError):
    """The upstream behind a relayed program did not give a usable answer."""

    code = "upstream_failed"
    http_status = 502
