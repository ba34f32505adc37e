"""Tasks whose answer is written: their prompts, right answers and scores, worked out by hand.

Every row, prompt, answer and score stands here as it has to be. Words of Korean texts are chosen so that a morpheme is
what a reader takes for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from bitnet_bench.evaluation.select import load_suites
from bitnet_bench.evaluation.task_run import TaskResult
from bitnet_bench.evaluation.tasks import BuiltTask
from tests.tasks import test_gold_exams
from tests.tasks.conftest import has_output_type

Answer = Callable[[str, dict[str, Any], Sequence[Any]], TaskResult]
Build = Callable[[str, dict[str, Any]], BuiltTask]
Teach = Callable[[str, dict[str, Any]], list[tuple[str, str]]]


@dataclass(frozen=True)
class Row:
    """The prompt of a row, its right answer as training teaches it, and the answer that is given in the test."""

    prompt: str
    right: str
    given: str
    malformed: bool = False


@dataclass(frozen=True)
class Gold:
    """A task on rows written for it."""

    file: str
    content: Any
    """The rows of that file in the data directory."""
    rows: tuple[Row, ...]
    scores: dict[str, float]
    """Metrics of the given answers, worked out by hand; chrF and METEOR only where they are simple."""
    references: tuple[tuple[str, ...], ...] = ()
    """The right answers of each row, where it has several or none."""
    labels: tuple[tuple[str, ...], ...] = ()
    """What is scored of each right answer, where that is not its text."""


def tag(sentence: str, tags: str) -> dict[str, Any]:
    """Return a row in the shape of KLUE-NER's files."""
    assert len(sentence) == len(tags.split())
    return {"guid": "1", "source": "own", "sentence": "", "tokens": list(sentence), "ner_tags": tags.split()}


def ask_ner(sentence: str) -> str:
    """Return the prompt of KLUE-NER."""
    return (
        "문장을 그대로 옮겨 쓰면서 모든 개체명을 <개체명:유형>으로 표시하세요. "
        "유형: PS(인물), LC(장소), OG(기관), DT(날짜), TI(시간), QT(수량). 예: <이순신:PS>은 <조선:LC> 사람이다.\n"
        f"문장: {sentence}\n표시:"
    )


NER_TAGS = (
    "B-PS I-PS I-PS O O B-LC I-LC O O O O O",
    "B-OG I-OG I-OG I-OG O O B-DT I-DT I-DT I-DT I-DT O O O O O O O O",
    "O O O O B-TI I-TI I-TI I-TI I-TI I-TI O O O O O O",
    "O O O B-QT I-QT I-QT I-QT O O O O O O",
    "O O O O O O O O O",
)
NER = Gold(
    file="klue/ner/validation.jsonl",
    content=[
        tag("이서준은 부산에 산다.", NER_TAGS[0]),
        tag("한빛은행은 3월 2일에 문을 연다.", NER_TAGS[1]),
        tag("기차는 오후 두 시에 떠난다.", NER_TAGS[2]),
        tag("학생 서른 명이 모였다.", NER_TAGS[3]),
        tag("하늘이 참 맑다.", NER_TAGS[4]),
    ],
    rows=(
        Row(ask_ner("이서준은 부산에 산다."), "<이서준:PS>은 <부산:LC>에 산다.", "<이서준:PS>은 <부산:OG>에 산다."),
        Row(
            ask_ner("한빛은행은 3월 2일에 문을 연다."),
            "<한빛은행:OG>은 <3월 2일:DT>에 문을 연다.",
            "<한빛은행:OG>은 <3월 2일:DT>에 문을 연다.",
        ),
        Row(
            ask_ner("기차는 오후 두 시에 떠난다."),
            "기차는 <오후 두 시:TI>에 떠난다.",
            "기차는 <오후 두:TI> 시에 떠난다.",
        ),
        Row(ask_ner("학생 서른 명이 모였다."), "학생 <서른 명:QT>이 모였다.", "학생 <서른 명:QT>이 모였다."),
        Row(ask_ner("하늘이 참 맑다."), "하늘이 참 맑다.", "하늘이 참", malformed=True),
    ),
    scores={
        # PS, LC (missed), OG (two given, one right), DT, TI (too short), QT
        "entity_f1": 100 * (1 + 0 + 2 / 3 + 1 + 0 + 1) / 6,
        # B and I of PS, LC, OG, DT, TI, QT, and O: 45 are right, 36 of the 38 that are given
        "character_macro_f1": 100
        * (1 + 1 + 0 + 0 + 2 / 3 + 6 / 7 + 1 + 1 + 1 + 6 / 8 + 1 + 1 + 2 * 36 / (45 + 38))
        / 13,
    },
    labels=tuple(tuple(tags.split()) for tags in NER_TAGS),
)


def depends(*words: tuple[str, int, str]) -> dict[str, Any]:
    """Return a row in the shape of KLUE-DP's files from (word, head, relation)."""
    return {
        "guid": "1",
        "source": "own",
        "sentence": " ".join(word for word, _, _ in words),
        "index": list(range(1, len(words) + 1)),
        "word_form": [word for word, _, _ in words],
        "lemma": [word for word, _, _ in words],
        "pos": ["NNG" for _ in words],
        "head": [head for _, head, _ in words],
        "deprel": [relation for _, _, relation in words],
    }


def ask_dp(words: str) -> str:
    """Return the prompt of KLUE-DP."""
    return (
        "의존 구문을 분석하여 어절마다 '번호:지배소 번호:관계'를 한 줄에 쓰세요. 문장의 뿌리는 지배소 번호가 0입니다. "
        "관계는 구 표지(NP 체언구, VP 용언구, VNP 긍정 지정사구, AP 부사구, DP 관형사구, IP 감탄사구, X 의사구, "
        "L 왼쪽 부호, R 오른쪽 부호)이며, 기능이 있으면 _와 기능 표지(SBJ 주어, OBJ 목적어, MOD 관형어, AJT 부사어, "
        "CMP 보어, CNJ 접속어)를 붙입니다. 예: 1:2:NP_SBJ 2:0:VP\n"
        f"어절: {words}\n분석:"
    )


DP = Gold(
    file="klue/dp/validation.jsonl",
    content=[
        depends(("나는", 3, "NP_SBJ"), ("밥을", 3, "NP_OBJ"), ("먹었다.", 0, "VP")),
        depends(("새", 2, "DP"), ("책이", 3, "NP_SBJ"), ("왔다.", 0, "VP")),
        depends(("비가", 4, "NP_SBJ"), ("아주", 3, "AP"), ("많이", 4, "AP"), ("내렸다.", 0, "VP")),
        depends(("빨간", 2, "VP_MOD"), ("꽃과", 3, "NP_CNJ"), ("나비를", 4, "NP_OBJ"), ("보았다.", 0, "VP")),
        depends(("그는", 4, "NP_SBJ"), ("학교에서", 4, "NP_AJT"), ("선생님이", 4, "NP_CMP"), ("되었다.", 0, "VP")),
        depends(("아,", 3, "IP"), ("정말", 3, "AP"), ("좋다!", 0, "VP")),
    ],
    rows=(
        Row(ask_dp("1:나는 2:밥을 3:먹었다."), "1:3:NP_SBJ 2:3:NP_OBJ 3:0:VP", "1:3:NP_SBJ 2:3:NP_OBJ 3:0:VP"),
        Row(ask_dp("1:새 2:책이 3:왔다."), "1:2:DP 2:3:NP_SBJ 3:0:VP", "1:2:DP 2:3:NP_SBJ 3:0:VP"),
        Row(
            ask_dp("1:비가 2:아주 3:많이 4:내렸다."),
            "1:4:NP_SBJ 2:3:AP 3:4:AP 4:0:VP",
            "1:4:NP_SBJ 2:4:AP 3:4:AP 4:0:VP",
        ),
        Row(
            ask_dp("1:빨간 2:꽃과 3:나비를 4:보았다."),
            "1:2:VP_MOD 2:3:NP_CNJ 3:4:NP_OBJ 4:0:VP",
            "1:2:VP_MOD 2:3:NP 3:4:NP_OBJ 4:0:VP",
        ),
        Row(
            ask_dp("1:그는 2:학교에서 3:선생님이 4:되었다."),
            "1:4:NP_SBJ 2:4:NP_AJT 3:4:NP_CMP 4:0:VP",
            "1:4:NP_SBJ 2:4:NP_AJT 3:4:NP_CMP",
            malformed=True,
        ),
        Row(ask_dp("1:아, 2:정말 3:좋다!"), "1:3:IP 2:3:AP 3:0:VP", "1:3:X 2:3:AP 3:0:VP"),
    ),
    scores={
        # heads 0, 2, 3 and 4, and the four words of the malformed answer, which have none
        "uas": 100 * (2 * 5 / (6 + 5) + 1 + 2 * 6 / (7 + 6) + 2 * 3 / (6 + 4) + 0) / 5,
        # NP_SBJ, NP_OBJ, VP, DP, AP, VP_MOD, and IP and X, which count as one relation; NP_CNJ, NP, NP_AJT, NP_CMP and
        # a wrong head are never right
        "las": 100 * (2 * 3 / (4 + 3) + 1 + 2 * 5 / (6 + 5) + 1 + 2 * 2 / (3 + 2) + 1 + 1) / 12,
        "uas_accuracy": 100 * 16 / 21,
        "las_accuracy": 100 * 14 / 21,
    },
    labels=(
        ("3 NP_SBJ", "3 NP_OBJ", "0 VP"),
        ("2 DP", "3 NP_SBJ", "0 VP"),
        ("4 NP_SBJ", "3 AP", "4 AP", "0 VP"),
        ("2 VP_MOD", "3 NP_CNJ", "4 NP_OBJ", "0 VP"),
        ("4 NP_SBJ", "4 NP_AJT", "4 NP_CMP", "0 VP"),
        ("3 IP", "3 AP", "0 VP"),
    ),
)


def question(title: str, context: str, asked: str, answers: Sequence[str], plausible: str = "") -> dict[str, Any]:
    """Return a row in the shape of KLUE-MRC's files."""
    return {
        "guid": "1",
        "title": title,
        "context": context,
        "question": asked,
        "is_impossible": not answers,
        "answers": {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]},
        "plausible_answers": {
            "text": [plausible] if plausible else [],
            "answer_start": [context.index(plausible)] if plausible else [],
        },
    }


def ask_mrc(title: str, context: str, asked: str) -> str:
    """Return the prompt of KLUE-MRC."""
    asks = "본문에 있는 말로 짧게 답하세요. 본문에 답이 없으면 '답 없음'이라고 쓰세요."
    return f"제목: {title}\n본문: {context}\n질문: {asked}\n{asks}\n답:"


LIBRARY = "푸른도서관은 1997년에 문을 열었다. 김하늘 교수가 책 오만 권을 보냈다."
BRIDGE = "한강 다리 위로 기차가 지난다."
MRC_CONTENT = [
    question("푸른도서관", LIBRARY, "도서관은 언제 열었나?", ["1997년"]),
    question("푸른도서관", LIBRARY, "누가 책을 보냈나?", ["김하늘 교수", "김하늘"]),
    question("푸른도서관", LIBRARY, "도서관은 누가 지었나?", [], "김하늘 교수"),
    question("푸른도서관", LIBRARY, "도서관은 언제 닫았나?", [], "1997년"),
    question("기차", BRIDGE, "기차는 어디를 지나나?", ["한강 다리"]),
]
MRC_ROWS = (
    Row(ask_mrc("푸른도서관", LIBRARY, "도서관은 언제 열었나?"), "1997년", "1997년"),
    Row(ask_mrc("푸른도서관", LIBRARY, "누가 책을 보냈나?"), "김하늘 교수", "김하늘"),
    Row(ask_mrc("푸른도서관", LIBRARY, "도서관은 누가 지었나?"), "답 없음", "답 없음"),
    Row(ask_mrc("푸른도서관", LIBRARY, "도서관은 언제 닫았나?"), "답 없음", "1997년"),
    Row(ask_mrc("기차", BRIDGE, "기차는 어디를 지나나?"), "한강 다리", "한강"),
)
MRC_REFERENCES = (("1997년",), ("김하늘 교수", "김하늘"), ("",), ("",), ("한강 다리",))
MRC = Gold(
    file="klue/mrc/validation.jsonl",
    content=MRC_CONTENT,
    rows=MRC_ROWS,
    scores={
        "klue_exact_match": 100 * 3 / 5,
        # two characters of two, and of five with the blank
        "klue_rouge_w": 100 * (3 + 2 * 2 / (2 + 5)) / 5,
        "klue_exact_match:corrected": 100 * 3 / 5,
        "klue_rouge_w:corrected": 100 * (3 + 2 * 2 / (2 + 5)) / 5,
        # the blank does not count
        "char_f1": 100 * (3 + 2 * 2 / (2 + 4)) / 5,
    },
    references=MRC_REFERENCES,
)
QA_MRC = Gold(
    file="klue/mrc/validation.jsonl",
    content=MRC_CONTENT,
    rows=MRC_ROWS,
    scores={"char_f1": 100 * (3 + 2 * 2 / (2 + 4)) / 5, "exact_match": 100 * 3 / 5},
    references=MRC_REFERENCES,
)


def say(text: str, *state: str) -> list[dict[str, Any]]:
    """Return what a user says, with the state after it, and what the system answers."""
    return [
        {"role": "user", "text": text, "state": list(state)},
        {"role": "sys", "text": "네, 알겠습니다.", "state": []},
    ]


def ask_wos(*said: str) -> str:
    """Return the prompt of KLUE-WoS at the last of what a user *said*."""
    turns = "\n시스템: 네, 알겠습니다.\n".join(f"사용자: {text}" for text in said)
    return (
        "대화에서 사용자가 지금까지 원한 조건을 모두 '도메인-슬롯-값'으로 쓰고 '; '로 이으세요. "
        "조건이 없으면 '없음'이라고 쓰세요. 예, 아니오로 답할 슬롯의 값은 yes, no이고, 상관없다는 값은 dontcare입니다. "
        "예: 식당-지역-서울 서쪽; 식당-예약 명수-2\n"
        "도메인(슬롯): 관광(경치 좋은, 교육적, 도보 가능, 문화 예술, 역사적, 이름, 종류, 주차 가능, 지역), "
        "숙소(가격대, 도보 가능, 수영장 유무, 스파 유무, 예약 기간, 예약 명수, 예약 요일, 이름, 인터넷 가능, "
        "조식 가능, 종류, 주차 가능, 지역, 헬스장 유무, 흡연 가능), "
        "식당(가격대, 도보 가능, 야외석 유무, 예약 명수, 예약 시간, 예약 요일, 이름, 인터넷 가능, 종류, 주류 판매, "
        "주차 가능, 지역, 흡연 가능), 지하철(도착지, 출발 시간, 출발지), "
        "택시(도착 시간, 도착지, 종류, 출발 시간, 출발지)\n"
        f"{turns}\n조건:"
    )


MEAL = ("식당-지역-서울 서쪽", "식당-가격대-저렴", "식당-종류-한식당")
WOS_LABELS = (
    ("식당-가격대-저렴", "식당-종류-한식당", "식당-지역-서울 서쪽"),
    ("식당-가격대-저렴", "식당-예약 명수-2", "식당-이름-푸른식당", "식당-종류-한식당", "식당-지역-서울 서쪽"),
    (),
    ("택시-도착지-시청",),
    ("택시-도착지-시청", "택시-출발 시간-15:00"),
)
WOS = Gold(
    file="klue/wos/validation.jsonl",
    content=[
        {
            "guid": "1",
            "domains": ["식당"],
            "dialogue": [
                *say("서울 서쪽에서 저렴한 한식당을 찾아요.", *MEAL),
                *say("푸른식당에 두 명 예약해 주세요.", *MEAL, "식당-이름-푸른식당", "식당-예약 명수-2"),
            ],
        },
        {
            "guid": "2",
            "domains": ["택시"],
            "dialogue": [
                *say("안녕하세요."),
                *say("시청으로 가는 택시요.", "택시-도착지-시청"),
                *say("세 시에 출발할게요.", "택시-도착지-시청", "택시-출발 시간-15:00"),
            ],
        },
    ],
    rows=(
        Row(
            ask_wos("서울 서쪽에서 저렴한 한식당을 찾아요."),
            "식당-가격대-저렴; 식당-종류-한식당; 식당-지역-서울 서쪽",
            "식당-지역-서울 서쪽; 식당-가격대-저렴; 식당-종류-한식당",
        ),
        Row(
            ask_wos("서울 서쪽에서 저렴한 한식당을 찾아요.", "푸른식당에 두 명 예약해 주세요."),
            "식당-가격대-저렴; 식당-예약 명수-2; 식당-이름-푸른식당; 식당-종류-한식당; 식당-지역-서울 서쪽",
            "식당-가격대-저렴; 식당-예약 명수-3; 식당-종류-한식당; 식당-지역-서울 서쪽",
        ),
        Row(ask_wos("안녕하세요."), "없음", "없음"),
        Row(ask_wos("안녕하세요.", "시청으로 가는 택시요."), "택시-도착지-시청", "택시를 시청으로", malformed=True),
        Row(
            ask_wos("안녕하세요.", "시청으로 가는 택시요.", "세 시에 출발할게요."),
            "택시-도착지-시청; 택시-출발 시간-15:00",
            "택시-도착지-시청; 택시-출발 시간-15:00",
        ),
    ),
    scores={
        "joint_goal_accuracy": 100 * 3 / 5,
        # the second turn: three are right of four that are given and five that are due
        "slot_f1": 100 * (1 + 2 * 3 / (4 + 5) + 1 + 0 + 1) / 5,
    },
    labels=WOS_LABELS,
)
MOUNTAIN = "달빛산은 812미터이고 1990년에 공원이 되었다. 정상에는 작은 샘이 있고 길은 두 갈래다. 김하늘이 길을 냈다."


def ask_korquad(asked: str) -> str:
    """Return the prompt of KorQuAD."""
    return f"제목: 달빛산\n지문: {MOUNTAIN}\n질문: {asked}\n정답:"


def squad(**asked: list[str]) -> dict[str, Any]:
    """Return a file in SQuAD's layout of one paragraph: the question, and its answers."""
    qas = [
        {
            "id": f"q{number}",
            "question": text.replace("_", " ") + "?",
            "answers": [{"text": answer, "answer_start": MOUNTAIN.index(answer)} for answer in answers],
        }
        for number, (text, answers) in enumerate(asked.items())
    ]
    return {"version": "own", "data": [{"title": "달빛산", "paragraphs": [{"context": MOUNTAIN, "qas": qas}]}]}


KORQUAD = Gold(
    file="korquad_v1.0/KorQuAD_v1.0_dev.json",
    content=squad(
        산의_높이는=["812미터"],
        정상에_있는_것은=["작은 샘", "샘"],
        공원이_된_해는=["1990년"],
        길은_몇_갈래인가=["두 갈래"],
        누가_길을_냈나=["김하늘"],
    ),
    rows=(
        Row(ask_korquad("산의 높이는?"), "812미터", "812미터"),
        Row(ask_korquad("정상에 있는 것은?"), "작은 샘", "샘"),
        Row(ask_korquad("공원이 된 해는?"), "1990년", "1991년"),
        Row(ask_korquad("길은 몇 갈래인가?"), "두 갈래", ""),
        Row(ask_korquad("누가 길을 냈나?"), "김하늘", "김하늘 씨"),
    ),
    scores={
        # 1, 9, 9 and 년 of five characters; three characters of three and of four
        "char_f1": 100 * (1 + 1 + 2 * 4 / (5 + 5) + 0 + 2 * 3 / (4 + 3)) / 5,
        "exact_match": 100 * 2 / 5,
    },
    references=(("812미터",), ("작은 샘", "샘"), ("1990년",), ("두 갈래",), ("김하늘",)),
)


def own_question(context: str, asked: str, answer: str) -> dict[str, Any]:
    """Return a row in the shape of the sample's QA."""
    return {"id": "1", "context": context, "question": asked, "answers": [answer]}


SAMPLE_QA = Gold(
    file="rows.jsonl",
    content=[
        own_question("민수는 배를 샀다.", "무엇을 샀나?", "배"),
        own_question("수지는 강릉에 갔다.", "어디에 갔나?", "강릉"),
        own_question("가게는 아홉 시에 연다.", "언제 여나?", "아홉 시"),
        own_question("의자는 네 개다.", "몇 개인가?", "네 개"),
        own_question("형은 의사다.", "형은 무엇인가?", "의사"),
    ],
    rows=(
        Row("지문: 민수는 배를 샀다. 질문: 무엇을 샀나? 정답:", "배", "배"),
        Row("지문: 수지는 강릉에 갔다. 질문: 어디에 갔나? 정답:", "강릉", "강릉시"),
        Row("지문: 가게는 아홉 시에 연다. 질문: 언제 여나? 정답:", "아홉 시", "아홉시"),
        Row("지문: 의자는 네 개다. 질문: 몇 개인가? 정답:", "네 개", ""),
        Row("지문: 형은 의사다. 질문: 형은 무엇인가? 정답:", "의사", "의사"),
    ),
    scores={"char_f1": 100 * (1 + 2 * 2 / (3 + 2) + 1 + 0 + 1) / 5, "exact_match": 100 * 2 / 5},
)
ARTICLES = (
    "시청은 도서관을 새벽에도 연다고 했다.",
    "학교는 내일 급식비를 받지 않는다.",
    "바다에서 돌고래 다섯 마리가 구조되었다.",
    "천문대는 겨울에 별을 보는 행사를 연다.",
    "서울의 버스 요금이 오른다.",
)
HEADLINES = (
    ("시청 도서관 새벽 개방", "시청 도서관 새벽 개방"),
    ("학교 급식 내일 무료", "학교 급식 무료"),
    ("돌고래 다섯 마리 구조", "돌고래 다섯 마리 구조"),
    ("겨울 별 관측 행사", "별 관측 행사 겨울"),
    ("서울 버스 요금 인상", "부산 지하철 요금 인상"),
)
"""Headlines of four words, and what is written for them."""
ROUGE = {
    "rouge_l": 100 * (1 + 2 * 3 / (3 + 4) + 1 + 3 / 4 + 2 / 4) / 5,
    "rouge_1": 100 * (1 + 2 * 3 / (3 + 4) + 1 + 1 + 2 / 4) / 5,
    "rouge_2": 100 * (1 + 2 * 1 / (2 + 3) + 1 + 2 / 3 + 1 / 3) / 5,
}
"""The longest common subsequence, the words and the pairs of words that each has in common with its headline."""


def summarize(file: str, given: str, asked: str, right: str, scores: dict[str, float], **more: Any) -> Gold:
    """Return the headlines as a task: the fields of the article and of the headline, and what is around the article."""
    return Gold(
        file=file,
        content=[
            {"guid": "1", **more, given: article, right: headline}
            for article, (headline, _) in zip(ARTICLES, HEADLINES, strict=True)
        ],
        rows=tuple(
            Row(asked.format(article), headline, written)
            for article, (headline, written) in zip(ARTICLES, HEADLINES, strict=True)
        ),
        scores=scores,
    )


SCIENCE = (
    (("달 남극 얼음", "로켓 발사 연기", "우주 기지 계획"), [2, 0], "달 남극 얼음\n우주 기지 계획"),
    (("고래 새끼 구조", "바다 온도 상승", "섬 주민 환영"), [0, 2], "고래 새끼 구조\n바다 온도 상승"),
    (("겨울 별 관측", "도서관 새벽 개방", "망원경 다섯 대"), [2, 0], "망원경 다섯 대\n겨울 별 관측"),
    (("버스 요금 인상", "학교 급식 무료", "시청 광장 행사"), [0, 2], ""),
    (("물 값 하락", "여름 휴가 계획", "친구 생일 선물"), [2, 0], "물 값 하락"),
)
"""Three sentences of three words, the places of the two that sum them up, and what is written."""
SCI_NEWS = Gold(
    file="sci_news_sum_kr_50/test.jsonl",
    content=[
        {"title": "제목", "source": "-", "slug": "1", "length": 3, "sentences": list(sentences), "summaries": chosen}
        for sentences, chosen, _ in SCIENCE
    ],
    rows=tuple(
        Row(f"기사:\n{a}\n{b}\n{c}\n\n중요한 문장만 골라 요약:", f"{a}\n{c}", written)
        for (a, b, c), _, written in SCIENCE
    ),
    scores={
        # all; one of two; both in another order, which only the lines allow; nothing; one alone
        "rouge_lsum": 100 * (1 + 3 / 6 + 1 + 0 + 2 * 3 / (3 + 6)) / 5,
        "rouge_l": 100 * (1 + 3 / 6 + 3 / 6 + 0 + 2 * 3 / (3 + 6)) / 5,
        "rouge_1": 100 * (1 + 3 / 6 + 1 + 0 + 2 * 3 / (3 + 6)) / 5,
        "rouge_2": 100 * (1 + 2 / 5 + 4 / 5 + 0 + 2 * 2 / (2 + 5)) / 5,
    },
)
PAIRS = (
    ("we eat rice now", "우린 밥을 먹는다"),
    ("he drank it all", "그가 전부 마셨다"),
    ("it rains in May", "오월 비가 내린다"),
    ("a star is shiny", "별이 밝게 빛난다"),
    ("my dog is tired", "우리 개가 지쳤다"),
)
"""Sentences of four English words and twelve letters, and of three Korean words and seven syllables."""
ONE_OF_FIVE_MISSING = 100 * 5 * (4 / 5) / (4 + 4 / 5)
"""chrF++ (F2) if one of five sentences of one length is missing: of all n-grams 4 of 5 are found, and none is wrong."""


def translate(file: str, given: str, right: str, into_korean: bool, **scores: float) -> Gold:
    """Return the pairs as a task, answered right but for the fourth, which is left empty."""
    ordered = PAIRS if into_korean else tuple((korean, english) for english, korean in PAIRS)
    first, second = ("영어", "한국어") if into_korean else ("한국어", "영어")
    return Gold(
        file=file,
        content=[{"id": number, given: source, right: target} for number, (source, target) in enumerate(ordered)],
        rows=tuple(
            Row(f"{first}: {source}\n{second}:", target, "" if number == 3 else target)
            for number, (source, target) in enumerate(ordered)
        ),
        scores={"chrf": ONE_OF_FIVE_MISSING, **scores},
    )


INTO_KOREAN = {
    # 5, 5, 4, 5 and 5 morphemes, of which the fourth five are missing; METEOR's one chunk costs 0.5 / n^3
    "bleu": 100 * math.exp(1 - 24 / 19),
    "meteor": 100 * (3 * (1 - 0.5 / 5**3) + (1 - 0.5 / 4**3) + 0) / 5,
}
INTO_ENGLISH = {"bleu:13a": 100 * math.exp(1 - 20 / 16)}
TEXTS = (
    ("가나다", -9 * 1.0),  # 9 bytes at 1 bit each
    ("가 나", -7 * 3.0),  # 7 bytes at 3 bits
    ("abc", -3 * 8.0),  # 3 bytes at 8 bits
    ("é가", -5 * 2.0),  # 5 bytes at 2 bits
    ("😀", -4 * 4.0),  # 4 bytes at 4 bits
)
"""Texts of 9, 7, 3, 5 and 4 UTF-8 bytes, and log2 of the probability that they are given."""
BITS = (9 * 1 + 7 * 3 + 3 * 8 + 5 * 2 + 4 * 4) / (9 + 7 + 3 + 5 + 4)
GOLD = {
    "klue:ner": NER,
    "klue:dp": DP,
    "klue:mrc": MRC,
    "klue:wos": WOS,
    "qa:korquad": KORQUAD,
    "qa:klue_mrc": QA_MRC,
    "sample:qa": SAMPLE_QA,
    "summarization:klue_headline": summarize(
        "klue_headline/validation.jsonl",
        "document",
        "기사: {}\n제목:",
        "headline",
        # words, pairs, triples and fours in common, of those that are written; 19 words for 20
        ROUGE | {"bleu": 100 * math.exp(1 - 20 / 19) * (17 / 19 * 10 / 14 * 5 / 9 * 2 / 4) ** (1 / 4)},
    ),
    "summarization:sci_news_sum_kr_50": SCI_NEWS,
    "summarization:sae4k": summarize("sae4k/test.jsonl", "sentence", "문장: {}\n핵심:", "argument", ROUGE, label=2),
    "summarization:xlsum": summarize("rows.jsonl", "text", "기사: {}\n한 문장 요약:", "summary", ROUGE),
    "sample:summarization": summarize("rows.jsonl", "document", "{}\n요약:", "summary", {"rouge_l": ROUGE["rouge_l"]}),
    "translation:flores200_en_ko": translate("flores200/devtest.jsonl", "eng_Latn", "kor_Hang", True, **INTO_KOREAN),
    "translation:flores200_ko_en": translate("flores200/devtest.jsonl", "kor_Hang", "eng_Latn", False, **INTO_ENGLISH),
    "translation:korean_parallel_news_en_ko": translate(
        "korean_parallel_news/test.jsonl", "en", "ko", True, **INTO_KOREAN
    ),
    "translation:korean_parallel_news_ko_en": translate(
        "korean_parallel_news/test.jsonl", "ko", "en", False, **INTO_ENGLISH
    ),
    "translation:tatoeba_en_ko": translate("tatoeba_eng_kor/test.jsonl", "eng", "kor", True, **INTO_KOREAN),
    "translation:tatoeba_ko_en": translate("tatoeba_eng_kor/test.jsonl", "kor", "eng", False, **INTO_ENGLISH),
    "translation:own_en_ko": translate("rows.jsonl", "en", "ko", True, **INTO_KOREAN),
    "translation:own_ko_en": translate("rows.jsonl", "ko", "en", False, **INTO_ENGLISH),
    "sample:translation": translate("rows.jsonl", "english", "korean", True, bleu=INTO_KOREAN["bleu"]),
}
NOT_BY_HAND = {"summarization:sae4k": {"chrf"}}
"""Metrics of a task that are left to the tests of the metric."""


@pytest.mark.parametrize("name", GOLD)
def test_texts_are_asked_and_scored_as_worked_out_by_hand(name: str, answer_rows: Answer) -> None:
    """Each prompt and right answer to the character, and the metrics of answers of which some are wrong."""
    gold = GOLD[name]
    result = answer_rows(name, {gold.file: gold.content}, [f" {row.given}" for row in gold.rows])
    assert [example.prompt for example in result.examples] == [row.prompt for row in gold.rows]
    assert [example.target for example in result.examples] == [row.right for row in gold.rows]
    assert [example.references for example in result.examples] == list(
        gold.references or [(row.right,) for row in gold.rows]
    )
    assert [example.target_labels for example in result.examples] == list(gold.labels or [()] * len(gold.rows))
    assert [example.malformed for example in result.examples] == [row.malformed for row in gold.rows]
    scores = {score.metric: score.value for score in result.scores}
    assert {metric: scores[metric] for metric in gold.scores} == pytest.approx(gold.scores)
    assert result.scores[0].metric in gold.scores
    assert scores.keys() - gold.scores.keys() == NOT_BY_HAND.get(name, set())


@pytest.mark.parametrize("name", GOLD)
def test_a_right_answer_is_right_and_none_is_wrong(name: str, answer_rows: Answer) -> None:
    """What training teaches gets everything; an empty answer gets something only where nothing is what is due."""
    gold = GOLD[name]
    right = answer_rows(name, {gold.file: gold.content}, [row.right for row in gold.rows])
    assert [example.correct for example in right.examples] == pytest.approx([1.0] * len(gold.rows))
    assert not any(example.malformed for example in right.examples)
    empty = answer_rows(name, {gold.file: gold.content}, [""] * len(gold.rows))
    due = [row.right == "답 없음" for row in gold.rows]
    assert [example.correct for example in empty.examples] == [float(nothing) for nothing in due]


TRAIN_FILES = {
    "klue:ner": "klue/ner/train.jsonl",
    "klue:dp": "klue/dp/train.jsonl",
    "klue:mrc": "klue/mrc/train.jsonl",
    "klue:wos": "klue/wos/train.jsonl",
    "qa:klue_mrc": "klue/mrc/train.jsonl",
    "summarization:klue_headline": "klue_headline/train.jsonl",
    "summarization:sae4k": "sae4k/train.jsonl",
    "translation:korean_parallel_news_en_ko": "korean_parallel_news/train.jsonl",
    "translation:korean_parallel_news_ko_en": "korean_parallel_news/train.jsonl",
}
"""Where a data directory has the training rows of tasks that have some."""


@pytest.mark.parametrize("name", TRAIN_FILES)
def test_training_teaches_the_right_answer_of_each_row(name: str, teach_rows: Teach) -> None:
    """The response is the right answer after a space; what is asked in the test is not taught."""
    gold = GOLD[name]
    taught = teach_rows(name, {gold.file: gold.content[:1], TRAIN_FILES[name]: gold.content})
    asked = 2 if name == "klue:wos" else 1  # the first dialogue has two turns
    assert taught == [(row.prompt, f" {row.right}") for row in gold.rows[asked:]]


TAGS_ON_THE_HUB = (
    [6, 7, 7, 12, 12, 2, 3, 12, 12, 12, 12, 12],
    [4, 5, 5, 5, 12, 12, 0, 1, 1, 1, 1, 12, 12, 12, 12, 12, 12, 12, 12],
    [12, 12, 12, 12, 10, 11, 11, 11, 11, 11, 12, 12, 12, 12, 12, 12],
    [12, 12, 12, 8, 9, 9, 9, 12, 12, 12, 12, 12, 12],
    [12] * 9,
)
"""The same tags as the hub counts them: B and I of DT, LC, OG, PS, QT, TI, then O."""


def test_the_hub_s_numbers_of_entities_mean_the_same_tags(answer_rows: Answer) -> None:
    """All 13 of them."""
    rows = [row | {"ner_tags": tags} for row, tags in zip(NER.content, TAGS_ON_THE_HUB, strict=True)]
    result = answer_rows("klue:ner", {NER.file: rows}, [row.right for row in NER.rows])
    assert [example.target for example in result.examples] == [row.right for row in NER.rows]
    assert [example.target_labels for example in result.examples] == list(NER.labels)


@pytest.mark.parametrize("name", ["language_modeling:kaist_treebank", "language_modeling:own"])
def test_running_text_is_scored_in_bits_per_utf_8_byte(name: str, answer_rows: Answer) -> None:
    """A Hangul syllable has three bytes, and a long text counts for more than a short one."""
    file = "raw_ko/kaist_treebank.jsonl" if name.endswith("treebank") else "rows.jsonl"
    rows = [{"text": text, "source": "own"} for text, _ in TEXTS]
    result = answer_rows(name, {file: rows}, [bits * math.log(2) for _, bits in TEXTS])
    scores = {score.metric: score.value for score in result.scores}
    assert scores == pytest.approx({"bits_per_byte": BITS, "byte_perplexity": 2**BITS})
    assert [example.target for example in result.examples] == [text for text, _ in TEXTS]
    # the mean probability of a byte of each
    assert [example.correct for example in result.examples] == pytest.approx([1 / 2, 1 / 8, 1 / 256, 1 / 4, 1 / 16])


LIMITS = {
    "klue:ner": 512,
    "klue:dp": 512,
    "klue:mrc": 224,
    "klue:wos": 640,
    "qa:korquad": 64,
    "qa:klue_mrc": 224,
    "sample:qa": 24,
    "sample:summarization": 48,
    "sample:translation": 48,
    "summarization:klue_headline": 64,
    "summarization:sci_news_sum_kr_50": 256,
    "summarization:sae4k": 48,
    "summarization:xlsum": 128,
    "translation:flores200_en_ko": 160,
    "translation:flores200_ko_en": 160,
    "translation:korean_parallel_news_en_ko": 160,
    "translation:korean_parallel_news_ko_en": 160,
    "translation:tatoeba_en_ko": 96,
    "translation:tatoeba_ko_en": 96,
    "translation:own_en_ko": 160,
    "translation:own_ko_en": 160,
}
"""The most tokens of an answer."""


@pytest.mark.parametrize("name", GOLD)
def test_an_answer_ends_with_its_line_or_at_its_limit(name: str, build_rows: Build) -> None:
    """But for a summary of several lines, which ends with an empty one; nothing is sampled."""
    built = build_rows(name, {GOLD[name].file: GOLD[name].content})
    stop = "\n\n" if name == "summarization:sci_news_sum_kr_50" else "\n"
    kwargs = built.lm_task.config.generation_kwargs
    assert kwargs == {"until": [stop], "do_sample": False, "max_gen_toks": LIMITS[name]}


def test_every_task_that_writes_is_worked_out_by_hand_here_or_among_the_exams() -> None:
    """A task that is added needs rows in this file, in the one of exams, or in the one of choices."""
    asked = {
        f"{suite.name}:{task.name}"
        for suite in load_suites().values()
        for task in suite.tasks
        if task.kind == "scored"
        and not any(has_output_type(suite.folder / file, "multiple_choice") for file in task.definitions.values())
    }
    assert asked == {*GOLD, *test_gold_exams.WRITTEN, "language_modeling:kaist_treebank", "language_modeling:own"}
