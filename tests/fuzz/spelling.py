"""Values as JSON, and as what is nearly JSON: the fuzzer's own writer, which can say what no honest one says."""

from __future__ import annotations

import json
from typing import Any


class Spelled(bytes):
    """Text that goes into a message as it stands."""


class Pairs(list):  # type: ignore[type-arg]
    """An object as a list of pairs, so that a name may be in it twice."""


def spell(value: Any) -> bytes:
    """A value as a message has it; lone surrogates become the bytes that UTF-8 forbids."""
    if isinstance(value, Spelled):
        return value
    if isinstance(value, dict):
        return b"{%b}" % b",".join(b"%b:%b" % (spell(name), spell(member)) for name, member in value.items())
    if isinstance(value, Pairs):
        return b"{%b}" % b",".join(b"%b:%b" % (spell(name), spell(member)) for name, member in value)
    if isinstance(value, list):
        return b"[%b]" % b",".join(spell(element) for element in value)
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", core: bytes = b"1") -> Spelled:
    """Something inside something inside something."""
    return Spelled(opening * depth + core + closing * depth)


STRINGS = [
    "",
    "a",
    "user",
    "any",
    "1",
    "null",
    "\0",
    "a\0b",
    "\n",
    "\r\n",
    '"',
    "\\",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "é",
    "🦊",
    "e\u0301",
    "\ud800",
    "\udc00\ud800",
    "../../etc/passwd",
    "/dev/zero",
    "%s%n%b",
    "{}",
    "[null]",
    "$.params",
    "lines",
    "progress",
    "whole",
    "base64",
    "last",
    "x" * 300,
    "ab " * 40,
    "x" * 70_000,
    Spelled(rb'"\ud800"'),
    Spelled(rb'"\udfff\ud800"'),
    Spelled(rb'"\ud83e\udd8a"'),
    Spelled(rb'"\u0000"'),
    Spelled(rb'"\u00"'),
    Spelled(rb'"\x41"'),
    Spelled(rb'"\/\b\f\n\r\t"'),
    Spelled(b'"\xff"'),
    Spelled(b'"\xc3"'),
    Spelled(b'"\xf0\x9f\xa6"'),
    Spelled(b'"\xed\xa0\x80"'),
    Spelled(b'"\xc0\x80"'),
    Spelled(b'"\x01"'),
    Spelled(b'"\t"'),
    Spelled(b"'a'"),
    Spelled(b'"'),
]
NUMBERS = [
    *[0, 1, -1, 2, 3, 4, 7, 64, 100, 127, 128, 255, 256, 4096, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32 - 1],
    *[2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320],
    *[1.7976931348623157e308, 3.5e38, 1e16, float("inf"), float("nan")],
    *map(Spelled, [b"1e400", b"-1e400", b"1e-400", b"1E+2", b"0e0", b"-0", b"1e0", b"9" * 400, b"0." + b"1" * 400]),
    *map(Spelled, [b"9" * 5000, b"01", b"1.", b".5", b"+1", b"--1", b"-", b"0x10", b"1e", b"1_0", b"1e99999999999"]),
]
CONSTANTS = [None, True, False, *map(Spelled, [b"nul", b"True", b"None", b"undefined", b"", b" ", b"\0", b"//", b","])]
SMALL = [[], {}, [None], [[]], [{}], {"": None}, {"a": 1}, [1, 2, 3], [None, None, None, None, None, None]]
DEEP = [
    nested(20),
    nested(200),
    nested(600),
    nested(1500),
    nested(20, b'{"a":', b"}"),
    nested(600, b'{"a":', b"}"),
    nested(1500, b'{"a":', b"}"),
    nested(500, b'[{"a":', b"}]"),
    Spelled(b"[" * 900),
    Spelled(b'{"a":' * 900),
]
TWICE = [Pairs([("a", 1), ("a", 2)]), Pairs([("prompt_input", "one"), ("prompt_input", "two")])]
HUGE = [
    Spelled(b"[%b1]" % (b"1," * 999_999)),
    Spelled(b"[%b{}]" % (b"{}," * 999_999)),
    Spelled(b'"%b"' % (b"y" * 1_000_000)),
    nested(100_000),
    Spelled(b"{%b}" % b",".join(b'"%d":0' % number for number in range(100_000))),
]
"""A megabyte or more each: for few lines."""

CHOICES = [STRINGS, NUMBERS, NUMBERS, CONSTANTS, SMALL, SMALL, DEEP, TWICE]
