"""The integers between two bounds as a GBNF expression over decimal digits, without leading zeros.

Pure: no clock, no randomness, no input or output.
"""

MAX_DIGITS = 16


def integer_range(lower: int | None, upper: int | None) -> str:
    """An expression for every integer n with lower ≤ n ≤ upper; None is no bound (then at most 16 digits)."""
    largest = 10**MAX_DIGITS - 1
    low = -largest if lower is None else lower
    high = largest if upper is None else upper
    parts: list[str] = []
    if low < 0:
        parts.extend(f'"-" {text}' for text in _naturals(max(1, -high), -low))
    if high >= 0:
        parts.extend(_naturals(max(0, low), high))
    return " | ".join(parts)


def _naturals(low: int, high: int) -> list[str]:
    """Expressions for low..high, one or more per number of digits."""
    found: list[str] = []
    while low <= high:
        digits = len(str(low))
        end = min(high, 10**digits - 1)
        found.append(_same_length(str(low), str(end)))
        low = end + 1
    return found


def _same_length(low: str, high: str) -> str:
    """Numbers of one length between two digit strings; `low` ≤ `high`."""
    if not low:
        return '""'
    if all(digit == "0" for digit in low) and all(digit == "9" for digit in high):
        return f"[0-9]{{{len(low)}}}"
    first, last = int(low[0]), int(high[0])
    if first == last:
        rest = _same_length(low[1:], high[1:])
        return f'"{first}"' if rest == '""' else f'"{first}" {_grouped(rest)}'
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    parts = []
    if low[1:] != zeros:
        parts.append(f'"{first}" {_grouped(_same_length(low[1:], nines))}')
        first += 1
    tail = ""
    if high[1:] != nines:
        tail = f'"{last}" {_grouped(_same_length(zeros, high[1:]))}'
        last -= 1
    if first <= last:
        digit = f'"{first}"' if first == last else f"[{first}-{last}]"
        parts.append(digit if not zeros else f"{digit} [0-9]{{{len(zeros)}}}")
    if tail:
        parts.append(tail)
    return _grouped(" | ".join(parts)) if len(parts) > 1 else parts[0]


def _grouped(text: str) -> str:
    return f"({text})" if " | " in text and not text.startswith("(") else text
