"""Fill Korean sentence frames: particles by the syllable before them, forms of a verb from its past stem."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "sample"
FIRST_SYLLABLE, LAST_SYLLABLE, FINALS = ord("가"), ord("힣"), 28
RIEUL, DOUBLE_SIOT = 8, 20
PARTICLE = re.compile(r"(?<=([가-힣]))(?:\]?)(은\(는\)|이\(가\)|을\(를\)|과\(와\)|\(으\)로|\(이\))")
PERSON = "~ "
"""Begins an event that a person does or meets; other events have a subject of their own."""


def read_lexicon() -> dict[str, Any]:
    """Read the words that rows and text are made of."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "lexicon.yaml").read_text(encoding="utf-8"))
    return found


def read_frames() -> dict[str, Any]:
    """Read the sentence frames by task, then by `train`, `test` and `text`."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "frames.yaml").read_text(encoding="utf-8"))
    return found


def find_final(syllable: str) -> int:
    """Return the number of the syllable's final consonant; 0 for none."""
    code = ord(syllable)
    if not FIRST_SYLLABLE <= code <= LAST_SYLLABLE:
        raise ValueError(f"{syllable!r} is no Hangul syllable.")
    return (code - FIRST_SYLLABLE) % FINALS


def attach_particles(text: str) -> str:
    """Replace 은(는), 이(가), 을(를), 과(와), (으)로 and (이) by what the syllable before them asks for."""

    def choose(found: re.Match[str]) -> str:
        final, particle = find_final(found[1]), found[2]
        if particle == "(으)로":
            return "으로" if final not in (0, RIEUL) else "로"
        if particle == "(이)":
            return "이" if final else ""
        return particle[0] if final else particle[2]

    return PARTICLE.sub(choose, text)


def fill(frame: str, **slots: str) -> str:
    """Put *slots* into *frame*; spaces of empty slots go, particles fit."""
    return attach_particles(" ".join(frame.format(**slots).split()))


def make_infinitive(past: str) -> str:
    """Return the form in 아/어 of a past stem: 깼 becomes 깨."""
    if find_final(past[-1]) != DOUBLE_SIOT:
        raise ValueError(f"{past!r} is no past stem: it does not end in ㅆ.")
    return past[:-1] + chr(ord(past[-1]) - DOUBLE_SIOT)


def event_slots(event: str, name: str) -> dict[str, str]:
    """Return topic, subject and event of an event; the first two are empty if no person takes part."""
    own = not event.startswith(PERSON)
    topic, subject = ("", "") if own else (f"{name}은(는)", f"{name}이(가)")
    return {"topic": topic, "subject": subject, "event": event.removeprefix(PERSON)}
