"""Provide the texts of reports and comparisons, in Korean and in English, from one catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")


class Count(int):
    """A number of things, with commas; `{count:row|rows}` in the catalogue adds the noun in singular or plural."""

    def __format__(self, spec: str) -> str:
        """Return the number, followed by one of the two nouns of *spec* if it has any."""
        one, bar, several = spec.partition("|")
        noun = one if self == 1 else several
        return f"{int(self):,} {noun}" if bar else f"{int(self):,}"


@dataclass(frozen=True)
class Text:
    """A text in both languages."""

    ko: str
    en: str
    english: str = ""
    """End of both that exists in English only: what another program or an older version wrote. Pages mark it."""

    def in_language(self, language: Language) -> str:
        """Return the text in *language*."""
        return self.ko if language == "ko" else self.en

    def before_english(self, language: Language) -> str:
        """Return the text in *language* without the end that exists in English only."""
        return self.in_language(language).removesuffix(self.english)

    def __add__(self, other: Text) -> Text:
        return Text(self.ko + other.ko, self.en + other.en, other.english)


def get_text(key: str, **values: Any) -> Text:
    """Return the catalogue's text for *key*, with *values* in its {braces}; a value may be a `Text` itself.

    English that ends such a value stays marked as such if the text ends with the value.
    """
    entry = load_catalogue()[key]
    last = next(
        (name for name in values if entry.ko.endswith(f"{{{name}}}") and entry.en.endswith(f"{{{name}}}")), None
    )
    english = values[last].english if last and isinstance(values[last], Text) else ""
    return Text(_fill_values(entry.ko, values, "ko"), _fill_values(entry.en, values, "en"), english)


def plain_text(text: object) -> Text:
    """Return text that is the same in both languages: a name, a number, a command."""
    return Text(str(text), str(text))


def join_texts(parts: list[Text] | tuple[Text, ...], between: str = ", ") -> Text:
    """Return *parts* joined by *between*."""
    return Text(between.join(part.ko for part in parts), between.join(part.en for part in parts))


@cache
def load_catalogue() -> dict[str, Text]:
    """Return every entry of `catalogue.yaml` by key."""
    return {key: Text(**entry) for key, entry in read_wording("catalogue.yaml").items()}


def read_wording(name: str) -> Any:
    """Return the content of a YAML file of this package."""
    from bitnet_bench.yaml_files import read_yaml

    return read_yaml(Path(__file__).parent / name).value


def _fill_values(text: str, values: dict[str, Any], language: Language) -> str:
    if not values:
        return text
    return text.format(**{k: v.in_language(language) if isinstance(v, Text) else v for k, v in values.items()})
