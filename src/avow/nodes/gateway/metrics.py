"""Counters, gauges and histograms in Prometheus' text format, version 0.0.4, without a dependency.

Label values come from fixed sets (endpoints, methods, codes, programs served here), never from a caller's bytes: the
number of series is bounded.
"""

from bisect import bisect_left
from collections.abc import Iterable

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _series(name: str, names: Labels, values: Labels, extra: str = "") -> str:
    parts = [f'{label}="{_escape(value)}"' for label, value in zip(names, values, strict=True)]
    if extra:
        parts.append(extra)
    return f"{name}{{{','.join(parts)}}}" if parts else name


class Counter:
    """A number that only grows, per combination of labels; a gauge where `kind` says so."""

    __slots__ = ("help", "kind", "labels", "name", "values")

    def __init__(self, name: str, help_text: str, labels: Labels = (), kind: str = "counter") -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self.kind = kind
        self.values: dict[Labels, float] = {}

    def add(self, values: Labels, amount: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + amount

    def set(self, values: Labels, value: float) -> None:
        self.values[values] = value

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, value in sorted(self.values.items()):
            yield f"{_series(self.name, self.labels, values)} {value:.10g}"


class Histogram:
    """Observations in seconds, in cumulative buckets."""

    __slots__ = ("bounds", "help", "labels", "name", "rows")

    def __init__(
        self, name: str, help_text: str, labels: Labels = (), bounds: tuple[float, ...] = LATENCY_BOUNDS_S
    ) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self.bounds = bounds
        self.rows: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, values: Labels, seconds: float) -> None:
        row = self.rows.get(values)
        if row is None:
            row = self.rows[values] = ([0] * (len(self.bounds) + 1), [0.0])
        row[0][bisect_left(self.bounds, seconds)] += 1
        row[1][0] += seconds

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        for values, (counts, total) in sorted(self.rows.items()):
            running = 0
            edges = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
            for edge, count in zip(edges, counts, strict=True):
                running += count
                bucket = _series(self.name + "_bucket", self.labels, values, f'le="{edge}"')
                yield f"{bucket} {running}"
            yield f"{_series(self.name + '_sum', self.labels, values)} {total[0]:.9f}"
            yield f"{_series(self.name + '_count', self.labels, values)} {running}"


class GatewayMetrics:
    """All that a gateway counts."""

    def __init__(self) -> None:
        self.requests = Counter(
            "avow_gateway_requests_total",
            "Requests by endpoint, method and HTTP status.",
            ("endpoint", "method", "status"),
        )
        self.errors = Counter("avow_gateway_errors_total", "Errors by their stable code.", ("code",))
        self.tokens = Counter("avow_gateway_usage_total", "Units of use by kind, as the statements say.", ("unit",))
        self.seconds = Histogram(
            "avow_gateway_request_seconds",
            "Time from the request's head to the answer's last byte.",
            ("endpoint", "stream"),
        )
        self.first_chunk = Histogram("avow_gateway_first_chunk_seconds", "Time to a stream's first chunk.")
        self.trust_gap = Histogram(
            "avow_gateway_trust_gap_seconds",
            "Time from delivery of an answer until its settlement was seen, monotonic clock.",
        )
        self.trust_gap_open = Counter(
            "avow_gateway_trust_gap_open_seconds", "Age of the oldest delivered answer not yet settled.", (), "gauge"
        )
        self.in_flight = Counter("avow_gateway_in_flight", "Requests that a node works on.", ("node",), "gauge")
        self.connected = Counter("avow_gateway_node_connected", "1 while the node is connected.", ("node",), "gauge")
        self.outbox = Counter(
            "avow_node_outbox_depth", "Statements durable at the node, not yet settled.", ("node",), "gauge"
        )

    def exposition(self) -> bytes:
        lines: list[str] = []
        for metric in vars(self).values():
            lines.extend(metric.lines())
        return ("\n".join(lines) + "\n").encode()
