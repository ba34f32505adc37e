"""Read out of a generated text the number that it answers with.

The rules are tried in this order, and the first whose mark is in the text decides:

1. the last box, `\\boxed{42}`; what it holds has to be one number (`x = 42`, `42개` and `\\frac{84}{2}` are);
2. the last `#### 42`;
3. the number behind the last cue, such as `정답: 42`, `답은 1,234원입니다`, `The answer is 42`;
4. the last number of the text.

A text without a number, a box that holds none, or several, gives None.
"""

from __future__ import annotations

import re

from bitnet_bench.metrics.numbers import fold_characters, format_number, parse_number

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####\s*([^\n]+)")
_CUE = re.compile(
    r"(?:(?<![오대응문질])(?:정답|해답|답안|답변|답)|최종\s*값|(?i:\banswer))\s*(?:은|는|이|가|(?i:is\b)|:|=)[\s:]*"
)
_FRACTION = r"-?\d*\s*\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d)"
_ROOT = r"-?\d*\s*\\sqrt\s*(?:\{[^{}]*\}|\d)"
_PLAIN = r"-?\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?(?:\s*/\s*\d+)?(?:\s*[만억조천백](?:\s*\d+)?)*"
_NUMBER = re.compile(f"{_FRACTION}|{_ROOT}|{_PLAIN}")
_MARKUP = re.compile(r"[*`]")


def find_number(output: str) -> str | None:
    """Return the number that *output* answers with, as `format_number` writes it; None if that cannot be decided."""
    text = _MARKUP.sub("", fold_characters(output))
    box = find_last_box(text)
    if box is not None:
        return _format(box)
    hashes = _HASHES.findall(text)
    if hashes:
        return _format(hashes[-1]) or _find_first(hashes[-1])
    for cue in reversed(list(_CUE.finditer(text))):
        claim = text[cue.end() :].lstrip().split("\n", 1)[0]
        if found := _find_claimed(claim):
            return found
    return _find_last(text)


def find_last_box(text: str) -> str | None:
    """Return what the last `\\boxed{...}` holds, up to the end of the text if it is not closed; None without one."""
    opened = list(_BOX.finditer(text))
    if not opened:
        return None
    start = opened[-1].end()
    depth, end = 1, start
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start : end - (not depth)]


def _format(text: str) -> str | None:
    number = parse_number(text)
    return None if number is None else format_number(number)


def _find_claimed(claim: str) -> str | None:
    """Return the number in what follows a cue: that behind its last `=`, else its first."""
    sentence = re.split(r"(?<=[^\d\s])[.!?](?=\s|$)|[.!?]\s*$", claim, maxsplit=1)[0]
    return _find_first(re.split(r"=|≈|\\approx", sentence)[-1])


def _find_first(text: str) -> str | None:
    found = _NUMBER.search(text)
    return _format(_with_sign(text, found)) if found else None


def _find_last(text: str) -> str | None:
    found = list(_NUMBER.finditer(text))
    return _format(_with_sign(text, found[-1])) if found else None


def _with_sign(text: str, found: re.Match[str]) -> str:
    """Return a number without the `-` that stands between it and another one, as in 3-2 or 1990-2000."""
    before = text[: found.start()].rstrip()
    return found[0].lstrip("-") if found[0].startswith("-") and before[-1:].isalnum() else found[0]
