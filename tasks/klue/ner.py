"""KLUE-NER: the sentence written again with a mark around every entity, such as `<이순신:PS>은 <조선:LC> 사람이다.`

    output = { character | mark } ;
    mark   = OPEN , { character }- , ":" , type , CLOSE ;
    type   = "PS" | "LC" | "OG" | "DT" | "TI" | "QT" ;

OPEN and CLOSE are `<` and `>`; where the sentence itself holds one of them, they are the first pair of PAIRS of which
it holds neither, and the prompt says which. So a character is never OPEN or CLOSE, and an output has one reading.

Without its marks the output must be the sentence. White space is not compared, for it is not what is asked: white space
that only the output has is passed over, and such as only the sentence has lies inside an entity if both its neighbours
do. A mark around nothing but white space, an unknown type, a lone OPEN or CLOSE or any other difference is malformed.
"""

import re
from typing import Any, NamedTuple

TAGS = ("B-DT", "I-DT", "B-LC", "I-LC", "B-OG", "I-OG", "B-PS", "I-PS", "B-QT", "I-QT", "B-TI", "I-TI", "O")
"""The hub's order of `ner_tags`."""

TYPES = {"PS": "인물", "LC": "장소", "OG": "기관", "DT": "날짜", "TI": "시간", "QT": "수량"}

PAIRS = (("<", ">"), ("[", "]"), ("{", "}"), ("«", "»"), ("⟦", "⟧"))


class WrittenCharacter(NamedTuple):
    """A character of an output, and the entity that it stands in: its number from 1 and its type; 0 and "" outside."""

    character: str
    entity: int
    kind: str


def prompt(doc: dict[str, Any]) -> str:
    """Return the sentence, the types and the form of a mark."""
    sentence = _replace_white_space(_join_sentence(doc))
    opening, closing = _choose_brackets(sentence)
    types = ", ".join(f"{tag}({name})" for tag, name in TYPES.items())
    return (
        f"문장을 그대로 옮겨 쓰면서 모든 개체명을 {opening}개체명:유형{closing}으로 표시하세요. 유형: {types}. "
        f"예: {opening}이순신:PS{closing}은 {opening}조선:LC{closing} 사람이다.\n"
        f"문장: {sentence.strip()}\n"
        "표시:"
    )


def target(doc: dict[str, Any]) -> str:
    """Return the sentence with its gold entities marked."""
    opening, closing = _choose_brackets(_join_sentence(doc))
    text, inside = "", ""
    for character, tag in _characters(doc):
        kind = tag[2:]
        goes_on = tag.startswith("I-") and kind == inside
        if inside and not goes_on:
            text += f":{inside}{closing}"
        if kind and not goes_on:
            text += opening
        text += character
        inside = kind
    text += f":{inside}{closing}" if inside else ""
    return _replace_white_space(text).strip()


def labels(doc: dict[str, Any]) -> tuple[str, ...]:
    """Return the gold IOB2 tag of each character."""
    return tuple(tag for _character, tag in _characters(doc))


def parse(output: str, doc: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the IOB2 tag that *output* gives each character of the sentence; None if it is malformed."""
    sentence = _join_sentence(doc)
    written = _parse_marks(output, *_choose_brackets(sentence))
    if written is None:
        return None
    aligned = _align(written, sentence)
    return None if aligned is None else _make_iob2_tags(aligned)


def _characters(doc: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (character, tag) of a row, whose tags are names (upstream) or indices (the hub)."""
    pairs = []
    for token, tag in zip(doc["tokens"], doc["ner_tags"], strict=True):
        name = tag if isinstance(tag, str) else TAGS[tag]
        # a token is one character; of a longer one only the first can begin an entity
        pairs += [(character, name if i == 0 else name.replace("B-", "I-")) for i, character in enumerate(token)]
    return pairs


def _join_sentence(doc: dict[str, Any]) -> str:
    return "".join(doc["tokens"])


def _replace_white_space(text: str) -> str:
    """Return *text* with a blank for every white-space character, for an output ends with its line."""
    return "".join(" " if character.isspace() else character for character in text)


def _choose_brackets(sentence: str) -> tuple[str, str]:
    """Return OPEN and CLOSE for a sentence; ValueError if it holds one of every pair."""
    for pair in PAIRS:
        if not set(pair) & set(sentence):
            return pair
    raise ValueError(f"the sentence holds a bracket of every kind in {PAIRS}")


def _parse_marks(output: str, opening: str, closing: str) -> list[WrittenCharacter] | None:
    """Return the characters of *output* without its marks; None where a mark is malformed."""
    no_bracket = f"[^{re.escape(opening + closing)}]"
    mark = re.compile(f"{re.escape(opening)}({no_bracket}+):({'|'.join(TYPES)}){re.escape(closing)}|({no_bracket})")
    written: list[WrittenCharacter] = []
    entities = at = 0
    while at < len(output):
        found = mark.match(output, at)
        if found is None:
            return None
        span, kind, character = found.groups()
        if span is None:
            written.append(WrittenCharacter(character, 0, ""))
        elif span.isspace():
            return None
        else:
            entities += 1
            written += [WrittenCharacter(inside, entities, kind) for inside in span]
        at = found.end()
    return written


def _align(written: list[WrittenCharacter], sentence: str) -> list[WrittenCharacter] | None:
    """Return what was written for each character of *sentence*; None where more than white space differs."""
    aligned: list[WrittenCharacter] = []
    at = 0
    for character in sentence:
        blank = character.isspace()
        while not blank and at < len(written) and written[at].character.isspace():
            at += 1
        here = written[at] if at < len(written) else WrittenCharacter("", 0, "")
        if here.character == character or (blank and here.character.isspace()):
            aligned.append(here)
            at += 1
        elif blank:
            inside = bool(aligned) and aligned[-1].entity == here.entity
            aligned.append(here if inside else WrittenCharacter(character, 0, ""))
        else:
            return None
    return None if any(not rest.character.isspace() for rest in written[at:]) else aligned


def _make_iob2_tags(aligned: list[WrittenCharacter]) -> tuple[str, ...]:
    before = 0
    tags = []
    for _character, entity, kind in aligned:
        tags.append(("I-" if entity == before else "B-") + kind if entity else "O")
        before = entity
    return tuple(tags)
