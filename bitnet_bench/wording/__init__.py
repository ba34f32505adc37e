"""What reports and comparisons say, in Korean and in English, from one catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")


@dataclass(frozen=True)
class Said:
    """One thing said in both languages."""

    ko: str
    en: str

    def in_(self, language: Language) -> str:
        """Return it in *language*."""
        return self.ko if language == "ko" else self.en

    def __add__(self, other: Said) -> Said:
        return Said(self.ko + other.ko, self.en + other.en)


def say(key: str, **values: Any) -> Said:
    """Return what the catalogue says under *key*, with *values* in its {braces}; a value may be a Said itself."""
    entry = catalogue()[key]
    return Said(_filled(entry.ko, values, "ko"), _filled(entry.en, values, "en"))


def plain(text: object) -> Said:
    """Return what reads the same in both languages: a name, a number, a command."""
    return Said(str(text), str(text))


def joined(parts: list[Said] | tuple[Said, ...], between: str = ", ") -> Said:
    """Return *parts* in a row."""
    return Said(between.join(part.ko for part in parts), between.join(part.en for part in parts))


@cache
def catalogue() -> dict[str, Said]:
    """Return every entry of `catalogue.yaml` by key."""
    import yaml

    entries = yaml.safe_load((Path(__file__).parent / "catalogue.yaml").read_text(encoding="utf-8"))
    return {key: Said(**entry) for key, entry in entries.items()}


def _filled(text: str, values: dict[str, Any], language: Language) -> str:
    if not values:
        return text
    return text.format(**{k: v.in_(language) if isinstance(v, Said) else v for k, v in values.items()})
