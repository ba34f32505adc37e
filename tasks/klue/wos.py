"""KLUE-WoS: the state of a dialogue at each turn of the user, such as `식당-지역-서울 서쪽; 식당-종류-주점`.

    output = "없음" | item , { ";" , item } ;
    item   = domain , "-" , slot , "-" , value ;     (* one of SLOTS *)
    value  = { character }- ;                         (* no ";"; "-" is allowed *)

The state is cumulative, and `없음` is the empty one. White space around items and values is dropped, and a run of it
inside is one blank; order does not count and an item that comes twice counts once. A value need not be in the ontology,
for some gold values are not. All else is malformed: an unknown domain or slot, an item without a value, no item.
"""

from typing import Any

SLOTS = {
    "관광": ("경치 좋은", "교육적", "도보 가능", "문화 예술", "역사적", "이름", "종류", "주차 가능", "지역"),
    "숙소": (
        *("가격대", "도보 가능", "수영장 유무", "스파 유무", "예약 기간", "예약 명수", "예약 요일", "이름"),
        *("인터넷 가능", "조식 가능", "종류", "주차 가능", "지역", "헬스장 유무", "흡연 가능"),
    ),
    "식당": (
        *("가격대", "도보 가능", "야외석 유무", "예약 명수", "예약 시간", "예약 요일", "이름", "인터넷 가능", "종류"),
        *("주류 판매", "주차 가능", "지역", "흡연 가능"),
    ),
    "지하철": ("도착지", "출발 시간", "출발지"),
    "택시": ("도착 시간", "도착지", "종류", "출발 시간", "출발지"),
}
"""The 45 slots of the ontology by domain."""

ORDER = {f"{domain}-{slot}": i for i, (domain, slot) in enumerate((d, s) for d, slots in SLOTS.items() for s in slots)}

EMPTY = "없음"

ROLES = {"user": "사용자", "sys": "시스템"}


def rows(dataset: Any) -> Any:
    """Return a data set of the same kind with a row for each turn of the user: the dialogue so far and its state."""
    return type(dataset).from_list(
        [
            {
                "guid": doc["guid"],
                "turn": turn,
                "dialogue": [{"role": t["role"], "text": t["text"]} for t in doc["dialogue"][: turn + 1]],
                "state": list(said["state"]),
            }
            for doc in dataset
            for turn, said in enumerate(doc["dialogue"])
            if said["role"] == "user"
        ]
    )


def prompt(doc: dict[str, Any]) -> str:
    """Return the slots, the form of the answer, and the dialogue up to what the user says now."""
    slots = ", ".join(f"{domain}({', '.join(names)})" for domain, names in SLOTS.items())
    dialogue = "\n".join(f"{ROLES[turn['role']]}: {' '.join(turn['text'].split())}" for turn in doc["dialogue"])
    return (
        "대화에서 사용자가 지금까지 원한 조건을 모두 '도메인-슬롯-값'으로 쓰고 '; '로 이으세요. "
        f"조건이 없으면 '{EMPTY}'이라고 쓰세요. 예, 아니오로 답할 슬롯의 값은 yes, no이고, "
        "상관없다는 값은 dontcare입니다. 예: 식당-지역-서울 서쪽; 식당-예약 명수-2\n"
        f"도메인(슬롯): {slots}\n"
        f"{dialogue}\n"
        "조건:"
    )


def labels(doc: dict[str, Any]) -> tuple[str, ...]:
    """Return the gold "domain-slot-value" strings in the order of the slots; ValueError if one is no item."""
    items = {_parse_item(state) or _raise_unknown_item(state) for state in doc["state"]}
    return tuple(sorted(items, key=lambda item: (ORDER["-".join(item.split("-")[:2])], item)))


def target(doc: dict[str, Any]) -> str:
    """Return the gold state on one line."""
    return "; ".join(labels(doc)) or EMPTY


def parse(output: str, doc: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the "domain-slot-value" strings of *output*, each once; None if it is malformed."""
    if output.strip() == EMPTY:
        return ()
    items = [_parse_item(text) for text in output.split(";")]
    read = tuple(dict.fromkeys(item for item in items if item is not None))
    return None if None in items else read


def _parse_item(text: str) -> str | None:
    """Return "domain-slot-value" without superfluous white space; None if it is none, or holds what ends one."""
    domain, _, rest = text.partition("-")
    slot, _, value = rest.partition("-")
    domain, slot, value = (" ".join(part.split()) for part in (domain, slot, value))
    return f"{domain}-{slot}-{value}" if slot in SLOTS.get(domain, ()) and value and ";" not in value else None


def _raise_unknown_item(state: str) -> str:
    raise ValueError(f"the state {state!r} is no domain-slot-value of the ontology")
