"""KLUE-RE: what the object is to the subject of a sentence, asked as a choice of 30 relations.

The choices stand in the official order, no_relation first, so that a choice's index is the hub's label.
"""

from typing import Any

RELATIONS = {
    "no_relation": "관계 없음",
    "org:dissolved": "단체의 해산일",
    "org:founded": "단체의 설립일",
    "org:place_of_headquarters": "단체의 본부 소재지",
    "org:alternate_names": "단체의 다른 이름",
    "org:member_of": "단체의 상위 단체",
    "org:members": "단체의 하위 단체",
    "org:political/religious_affiliation": "단체의 정치·종교 성향",
    "org:product": "단체의 제품",
    "org:founded_by": "단체의 설립자",
    "org:top_members/employees": "단체의 임직원",
    "org:number_of_employees/members": "단체의 인원수",
    "per:date_of_birth": "인물의 출생일",
    "per:date_of_death": "인물의 사망일",
    "per:place_of_birth": "인물의 출생지",
    "per:place_of_death": "인물의 사망지",
    "per:place_of_residence": "인물의 거주지",
    "per:origin": "인물의 출신 국가",
    "per:employee_of": "인물의 소속 단체",
    "per:schools_attended": "인물의 출신 학교",
    "per:alternate_names": "인물의 다른 이름",
    "per:parents": "인물의 부모",
    "per:children": "인물의 자녀",
    "per:siblings": "인물의 형제자매",
    "per:spouse": "인물의 배우자",
    "per:other_family": "인물의 그 밖의 가족",
    "per:colleagues": "인물의 동료",
    "per:product": "인물의 작품",
    "per:religion": "인물의 종교",
    "per:title": "인물의 직함",
}
"""The text of each relation's choice; all begin with the kind of the subject, but for no_relation."""

TYPES = {"PER": "인물", "ORG": "단체", "LOC": "장소", "DAT": "날짜", "POH": "고유명사", "NOH": "수량"}
"""What an entity is; POH and NOH are the other proper nouns and the other numbers."""

SUBJECT, OBJECT = "주체", "객체"


def prompt(doc: dict[str, Any]) -> str:
    """Return the sentence with its two entities marked where their places are known, and both by name below it."""
    return (
        f"문장: {_mark_entities(doc)}\n"
        f"{SUBJECT}: {_format_entity(doc['subject_entity'])}\n"
        f"{OBJECT}: {_format_entity(doc['object_entity'])}\n"
        f"문장에서 {OBJECT}는 {SUBJECT}의 무엇인가요?\n"
        "관계:"
    )


def choices(_doc: dict[str, Any]) -> list[str]:
    """Return the texts of the 30 relations in the official order."""
    return list(RELATIONS.values())


def target(doc: dict[str, Any]) -> str:
    """Return the text of the gold relation, which a row gives by name (upstream) or by index (the hub)."""
    label = doc["label"]
    return RELATIONS[label] if isinstance(label, str) else choices(doc)[label]


def _format_entity(entity: dict[str, Any]) -> str:
    return f"{entity['word']}({TYPES.get(entity['type'], entity['type'])})"


def _mark_entities(doc: dict[str, Any]) -> str:
    """Return the sentence with `[주체:word]` and `[객체:word]` at every known place, the last first."""
    sentence: str = doc["sentence"]
    places = sorted(
        (place, role)
        for role, entity in ((SUBJECT, doc["subject_entity"]), (OBJECT, doc["object_entity"]))
        if (place := _find_entity(sentence, entity)) is not None
    )
    if len(places) == 2 and places[0][0][1] > places[1][0][0]:
        return sentence  # one entity inside the other: no flat mark holds both, and both are named below
    for (start, end), role in reversed(places):
        sentence = f"{sentence[:start]}[{role}:{sentence[start:end]}]{sentence[end:]}"
    return sentence


def _find_entity(sentence: str, entity: dict[str, Any]) -> tuple[int, int] | None:
    """Return [start, end) of an entity; None where a row has no offsets or they do not point at the word."""
    start, last = entity.get("start_idx"), entity.get("end_idx")
    if start is None or last is None or sentence[start : last + 1] != entity["word"]:
        return None
    return start, last + 1
