"""The pages that a gateway serves, read once from the package, under a policy that lets nothing else in.

The script gets the secret from the URL's fragment, which browsers do not send, and gives it in a header to the gateway that
holds the receipt: `no-referrer` and `connect-src 'self'` keep it from anyone else.
`avow-verify.js` is made from web/verify (`make web`); a test holds it equal to what the sources make.
"""

from dataclasses import dataclass
from importlib.resources import files

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...]


_HEADERS = (
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
    ("cache-control", "no-cache"),
)


def _load(name: str, media_type: str) -> Asset:
    return Asset(files(__name__).joinpath(name).read_bytes(), media_type, _HEADERS)


RECEIPT_PAGE = _load("receipt.html", "text/html; charset=utf-8")
ASSETS = {
    "receipt.css": _load("receipt.css", "text/css; charset=utf-8"),
    "receipt.js": _load("receipt.js", "text/javascript; charset=utf-8"),
    "avow-verify.js": _load("avow-verify.js", "text/javascript; charset=utf-8"),
    "mark.svg": _load("mark.svg", "image/svg+xml"),
}
