"""What a gateway refuses on its own, before or instead of asking a node."""

from avow.errors import AvowError, InputError, NotFound, Unavailable


class UnknownModel(NotFound):
    """No node here serves a program of this name."""

    code = "model_not_found"


class WrongKind(InputError):
    """The program is served at another endpoint."""

    code = "wrong_endpoint"


class MethodNotOffered(InputError):
    """The program is not offered by this method."""

    code = "method_not_offered"


class NodeNotOffered(InputError):
    """No node of the operator that the payer authorised is reached from here."""

    code = "node_not_offered"


class ConflictingOptions(InputError):
    """A header and the body's `avow` member ask for different things."""

    code = "conflicting_options"


class BadOption(InputError):
    """An `avow-` header or a member of `avow` is unknown or malformed."""

    code = "bad_option"


class MalformedRequest(InputError):
    """The request body is not what the endpoint takes."""

    code = "malformed_request"


class UnsupportedMediaType(InputError):
    """Requests are JSON."""

    code = "unsupported_media_type"
    http_status = 415


class RequestTimeout(InputError):
    """The request's body came too slowly."""

    code = "request_timeout"
    http_status = 408


class HeadersTooLarge(InputError):
    """The request's header section is larger than its limit."""

    code = "headers_too_large"
    http_status = 431


class HostNotAllowed(InputError):
    """The Host header names a host that this gateway does not answer for."""

    code = "host_not_allowed"
    http_status = 421


class MethodNotAllowed(InputError):
    """The path does not take this HTTP method."""

    code = "method_not_allowed"
    http_status = 405


class TooManyRequests(AvowError):
    """The node works on as many requests as it may."""

    code = "too_many_requests"
    http_status = 429


class ClientGone(AvowError):
    """The client hung up: nobody is left to answer."""

    code = "client_gone"
    http_status = 499


class NoNode(Unavailable):
    """No inference node is connected."""

    code = "no_node"


class GatewayUncovered(Unavailable):
    """The gateway's own account pays, and does not cover the answer now: its allowance is not open yet, or its money is used up."""

    code = "gateway_uncovered"


class AddressInUse(AvowError):
    """The gateway cannot listen where it should."""

    code = "address_in_use"


def says(error: AvowError, kind: type[AvowError]) -> bool:
    """Whether an error, perhaps another process's, is of this kind: codes are compared, for types do not travel."""
    return error.code == kind.code


def is_away(error: AvowError) -> bool:
    """Whether the other side cannot answer now, though it may later."""
    return error.http_status == Unavailable.http_status
