"""Translate the English sentences that records hold, by a catalogue; unknown ones stay, marked as English."""

from __future__ import annotations

import re
from functools import cache

from bitnet_bench.wording import Text, read_wording

PLACE_PATTERN = re.compile(r"\\{(\w+)\\}")
SENTENCE_PATTERN = re.compile(
    r"(?<![A-Za-z])[A-Za-z]{2,}+[ ,;:]++(?:[a-z(][\w()-]*+(?:,\d[\w()-]*+)*+[ ,;:]++){2,}[A-Za-z]{2}"
)
"""Four words or more in Latin letters: less may be a name. No text can be divided in two ways, which takes years."""
MAX_KNOWN_CHARACTERS = 1000
"""Number of characters of a sentence above which it is not looked up: no known one is so long."""


def translate_sentence(sentence: str) -> Text:
    """Return *sentence* with its Korean; text that is not in `sentences.yaml` stays, marked as English if it is that.

    Texts in the places of a known sentence are looked up as well.
    """
    known = _translate_known(sentence) if len(sentence) <= MAX_KNOWN_CHARACTERS else None
    if known is not None:
        return Text(known, sentence)
    return Text(sentence, sentence, sentence if SENTENCE_PATTERN.search(sentence) else "")


def _translate_known(sentence: str) -> str | None:
    for pattern, korean in _compile_sentences():
        if found := pattern.fullmatch(sentence):
            places = {name: _translate_known(text) or text for name, text in found.groupdict().items()}
            return korean.format(**places)
    return None


@cache
def _compile_sentences() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return a pattern for each English sentence, with its Korean; those with the most words come first."""
    entries = sorted(read_wording("sentences.yaml"), key=lambda entry: -len(PLACE_PATTERN.sub("", entry["en"])))
    return tuple((_compile_sentence(entry["en"]), entry["ko"]) for entry in entries)


def _compile_sentence(english: str) -> re.Pattern[str]:
    return re.compile(PLACE_PATTERN.sub(r"(?P<\1>.+?)", re.escape(english)), re.DOTALL)
