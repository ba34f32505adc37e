"""KLUE-DP: the head and the relation of every word on one line, such as `1:2:NP_SBJ 2:0:VP`.

    output   = item , { blank , item } ;
    item     = number , ":" , head , ":" , relation ;
    number   = "1" | ... | n ;            (* each word of the sentence once, in any order *)
    head     = "0" | number ;             (* 0: the root *)
    relation = one of RELATIONS ;

White space around the output is dropped and any white space is a blank. All else is malformed: another head or
relation, a word that is missing or comes twice. Whether the heads make a tree is not asked, as officially.
"""

import re
from typing import Any

RELATIONS = (
    *("NP", "NP_AJT", "VP", "NP_SBJ", "VP_MOD", "NP_OBJ", "AP", "NP_CNJ", "NP_MOD", "VNP", "DP", "VP_AJT", "VNP_MOD"),
    *("NP_CMP", "VP_SBJ", "VP_CMP", "VP_OBJ", "VNP_CMP", "AP_MOD", "X_AJT", "VP_CNJ", "VNP_AJT", "IP", "X", "X_SBJ"),
    *("VNP_OBJ", "VNP_SBJ", "X_OBJ", "AP_AJT", "L", "X_MOD", "X_CNJ", "VNP_CNJ", "X_CMP", "AP_CMP", "AP_SBJ", "R"),
    "NP_SVJ",
)
"""The 38 relations in the order of KLUE-baseline, in which those from the 16th on are scored as one."""

ITEM = re.compile(rf"([0-9]+):([0-9]+):({'|'.join(RELATIONS)})")


def prompt(doc: dict[str, Any]) -> str:
    """Return the numbered words, the form of the answer, and what relations are made of."""
    words = " ".join(f"{number}:{''.join(word.split())}" for number, word in enumerate(doc["word_form"], 1))
    return (
        "의존 구문을 분석하여 어절마다 '번호:지배소 번호:관계'를 한 줄에 쓰세요. 문장의 뿌리는 지배소 번호가 0입니다. "
        "관계는 구 표지(NP 체언구, VP 용언구, VNP 긍정 지정사구, AP 부사구, DP 관형사구, IP 감탄사구, X 의사구, "
        "L 왼쪽 부호, R 오른쪽 부호)이며, 기능이 있으면 _와 기능 표지(SBJ 주어, OBJ 목적어, MOD 관형어, AJT 부사어, "
        "CMP 보어, CNJ 접속어)를 붙입니다. 예: 1:2:NP_SBJ 2:0:VP\n"
        f"어절: {words}\n"
        "분석:"
    )


def target(doc: dict[str, Any]) -> str:
    """Return the gold analysis, words in order."""
    items = zip(doc["head"], doc["deprel"], strict=True)
    return " ".join(f"{number}:{head}:{relation}" for number, (head, relation) in enumerate(items, 1))


def labels(doc: dict[str, Any]) -> tuple[str, ...]:
    """Return the gold "HEAD RELATION" of each word."""
    return tuple(f"{head} {relation}" for head, relation in zip(doc["head"], doc["deprel"], strict=True))


def parse(output: str, doc: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the "HEAD RELATION" that *output* gives each word; None if it is malformed."""
    # compared as text: "01" is no number here, and thousands of digits are not worth reading
    numbers = [str(number) for number in range(1, len(doc["word_form"]) + 1)]
    heads = {"0", *numbers}
    read: dict[str, str] = {}
    for item in output.split():
        found = ITEM.fullmatch(item)
        if found is None or found[1] in read or found[2] not in heads:
            return None
        read[found[1]] = f"{found[2]} {found[3]}"
    return tuple(read[number] for number in numbers) if read.keys() == set(numbers) else None
