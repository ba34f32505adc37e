"""Translate the sentences of the command line into Korean, by a catalogue that is keyed by the English sentence.

Commands print English. What they print passes through `translate`, which finds the sentence in `terminal.yaml`, or the
template that it was made from, and writes the Korean one with the same values. Sentences without an entry stay English.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import NamedTuple

from bitnet_bench.wording import Language, Text, load_catalogue, read_wording

LANGUAGE_VARIABLE = "BITNET_BENCH_LANG"
"""Environment variable with the language of the command line, ko or en."""
LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""What decides without it, in the order in which POSIX reads them."""
LANGUAGE: ContextVar[Language] = ContextVar("LANGUAGE", default="en")
"""Language of the command line in this process."""
FIELD = re.compile(r"\{(\w+)\}")
PLURAL = re.compile(r"\{(\w+):([^|{}]*)\|([^|{}]*)\}")
FRAME = re.compile(r"[^{}]+\{message\}")
NUMBERS = frozenset(
    (
        "answers",
        "count",
        "high",
        "items",
        "layers",
        "low",
        "models",
        "n",
        "number",
        "parameters",
        "raters",
        "rows",
        "total",
    )
)
"""Names of values that are numbers. Other values are names, paths and sums, which stay as they are, and sentences."""
SENTENCES = frozenset(
    (
        *("candidate", "command", "condition", "difference", "format", "interval", "message", "note", "problem"),
        *("reason", "reasons", "rest", "size", "tasks", "value", "verdict", "what", "why"),
    )
)
"""Names of values that are translated themselves."""
NUMBER_PATTERN, VALUE_PATTERN = r"[−+-]?\d[\d.,]*", "(?:(?!  ).)+?"
"""Two spaces stand between columns, and not in a value."""
REPORT_SECTIONS = ("differs", "effect", "headline", "notice", "tasks", "test", "verdict")
"""Beginnings of the keys of `catalogue.yaml` whose texts `compare` and `report` also print."""
SENTENCE_END = re.compile(r"[.?!] (?=[A-Z`-])")
LEAST_OWN_CHARACTERS = 12
"""Of a report's sentence with values: `{run} has no {metric}` would be found in sentences of every kind."""
MOST_CHARACTERS = 1200
"""Length above which a line is none of ours."""
MOST_FIRST_ENDS = 3
"""Ends of sentences at which the first of several sentences may end."""
MOST_NESTED_VALUES = 3
"""Levels of values within values that are translated, such as the reason in an error in a note."""


class Template(NamedTuple):
    """A sentence with values: how to recognise it in English, and what it is in Korean."""

    pattern: re.Pattern[str]
    korean: str
    words: tuple[str, ...]
    """What stands between the values: a text without one of these is not tried, which could take long."""


class Translations(NamedTuple):
    """The catalogue, ready for look-ups."""

    sentences: Mapping[str, str]
    templates: tuple[Template, ...]


def read_language(environment: Mapping[str, str], encoding: str | None = None) -> Language:
    """Return the language that *environment* asks for: that of BITNET_BENCH_LANG, else of the locale, else English.

    English also if *encoding*, that of the terminal, has no Korean characters.
    """
    chosen = environment.get(LANGUAGE_VARIABLE) or next(filter(None, map(environment.get, LOCALE_VARIABLES)), "")
    if not chosen.lower().startswith("ko"):
        return "en"
    try:
        "한국어".encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "en"
    return "ko"


def use_language(encoding: str | None) -> Language:
    """Make the language that the environment asks for the one of `translate` in this process, and return it."""
    language = read_language(os.environ, encoding)
    LANGUAGE.set(language)
    return language


def translate(text: str) -> str:
    """Return *text* in the language of the command line: a sentence, a heading or a cell as a whole."""
    return translate_to_korean(text) if LANGUAGE.get() == "ko" else text


def translate_lines(text: str) -> str:
    """Return *text* with each of its lines translated as a whole; spaces at both ends of a line stay."""
    return "\n".join(map(_translate_line, text.split("\n"))) if LANGUAGE.get() == "ko" else text


def _translate_line(line: str) -> str:
    sentence = line.strip()
    return line.replace(sentence, translate_to_korean(sentence), 1) if sentence else line


def translate_to_korean(text: str, depth: int = 0) -> str:
    """Return *text* in Korean, or as it is if the catalogue lacks it; sentences within it are translated, too."""
    if len(text) > MOST_CHARACTERS or depth > MOST_NESTED_VALUES:
        return text
    if (korean := _look_up(text, depth)) is not None:
        return korean
    for found in islice(SENTENCE_END.finditer(text), MOST_FIRST_ENDS):
        if (korean := _look_up(text[: found.end() - 1], depth)) is not None:
            return f"{korean} {translate_to_korean(text[found.end() :], depth + 1)}"
    return text


def _look_up(text: str, depth: int) -> str | None:
    """Return the Korean of a sentence as a whole, or None if the catalogue lacks it."""
    known = load_translations()
    if text in known.sentences:
        return known.sentences[text]
    for template in known.templates:
        if all(word in text for word in template.words) and (found := template.pattern.fullmatch(text)):
            return template.korean.format(**_translate_values(found.groupdict(), depth + 1))
    return None


def _translate_values(values: Mapping[str, str], depth: int) -> dict[str, str]:
    return {name: translate_to_korean(value, depth) if name in SENTENCES else value for name, value in values.items()}


@cache
def load_translations() -> Translations:
    """Return the sentences of `terminal.yaml`, and those of reports that the terminal shows as well."""
    given = (*_list_recorded_sentences(), *_list_report_sentences(), *list_terminal_sentences())
    entries = {english: entry.ko for entry in given for english in expand_plurals(entry.en)}
    plain = {english: korean for english, korean in entries.items() if not FIELD.search(english)}
    templates = [english for english in entries if english not in plain]
    # frames such as "Error: {message}" first, which would else be taken for a name in another sentence; then the
    # sentence with most words of its own, which others may be the beginning of
    templates.sort(key=lambda english: (not FRAME.fullmatch(english), -len(FIELD.sub("", english))))
    return Translations(plain, tuple(make_template(english, entries[english]) for english in templates))


def list_terminal_sentences() -> list[Text]:
    """Return the entries of `terminal.yaml`."""
    return [Text(**entry) for entry in read_wording("terminal.yaml")]


def _list_recorded_sentences() -> list[Text]:
    """Return the sentences of records, such as reasons, which reports show in Korean as well."""
    return [Text(**entry) for entry in read_wording("sentences.yaml")]


def _list_report_sentences() -> Iterable[Text]:
    for key, entry in load_catalogue().items():
        is_told_apart = not FIELD.search(entry.en) or len(FIELD.sub("", entry.en)) >= LEAST_OWN_CHARACTERS
        if key.partition(".")[0] in REPORT_SECTIONS and is_told_apart:
            yield entry


def expand_plurals(english: str) -> list[str]:
    """Return the sentences that `{count:task|tasks}` stands for: with the one word after the number, and the other."""
    found = PLURAL.search(english)
    if found is None:
        return [english]
    forms = [english.replace(found[0], f"{{{found[1]}}} {noun}", 1) for noun in found.groups()[1:]]
    return [sentence for form in forms for sentence in expand_plurals(form)]


def make_template(english: str, korean: str) -> Template:
    """Return a sentence with values as what `_look_up` needs."""
    return Template(compile_template(english), korean, tuple(FIELD.split(english)[::2]))


def compile_template(english: str) -> re.Pattern[str]:
    """Return the pattern of a sentence with values in {braces}; a value that stands twice is the same both times."""
    parts: list[str] = []
    named: set[str] = set()
    for i, part in enumerate(FIELD.split(english)):
        if i % 2 == 0:
            parts.append(re.escape(part))
        else:
            value = NUMBER_PATTERN if part in NUMBERS else VALUE_PATTERN
            parts.append(f"(?P={part})" if part in named else f"(?P<{part}>{value})")
            named.add(part)
    return re.compile("".join(parts))
