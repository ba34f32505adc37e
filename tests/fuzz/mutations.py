"""Mutate valid files: structure-aware for JSON, YAML, JSON Lines and safetensors, and byte by byte for anything."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Mutate = Callable[[bytes, random.Random], bytes]
NUMBERS = (0, -1, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64, 10**30, -(2**31), 0.5, -0.0)
FLOATS = (1e308, 1e-320, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "x",
    "가",
    "가나다" * 30,
    "\u0000",
    "\u200b",
    "\ud83d",
    "\ufffd",
    "a\nb",
    "../../x",
    "/dev/null",
    "x" * 20_000,
    "2026-99-99",
    "NaN",
    "1" * 5000,
    "null",
    "{{ 1 / 0 }}",
    "=1+1",
    "\x1b]52;c;eA==\x07",
    "__class__",
    "%s%n",
    "0x" + "f" * 99,
)
ODD: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "a", None])
YAML_PIECES = (
    "a: &a [*a]",
    "when: 2026-99-99",
    "x: !!timestamp '2026-13-40'",
    "x: *missing",
    "x: !!python/object/apply:os.getcwd []",
    "x: !!binary '@@'",
    "? [a, b]\n: c",
    "--- \n--- ",
    "%YAML 9.9",
    "x: !function nothing.here",
    "include: itself.yaml",
    "x: !!int abc",
    "x: 0x_",
    "x: 1" + "0" * 5000,
    "\t- x",
    "x: {",
    "x: [",
    "'",
    "x: !!set {a, b}",
    "<<: [1, 2]",
    "x: !unknown y",
    "x: |\n  a",
    "a: 1\na: 2",
    'x: "\\ud800"',
    "x: .inf",
    "x: 1:2:3:4",
    "- " * 200 + "x",
    "x: ~",
    "y: yes",
    "\x00",
    "\u2028",
    "b: &b [x, x, x, x, x, x, x, x]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
    "e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e]\n"
    "g: [*f, *f, *f, *f, *f, *f, *f, *f]",
)
TEMPLATE_PIECES = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ messages[9] }}",
    "{{ 1/0 }}",
    "{% if %}",
    "{{",
    "{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ raise_exception('no') }}",
    "{% include 'x' %}",
    "{{ x.y.z }}",
    "{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = ns.t * 9 %}{% endfor %}",
    "{{ 9**9**9 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ messages | tojson * 999999 }}",
    "\ud83d",
)
REPLY_PIECES = (
    " ",
    "\n",
    "(",
    "[[",
    "]]",
    "{",
    "정답은 ",
    "정답: (",
    "답",
    "A ",
    "(A)",
    "B는 아니라 ",
    "C) ",
    "1번",
    "두 번째 ",
    "①",
    "９",
    "Ａ",
    "1,",
    "1",
    "9.",
    "/",
    "-",
    "\\boxed{",
    "\\frac{1}{",
    "\\sqrt{",
    "#### ",
    "억",
    "<think>",
    "</think>",
    "점수: ",
    '{"score": ',
    "판정: A ",
    "*",
    "**",
    "<<",
    ">>",
    "******",
    "\u0301",
    "\u200b",
    "not ",
    "because ",
    "The answer is ",
    "이유는 ",
    "ㄱ. ",
    "0" * 400,
)
HTTP_STATUSES = (b"200 OK", b"204 No", b"206 x", b"301 Moved", b"400 Bad", b"401 No", b"404 No", b"413 Big",
                 b"429 Slow", b"500 Oops", b"503 Busy", b"600 x", b"99 x", b"-1 x", b"", b"OK", b"200")  # fmt: skip
HTTP_LINES = (
    b"Retry-After: 7",
    b"Retry-After: 1e999",
    b"Retry-After: -inf",
    b"Retry-After: nan(1)",
    b"Retry-After: infinity",
    b"Retry-After: Fri, 31 Dec 0001 00:00:00 GMT",
    b"Retry-After: Mon, 99 Foo 99999 99:99:99 +9999",
    b"Location: http://[::1",
    b"Location: https://user:secret@elsewhere/" + b"x" * 5000,
    b"Content-Length: 999999999999",
    b"Content-Length: -5",
    b"Content-Length: x",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Content-Encoding: gzip",
    b"Content-Type: text/event-stream",
    b"Content-Type: text/event-stream; charset=utf-16",
    b"X: " + b"y" * 70_000,
    b"no colon",
    b" : ",
    b"\xff\xfe: \x00",
    b"X: 1\r\n" * 150,
)


def list_paths(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value in *value*."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from list_paths(one, (*place, name))


def make_odd_value(rng: random.Random) -> Any:
    """Return a value that few readers expect."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(FLOATS)
    if kind == 3:
        return rng.choice(TEXTS)
    if kind == 4:
        return copy.deepcopy(rng.choice(ODD))
    value: Any = rng.choice(("x", 0, None))
    for _ in range(rng.choice((3, 30, 90, 300, 800))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Return *value* with one part replaced, deleted, doubled, or swapped with another."""
    value = copy.deepcopy(value)
    paths = list(list_paths(value))
    path = rng.choice(paths[:2000])
    if not path:
        return make_odd_value(rng) if rng.random() < 0.2 else value
    holder = _find(value, path[:-1])
    kind = rng.randrange(8)
    if kind < 4:
        holder[path[-1]] = make_odd_value(rng)
    elif kind == 4:
        del holder[path[-1]]
    elif kind == 5:
        holder[path[-1]] = copy.deepcopy(_find(value, rng.choice(paths[:2000])))
    elif kind == 6 and isinstance(holder, list):
        holder[path[-1] : path[-1]] = [copy.deepcopy(holder[path[-1]]) for _ in range(rng.choice((1, 3, 1000)))]
    elif isinstance(holder, dict):
        name = rng.choice((*TEXTS, *map(str, NUMBERS), str(path[-1]).upper()))
        holder[name] = holder.pop(path[-1]) if rng.random() < 0.5 else make_odd_value(rng)
    return value


def _find(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return *data* with bytes flipped, cut, repeated or removed, or in another encoding."""
    if not data:
        return rng.randbytes(9)
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 64, 999))
    kind = rng.randrange(10)
    if kind < 3:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        return data[:at]
    if kind == 4:
        return data[:at] + data[at + length :]
    if kind == 5:
        return data[:at] + data[at : at + length] * rng.choice((2, 50)) + data[at:]
    if kind == 6:
        return data[:at] + rng.randbytes(length) + data[at + length :]
    if kind == 7:
        return (
            data[:at]
            + rng.choice((b"\x00", b"\xff\xfe", b"\r", b'"', b"{", b"[", b"\xed\xa0\x80", b"\x1b"))
            + data[at:]
        )
    if kind == 8:
        return rng.choice(
            (b"", b"\xef\xbb\xbf" + data, b"[" * 5000, b"null", b"[]", b"{}", b'"x"', b"1" * 5000, b"\n\n")
        )
    return _encode(data, rng.choice(("cp949", "utf-16", "utf-32", "cp1252")))


def _encode(data: bytes, encoding: str) -> bytes:
    return ("가" + data.decode("utf-8", "replace")).encode(encoding, "replace")


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with one or more changes of its values, its names or its bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = mutate_value(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    if isinstance(value, dict) and value and rng.random() < 0.1:  # the first name once more
        name = json.dumps(next(iter(value)))
        text = f"{text.rstrip()[:-1]}, {name}: {json.dumps(make_odd_value(rng))}}}"
    return text.encode("utf-8", "surrogatepass")


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Return JSON Lines with one line changed, doubled, removed or broken."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    lines = data.rstrip(b"\n").split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.1:
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 3, [b""], [b"[" + lines[at] + b"]"], [lines[at] + b","]))
    else:
        try:
            lines[at] = mutate_json(lines[at], rng).replace(b"\n", b"")
        except ValueError:
            lines[at] = mutate_bytes(lines[at], rng)
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines) + b"\n"


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """Return a YAML file with changed values, or with a piece of what YAML allows and nobody expects."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate_bytes(data, rng)
    if kind == 1:
        lines = data.decode().split("\n")
        at = rng.randrange(len(lines) + 1)
        indent = " " * rng.choice((0, 0, 2, 4))
        lines[at:at] = [indent + line for line in rng.choice(YAML_PIECES).split("\n")]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    value = mutate_value(yaml.safe_load(data.replace(b"!function ", b"")), rng)
    try:
        return yaml.safe_dump(value, allow_unicode=rng.random() < 0.5, width=10**6).encode("utf-8", "surrogatepass")
    except RecursionError:
        return mutate_bytes(data, rng)


def mutate_table(data: bytes, rng: random.Random) -> bytes:
    """Return a CSV or TSV file with delimiters, quotes or line ends where none are due."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    at = rng.randrange(len(data) + 1)
    piece = rng.choice(
        (b",", b'"', b'""', b"\t", b"\n", b"\r", b'",', b"\x00", b'"' + b"x" * 200_000, b",,,,", b"=1+1")
    )
    return data[:at] + piece + data[at:]


def mutate_template(data: bytes, rng: random.Random) -> bytes:
    """Return a Jinja template with a piece that loops, multiplies, fails or reaches out."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TEMPLATE_PIECES).encode("utf-8", "surrogatepass") + data[at:]


def mutate_binary(data: bytes, rng: random.Random) -> bytes:
    """Return a binary file with flipped bits, most of them in its header, or with numbers that lie."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    changed = bytearray(data)
    reach = rng.choice((32, 512, 4096, len(data)))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(max(1, min(reach, len(data)) - 8))
        if rng.random() < 0.5:
            changed[at] = rng.randrange(256)
        else:
            number = rng.choice((0, 1, 2**20, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1, rng.randrange(2**64)))
            code = rng.choice(("<I", "<Q"))
            number &= 2 ** (8 * struct.calcsize(code)) - 1
            changed[at : at + struct.calcsize(code)] = struct.pack(code, number)
    return bytes(changed)


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with a changed header or changed bytes."""
    if rng.random() < 0.4:
        return mutate_binary(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutate_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutate_name(data: bytes, rng: random.Random) -> bytes:
    """Return the name of a model with other characters, of another length, or of another form."""
    if rng.random() < 0.3:
        return rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    text = data.decode()
    at = rng.randrange(len(text) + 1)
    piece = rng.choice((*TEXTS, "/", "//", "@", ":", "..", "-", "--", "~", "%2f", "é", "x" * 300, "main"))
    return (text[:at] + piece + text[at + rng.randrange(3) :]).encode("utf-8", "surrogatepass")


def mutate_answers(data: bytes, rng: random.Random) -> bytes:
    """Return a file of answers with a changed header, or changed bytes."""
    mark = data.index(b"\n") + 1
    (length,) = struct.unpack_from("<I", data, mark)
    begin = mark + 4
    if rng.random() < 0.4:
        return mutate_binary(data, rng)
    header = mutate_json(data[begin : begin + length], rng)
    return data[:mark] + struct.pack("<I", len(header)) + header + data[begin + length :]


def mutate_prompt(data: bytes, rng: random.Random) -> bytes:
    """Return a YAML file whose template loops, multiplies, fails or reaches out, or that is damaged as any YAML."""
    if rng.random() < 0.5:
        return mutate_yaml(data, rng)
    fields = yaml.safe_load(data)
    fields["user"] = mutate_template(fields["user"].encode(), rng).decode("utf-8", "replace")
    return yaml.safe_dump(fields, allow_unicode=True).encode("utf-8", "surrogatepass")


def mutate_reply(data: bytes, rng: random.Random) -> bytes:
    """Return an answer with a piece of it, or of what answers are read by, once or thousands of times."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    text = data.decode()
    at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    piece = rng.choice((*REPLY_PIECES, text[at : min(end, at + 40)]))
    some = "".join(rng.choice((piece, piece, rng.choice(REPLY_PIECES))) for _ in range(rng.choice((1, 3, 300, 9000))))
    parts = (text[:at], some[:60_000], text[rng.choice((at, end)) :])
    return rng.choice(("".join(parts), some[:60_000])).encode("utf-8", "surrogatepass")


def mutate_events(data: bytes, rng: random.Random) -> bytes:
    """Return a stream of events with one of them changed, doubled, removed or broken."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    events = data.split(b"\n\n")
    at = rng.randrange(len(events))
    if events[at].startswith(b"data: {") and rng.random() < 0.8:
        events[at] = b"data: " + mutate_json(events[at].removeprefix(b"data: "), rng).replace(b"\n", b"")
    else:
        events[at : at + 1] = rng.choice(([], [events[at]] * 99, [b"data:", events[at]], [b"event: error"], [b"\r"]))
    return rng.choice((b"\n\n", b"\n\n", b"\r\n\r\n", b"\n")).join(events)


def mutate_response(data: bytes, rng: random.Random) -> bytes:
    """Return a response of HTTP with another status, another header, or a body that its length does not fit."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    kind = rng.randrange(5)
    if kind == 0:
        return mutate_bytes(data, rng)
    if kind == 1:
        lines[0] = b"HTTP/1.1 %s" % rng.choice(HTTP_STATUSES)
    elif kind == 2:
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(HTTP_LINES))
    elif kind == 3:
        lines = [line for line in lines if not line.startswith(b"Content-Length")]
        lines += [rng.choice(HTTP_LINES)]
    else:
        lines[0] = b"HTTP/1.1 %s" % rng.choice(HTTP_STATUSES)
        body = mutate_json(b'{"error": {"message": "max_tokens", "code": "x"}}', rng)
        lines = [line for line in lines if not line.startswith(b"Content-Length")] + [rng.choice(HTTP_LINES)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
