"""A generator of random texts of a GBNF grammar: what an unhelpful model could say under it.

Reads the grammar's text as llama.cpp's documentation of GBNF describes it, independently of what wrote it.
"""

import re

TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:\\.|[^"\\])*")|(?P<set>\[\^?(?:\\.|[^\]\\])*\])|(?P<name>[a-zA-Z][a-zA-Z0-9-]*)'
    r"|(?P<repeat>\{\d+(?:,\d*)?\}|[*+?])|(?P<mark>[()|]))"
)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def unescape(text):
    def one(found):
        if found[1]:
            return chr(int(found[1], 16))
        return ESCAPES.get(found[2], found[2])

    return re.sub(r"\\(?:x([0-9A-Fa-f]{2})|(.))", one, text)


def characters(text):
    """The members of a set: [^…] as (True, …)."""
    inner = text[1:-1]
    negated = inner.startswith("^")
    units = re.findall(r"\\x[0-9A-Fa-f]{2}|\\.|.", inner[negated:], re.DOTALL)
    units = [unescape(unit) if unit.startswith("\\") else unit for unit in units]
    found, index = [], 0
    while index < len(units):
        if index + 2 < len(units) and units[index + 1] == "-":
            found.append((ord(units[index]), ord(units[index + 2])))
            index += 3
        else:
            found.append((ord(units[index]), ord(units[index])))
            index += 1
    return negated, found


def parse(text):
    rules = {}
    for line in text.splitlines():
        name, _, body = line.partition(" ::= ")
        assert name
        assert name not in rules
        tokens, position = [], 0
        body = body.rstrip()
        while position < len(body):
            found = TOKEN.match(body, position)
            assert found, f"not GBNF: {body[position:]!r}"
            tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()
        rules[name], rest = alternatives(tokens, 0)
        assert rest == len(tokens)
    return rules


def alternatives(tokens, position):
    found = [[]]
    while position < len(tokens):
        kind, value = tokens[position]
        if kind == "mark" and value == ")":
            break
        position += 1
        if kind == "mark" and value == "|":
            found.append([])
        elif kind == "mark":
            inner, position = alternatives(tokens, position)
            assert tokens[position][1] == ")"
            position += 1
            found[-1].append(("group", inner, 1, 1))
        elif kind == "repeat":
            what, inner, _low, _high = found[-1].pop()
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(value) or bounds(value)
            found[-1].append((what, inner, low, high))
        else:
            value = unescape(value[1:-1]) if kind == "string" else characters(value) if kind == "set" else value
            found[-1].append((kind, value, 1, 1))
    return found, position


def bounds(text):
    low, comma, high = text[1:-1].partition(",")
    return int(low), (int(high) if high else None) if comma else int(low)


class Generator:
    """Random texts; deep down it takes the shortest ways out."""

    def __init__(self, text, random):
        self.rules, self.random = parse(text), random
        for name in {n for body in self.rules.values() for n in names(body)}:
            assert name in self.rules, f"no rule {name}"
        self.heights = self.measure()

    def measure(self):
        """The least depth at which each rule can end."""
        heights = dict.fromkeys(self.rules, 10_000)
        while True:
            again = {name: 1 + self.height(body, heights) for name, body in self.rules.items()}
            if again == heights:
                return heights
            heights = again

    def height(self, body, heights):
        return min(self.sequence_height(sequence, heights) for sequence in body)

    def sequence_height(self, sequence, heights):
        least = 0
        for kind, inner, low, _high in sequence:
            if low and kind == "name":
                least = max(least, heights[inner])
            elif low and kind == "group":
                least = max(least, self.height(inner, heights))
        return least

    def text(self, name="root", budget=12):
        return self.body(self.rules[name], budget)

    def body(self, body, budget):
        if budget <= 0:
            body = [min(body, key=lambda sequence: self.sequence_height(sequence, self.heights))]
        return "".join(self.item(item, budget) for item in self.random.choice(body))

    def item(self, item, budget):
        kind, inner, low, high = item
        count = low if budget <= 0 else self.random.randint(low, min(low + 3, high if high is not None else low + 3))
        if kind == "string":
            return inner * count
        if kind == "set":
            return "".join(self.character(*inner) for _ in range(count))
        if kind == "group":
            return "".join(self.body(inner, budget - 1) for _ in range(count))
        return "".join(self.text(inner, budget - 1) for _ in range(count))

    def character(self, negated, ranges):
        if not negated:
            low, high = self.random.choice(ranges)
            return chr(self.random.randint(low, high))
        while True:
            char = self.random.choice(
                ["a", "é", "🦜", "<", ">", "t", "{", " ", "\n", chr(self.random.randint(32, 0xD7FF))]
            )
            if not any(low <= ord(char) <= high for low, high in ranges):
                return char


def names(body):
    for sequence in body:
        for kind, inner, _low, _high in sequence:
            if kind == "name":
                yield inner
            elif kind == "group":
                yield from names(inner)
