"""Provide the texts of reports and comparisons, in Korean and in English, from one catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")


@dataclass(frozen=True)
class Text:
    """A text in both languages."""

    ko: str
    en: str

    def in_language(self, language: Language) -> str:
        """Return the text in *language*."""
        return self.ko if language == "ko" else self.en

    def __add__(self, other: Text) -> Text:
        return Text(self.ko + other.ko, self.en + other.en)


def get_text(key: str, **values: Any) -> Text:
    """Return the catalogue's text for *key*, with *values* in its {braces}; a value may be a `Text` itself."""
    entry = load_catalogue()[key]
    return Text(_fill_values(entry.ko, values, "ko"), _fill_values(entry.en, values, "en"))


def plain_text(text: object) -> Text:
    """Return text that is the same in both languages: a name, a number, a command."""
    return Text(str(text), str(text))


def join_texts(parts: list[Text] | tuple[Text, ...], between: str = ", ") -> Text:
    """Return *parts* joined by *between*."""
    return Text(between.join(part.ko for part in parts), between.join(part.en for part in parts))


@cache
def load_catalogue() -> dict[str, Text]:
    """Return every entry of `catalogue.yaml` by key."""
    from bitnet_bench.yaml_files import read_yaml

    entries = read_yaml(Path(__file__).parent / "catalogue.yaml").value
    return {key: Text(**entry) for key, entry in entries.items()}


def _fill_values(text: str, values: dict[str, Any], language: Language) -> str:
    if not values:
        return text
    return text.format(**{k: v.in_language(language) if isinstance(v, Text) else v for k, v in values.items()})
