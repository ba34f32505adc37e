"""Exams, mathematics and instructions: their prompts, right answers and scores, worked out by hand.

Every row, prompt, answer and score stands here as it has to be. A question with choices is asked in both ways: its
choices are compared, or a text is written in which one of them is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.task_run import TaskResult
from bitnet_bench.evaluation.tasks import BuiltTask

Ask = Callable[..., TaskResult]
Build = Callable[..., BuiltTask]
Teach = Callable[[str, dict[str, Any]], list[tuple[str, str]]]


@dataclass(frozen=True)
class Row:
    """A question, its prompts in the two ways to answer, its right answer, and the answers that the test gives."""

    fields: dict[str, Any]
    listed: str
    """Prompt before the choices that are compared."""
    asked: str
    """Prompt for a text."""
    letters: str
    """Letters of the choices, in order."""
    right: str
    likely: str
    """Letter that is preferred."""
    text: str
    """Text that is written."""
    named: str | None
    """Letter that a reader finds in that text; None if it names no single choice."""
    groups: dict[str, str]
    config: str = ""
    """Configuration of the data set that has the row."""


@dataclass(frozen=True)
class Gold:
    """An exam on rows written for it."""

    file: str
    """Where a data directory has the rows, with {config} for their configuration."""
    rows: tuple[Row, ...]
    primary: tuple[float, float]
    """Share of right answers by likelihood and in texts, 0..100."""
    chance: float
    majority: float
    """Share of right answers if every row were answered with the most frequent letter."""
    parts: dict[str, tuple[float, float, int]]
    """Of each group, the share of right answers by likelihood and in texts, and the number of rows."""
    default: str = "generate_until"
    """How lm-eval calls the way to answer that is taken unless another is named."""
    choice: str = "{}"
    """How a letter is written where choices are compared."""
    configs: tuple[str, ...] = ()
    length: int = 1024
    """The most tokens of a text."""
    until: tuple[str, ...] = ("</s>",)
    """What ends a text."""

    def files(self, rows: Sequence[Row], file: str = "") -> dict[str, Any]:
        """Return the content of each file of *rows*; a configuration without rows has an empty file."""
        configs = self.configs or ("",)
        return {
            (file or self.file).format(config=config): [row.fields for row in rows if row.config == config]
            for config in configs
        }


def click(name: str, question: str, choices: Sequence[str], answer: str, paragraph: str = "") -> dict[str, Any]:
    """Return a row in the shape of CLIcK's file."""
    return {"id": name, "paragraph": paragraph, "question": question, "choices": list(choices), "answer": answer}


CLICK_SOCIETY = (
    "주어진 질문을 천천히 읽고, 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
    "질문: 쓰레기를 나누어 버리는 까닭은?\n보기:\n"
    "A:길을 넓히려고, B: 값을 올리려고, C: 다시 쓰려고, D: 빨리 자려고\n정답:"
)
CLICK_READING = (
    "주어진 맥락을 천천히 읽고, 질문에 대한 적절한 정답을 {} 중에 골라 알파벳 하나로 답하시오.\n\n"
    "맥락: 달팽이는 비가 그친 저녁에 담을 오른다.\n"
    "질문: 윗글에서 달팽이가 오르는 것은?\n보기:\nA:산, B: 나무, C: 계단, D: 지붕{}\n정답:"
)
CLICK_WORD = (
    "주어진 질문을 천천히 읽고, 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
    "질문: 빈칸에 알맞은 것은?\n눈이 (  ) 길이 미끄럽다.\n보기:\nA:와서, B: 오려고, C: 오든지, D: 오더라도\n정답:"
)
CLICK_NOTICE = (
    "주어진 맥락을 천천히 읽고, 질문에 대한 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
    "맥락: 오늘은 문을 닫습니다.\n질문: 무엇을 알리는 글인가?\n보기:\nA:할인, B: 초대, C: 휴무, D: 모집\n정답:"
)
CLICK_SPELLING = (
    "주어진 질문을 천천히 읽고, 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
    "질문: 바르게 적은 것은?\n보기:\nA:깨끗히, B: 몇일, C: 왠일, D: 며칠\n정답:"
)
CLICK = Gold(
    file="click/test.jsonl",
    rows=(
        Row(
            click(
                "KIIP_society_77",
                "쓰레기를 나누어 버리는 까닭은?",
                ("길을 넓히려고", "값을 올리려고", "다시 쓰려고", "빨리 자려고"),
                "다시 쓰려고",
            ),
            CLICK_SOCIETY, CLICK_SOCIETY, "ABCD", "C", "C", "정답: B", "B",
            {"branch": "culture", "category": "society"},
        ),
        Row(  # five choices, of which the prompt of likelihood shows four, as lm-eval's does
            click(
                "CSAT_korean_23_11",
                "윗글에서 달팽이가 오르는 것은?",
                ("산", "나무", "계단", "지붕", "담"),
                "담",
                "달팽이는 비가 그친 저녁에 담을 오른다.",
            ),
            CLICK_READING.format("A, B, C, D", ""), CLICK_READING.format("A, B, C, D, E", ", E: 담"),
            "ABCDE", "E", "E", "정답은 (E)입니다.", "E",
            {"branch": "language", "category": "textual"},
        ),
        Row(
            click(
                "TK_91_3",
                "빈칸에 알맞은 것은?\n눈이 (  ) 길이 미끄럽다.",
                ("와서", "오려고", "오든지", "오더라도"),
                "와서",
            ),
            CLICK_WORD, CLICK_WORD, "ABCD", "A", "B", "A", "A",
            {"branch": "language", "category": "grammar"},
        ),
        Row(
            click(
                "PSE_korean_5",
                "무엇을 알리는 글인가?",
                ("할인", "초대", "휴무", "모집"),
                "휴무",
                "오늘은 문을 닫습니다.",
            ),
            CLICK_NOTICE, CLICK_NOTICE, "ABCD", "C", "C", "잘 모르겠습니다.", None,
            {"branch": "language", "category": "functional"},
        ),
        Row(
            click("Kedu_17_4", "바르게 적은 것은?", ("깨끗히", "몇일", "왠일", "며칠"), "며칠"),
            CLICK_SPELLING, CLICK_SPELLING, "ABCD", "D", "D", "며칠", "D",
            {"branch": "language", "category": "grammar"},
        ),
    ),
    primary=(100 * 4 / 5, 100 * 3 / 5),
    chance=(4 * 25 + 20) / 5,
    majority=100 * 2 / 5,  # C
    parts={
        "branch=culture": (100, 0, 1),
        "branch=language": (75, 75, 4),
        "category=functional": (100, 0, 1),
        "category=grammar": (50, 100, 2),
        "category=society": (100, 0, 1),
        "category=textual": (100, 100, 1),
    },
    default="multiple_choice",
)  # fmt: skip


def kmmlu(question: str, answer: int, *choices: str) -> dict[str, Any]:
    """Return a row in the shape of KMMLU's tables, which count the answer from 1."""
    named = dict(zip("ABCD", choices, strict=True))
    return {"question": question, "answer": answer, **named, "Category": "Own", "Human Accuracy": ""}


KMMLU_PROMPTS = (
    "물건을 사고 받는 증서는?\nA. 영수증\nB. 여권\nC. 초대장\nD. 성적표\n정답：",
    "물을 이루는 두 원소는?\nA. 탄소와 질소\nB. 철과 구리\nC. 금과 은\nD. 수소와 산소\n정답：",
    "겨울에 입는 겉옷은?\nA. 반바지\nB. 외투\nC. 수영복\nD. 샌들\n정답：",
    "한글의 옛 이름은?\nA. 향찰\nB. 이두\nC. 훈민정음\nD. 구결\n정답：",
    "조선의 첫 임금은?\nA. 이성계\nB. 왕건\nC. 온조\nD. 주몽\n정답：",
)
KMMLU = Gold(
    file="kmmlu/data/{config}-test.csv",
    rows=(
        Row(
            kmmlu(" 물건을 사고 받는 증서는? ", 1, "영수증", "여권", "초대장", "성적표"),
            KMMLU_PROMPTS[0], KMMLU_PROMPTS[0], "ABCD", "A", "A", "A", "A",
            {"field": "humanities and social science", "subject": "Accounting"}, "Accounting",
        ),
        Row(
            kmmlu("물을 이루는 두 원소는?", 4, "탄소와 질소", "철과 구리", "금과 은", "수소와 산소"),
            KMMLU_PROMPTS[1], KMMLU_PROMPTS[1], "ABCD", "D", "C", " D. 수소와 산소", "D",
            {"field": "STEM", "subject": "Chemistry"}, "Chemistry",
        ),
        Row(
            kmmlu("겨울에 입는 겉옷은?", 2, "반바지", "외투", "수영복", "샌들"),
            KMMLU_PROMPTS[2], KMMLU_PROMPTS[2], "ABCD", "B", "B", "외투", "B",
            {"field": "other", "subject": "Fashion"}, "Fashion",
        ),
        Row(
            kmmlu("한글의 옛 이름은?", 3, "향찰", "이두", "훈민정음", "구결"),
            KMMLU_PROMPTS[3], KMMLU_PROMPTS[3], "ABCD", "C", "D", "2번", "B",
            {"field": "humanities and social science", "subject": "Korean-History"}, "Korean-History",
        ),
        Row(
            kmmlu("조선의 첫 임금은?", 1, "이성계", "왕건", "온조", "주몽"),
            KMMLU_PROMPTS[4], KMMLU_PROMPTS[4], "ABCD", "A", "A", "E", None,
            {"field": "humanities and social science", "subject": "Korean-History"}, "Korean-History",
        ),
    ),
    primary=(100 * 3 / 5, 100 * 3 / 5),
    chance=25.0,
    majority=100 * 2 / 5,  # A
    parts={
        "field=STEM": (0, 100, 1),
        "field=humanities and social science": (100 * 2 / 3, 100 * 1 / 3, 3),
        "field=other": (100, 100, 1),
        "subject=Accounting": (100, 100, 1),
        "subject=Chemistry": (0, 100, 1),
        "subject=Fashion": (100, 100, 1),
        "subject=Korean-History": (50, 0, 2),
    },
    default="multiple_choice",
    configs=(
        "Accounting", "Agricultural-Sciences", "Aviation-Engineering-and-Maintenance", "Biology",
        "Chemical-Engineering", "Chemistry", "Civil-Engineering", "Computer-Science", "Construction", "Criminal-Law",
        "Ecology", "Economics", "Education", "Electrical-Engineering", "Electronics-Engineering", "Energy-Management",
        "Environmental-Science", "Fashion", "Food-Processing", "Gas-Technology-and-Engineering", "Geomatics", "Health",
        "Industrial-Engineer", "Information-Technology", "Interior-Architecture-and-Design", "Korean-History", "Law",
        "Machine-Design-and-Manufacturing", "Management", "Maritime-Engineering", "Marketing", "Materials-Engineering",
        "Math", "Mechanical-Engineering", "Nondestructive-Testing", "Patent", "Political-Science-and-Sociology",
        "Psychology", "Public-Safety", "Railway-and-Automotive-Engineering", "Real-Estate", "Refrigerating-Machinery",
        "Social-Welfare", "Taxation", "Telecommunications-and-Wireless-Technology",
    ),
    length=256,
    until=("Q:", "\n\n", "</s>", "."),
)  # fmt: skip
THINK = (
    '다음 문제에 대해 정답을 고르세요. 당신의 최종 정답은 {} 중 하나이고, "정답:" 뒤에 와야 합니다. '
    "정답을 고르기 전에 차근차근 생각하고 추론하세요.\n\n"
)


def redux(question: str, solution: str, category: str, *options: str) -> dict[str, Any]:
    """Return a row in the shape of KMMLU-Redux, which counts the answer from 1, as a text."""
    return {"question": question, "options": list(options), "solution": solution, "category": category}


REDUX = Gold(
    file="kmmlu_redux/test.parquet",
    rows=(
        Row(
            redux("못을 박는 도구는?", "4", "건축", "대패", "줄자", "붓", "망치"),
            "못을 박는 도구는?\nA. 대패\nB. 줄자\nC. 붓\nD. 망치\n정답：",
            THINK.format("ABCD") + "못을 박는 도구는?\n\nA) 대패\nB) 줄자\nC) 붓\nD) 망치",
            "ABCD", "D", "D", "붓은 칠하는 데 쓴다.\n정답: D", "D", {"category": "건축"},
        ),
        Row(
            redux("벽돌을 붙이는 것은?\n", "1", "건축", "모르타르", "종이", "유리", "천"),
            "벽돌을 붙이는 것은?\nA. 모르타르\nB. 종이\nC. 유리\nD. 천\n정답：",
            THINK.format("ABCD") + "벽돌을 붙이는 것은?\n\nA) 모르타르\nB) 종이\nC) 유리\nD) 천",
            "ABCD", "A", "B", "정답: B) 종이", "B", {"category": "건축"},
        ),
        Row(
            redux("전류의 세기를 재는 것은?", "2", "전기", "저울", "전류계", "온도계", "자"),
            "전류의 세기를 재는 것은?\nA. 저울\nB. 전류계\nC. 온도계\nD. 자\n정답：",
            THINK.format("ABCD") + "전류의 세기를 재는 것은?\n\nA) 저울\nB) 전류계\nC) 온도계\nD) 자",
            "ABCD", "B", "B", "정답: 전류계", "B", {"category": "전기"},
        ),
        Row(  # five choices
            redux("전기가 가장 잘 통하는 것은?", "4", "전기", "나무", "고무", "유리", "구리", "종이"),
            "전기가 가장 잘 통하는 것은?\nA. 나무\nB. 고무\nC. 유리\nD. 구리\nE. 종이\n정답：",
            THINK.format("ABCDE") + "전기가 가장 잘 통하는 것은?\n\nA) 나무\nB) 고무\nC) 유리\nD) 구리\nE) 종이",
            "ABCDE", "D", "E", "차근차근 생각해 보면", None, {"category": "전기"},
        ),
    ),
    primary=(100 * 2 / 4, 100 * 2 / 4),
    chance=(3 * 25 + 20) / 4,
    majority=100 * 2 / 4,  # D
    parts={"category=건축": (50, 50, 2), "category=전기": (50, 50, 2)},
    length=2048,
)  # fmt: skip


def pro(question: str, solution: str, licence: str, subject: str, *options: str) -> dict[str, Any]:
    """Return a row in the shape of KMMLU-Pro, where an option may have its number before it."""
    about = {"score": 1.0, "license_name": licence, "subject": subject, "year": 2026, "round": 1, "session": 1}
    return {"question": question, "options": list(options), "solution": solution, **about}


PRO = Gold(
    file="kmmlu_pro/test.parquet",
    rows=(
        Row(
            pro(
                "빌린 것을 돌려줄 의무는?", "5", "법무사", "민법",
                "1) 소유", "2) 상속", "3) 혼인", "4) 임명", "5) 반환",
            ),
            "빌린 것을 돌려줄 의무는?\nA. 소유\nB. 상속\nC. 혼인\nD. 임명\nE. 반환\n정답：",
            THINK.format("ABCDE") + "빌린 것을 돌려줄 의무는?\n\nA) 소유\nB) 상속\nC) 혼인\nD) 임명\nE) 반환",
            "ABCDE", "E", "E", "빌린 것은 돌려준다.\n\n정답: E", "E", {"license_name": "법무사", "subject": "민법"},
        ),
        Row(  # numbers that are not those of the options are part of them
            pro("가장 큰 수는?", "3", "법무사", "상법", "2) 하나", "3) 둘", "5) 다섯", "4) 셋"),
            "가장 큰 수는?\nA. 2) 하나\nB. 3) 둘\nC. 5) 다섯\nD. 4) 셋\n정답：",
            THINK.format("ABCD") + "가장 큰 수는?\n\nA) 2) 하나\nB) 3) 둘\nC) 5) 다섯\nD) 4) 셋",
            "ABCD", "C", "C", "정답: D", "D", {"license_name": "법무사", "subject": "상법"},
        ),
        Row(
            pro(
                "번 돈에서 쓴 돈을 뺀 것은?", "2", "세무사", "회계학",
                "1) 빚", "2) 이익", "3) 세율", "4) 원가", "5) 이자",
            ),
            "번 돈에서 쓴 돈을 뺀 것은?\nA. 빚\nB. 이익\nC. 세율\nD. 원가\nE. 이자\n정답：",
            THINK.format("ABCDE") + "번 돈에서 쓴 돈을 뺀 것은?\n\nA) 빚\nB) 이익\nC) 세율\nD) 원가\nE) 이자",
            "ABCDE", "B", "A", "정답: F", None, {"license_name": "세무사", "subject": "회계학"},
        ),
        Row(
            pro("세금을 걷는 곳은?", "5", "세무사", "세법", "1) 극장", "2) 시장", "3) 학교", "4) 병원", "5) 세무서"),
            "세금을 걷는 곳은?\nA. 극장\nB. 시장\nC. 학교\nD. 병원\nE. 세무서\n정답：",
            THINK.format("ABCDE") + "세금을 걷는 곳은?\n\nA) 극장\nB) 시장\nC) 학교\nD) 병원\nE) 세무서",
            "ABCDE", "E", "E", "정답: 5번", "E", {"license_name": "세무사", "subject": "세법"},
        ),
    ),
    primary=(100 * 3 / 4, 100 * 2 / 4),
    chance=(3 * 20 + 25) / 4,
    majority=100 * 2 / 4,  # E, which the second row does not have
    parts={
        "license_name=법무사": (100, 50, 2),
        "license_name=세무사": (50, 50, 2),
        "subject=민법": (100, 100, 1),
        "subject=상법": (100, 0, 1),
        "subject=세법": (100, 100, 1),
        "subject=회계학": (0, 0, 1),
    },
    length=2048,
)  # fmt: skip
KOBALT_QUESTIONS = (
    "지문:\n형은 동생보다 크다.\n\n문제: 작은 사람은 누구인가?\n\n"
    "A: 형\nB: 아버지\nC: 어머니\nD: 누나\nE: 이모\nF: 고모\nG: 삼촌\nH: 할머니\nI: 할아버지\nJ: 동생",
    "지문:\n밥이 다 됐다.\n\n문제: 준비된 것은 무엇인가?\n\n"
    "A: 밥\nB: 국\nC: 떡\nD: 빵\nE: 죽\nF: 차\nG: 면\nH: 탕\nI: 전\nJ: 찜",
    "지문:\n문 좀 닫아 줄래?\n\n문제: 말하는 이가 하는 일은 무엇인가?\n\n"
    "A: 칭찬\nB: 사과\nC: 약속\nD: 감탄\nE: 거절\nF: 축하\nG: 부탁\nH: 위로\nI: 경고\nJ: 자랑",
    "지문:\n해돋이, 굳이\n\n문제: 두 낱말에서 일어나는 소리의 바뀜은 무엇인가?\n\n"
    "A: 비음화\nB: 유음화\nC: 격음화\nD: 경음화\nE: 탈락\nF: 첨가\nG: 축약\nH: 구개음화\nI: 조화\nJ: 도치",
)


def kobalt(question: str, answer: str, domain: str, phenomenon: str, level: int) -> dict[str, Any]:
    """Return a row in the shape of KoBALT-700."""
    about = {"ID": "own", "Class": domain, "Subclass": phenomenon}
    return {**about, "Question": question, "Answer": answer, "Level": level, "Sampling_YN": 0}


def kobalt_think(question: str) -> str:
    """Return the prompt of KoBALT's evaluation protocol."""
    return (
        "다음 문제에 대해서 충분히 생각하고 추론하여, 10개의 보기(A, B, C, D, E, F, G, H, I, J) 중 정답을 고르세요.\n\n"
        f"{question}\n\n"
        '답변은 반드시 다음 형식을 엄격히 지켜야 합니다: "정답은 [정답 보기]입니다."로 끝나야 하고, '
        "[정답 보기]는 A, B, C, D, E, F, G, H, I, J 중 하나여야 합니다.\n"
        "정답: 문제를 풀기 위해, 한 번 천천히 생각해봅시다."
    )


KOBALT = Gold(
    file="kobalt/data/train.jsonl",
    rows=(
        Row(
            kobalt(KOBALT_QUESTIONS[0], "J", "Semantics", "Comparison", 1),
            f"{KOBALT_QUESTIONS[0]}\n\n정답:", kobalt_think(KOBALT_QUESTIONS[0]),
            "ABCDEFGHIJ", "J", "J", "형이 더 크다. 정답은 [J]입니다.", "J",
            {"domain": "Semantics", "phenomenon": "Comparison", "level": "1"},
        ),
        Row(
            kobalt(KOBALT_QUESTIONS[1], "A", "Semantics", "Reference", 1),
            f"{KOBALT_QUESTIONS[1]}\n\n정답:", kobalt_think(KOBALT_QUESTIONS[1]),
            "ABCDEFGHIJ", "A", "J", "정답은 A입니다.", "A",
            {"domain": "Semantics", "phenomenon": "Reference", "level": "1"},
        ),
        Row(
            kobalt(KOBALT_QUESTIONS[2], "G", "Pragmatics", "Speech Act", 2),
            f"{KOBALT_QUESTIONS[2]}\n\n정답:", kobalt_think(KOBALT_QUESTIONS[2]),
            "ABCDEFGHIJ", "G", "F", "정답은 [부탁]입니다.", "G",
            {"domain": "Pragmatics", "phenomenon": "Speech Act", "level": "2"},
        ),
        Row(
            kobalt(KOBALT_QUESTIONS[3], "H", "Phonetics/Phonology", "Palatalization", 3),
            f"{KOBALT_QUESTIONS[3]}\n\n정답:", kobalt_think(KOBALT_QUESTIONS[3]),
            "ABCDEFGHIJ", "H", "H", "정답은 G 또는 H입니다.", None,
            {"domain": "Phonetics/Phonology", "phenomenon": "Palatalization", "level": "3"},
        ),
    ),
    primary=(100 * 2 / 4, 100 * 3 / 4),
    chance=100 / 10,
    majority=100 * 1 / 4,
    parts={
        "domain=Phonetics/Phonology": (100, 0, 1),
        "domain=Pragmatics": (0, 100, 1),
        "domain=Semantics": (50, 100, 2),
        "level=1": (50, 100, 2),
        "level=2": (0, 100, 1),
        "level=3": (100, 0, 1),
        "phenomenon=Comparison": (100, 100, 1),
        "phenomenon=Palatalization": (100, 0, 1),
        "phenomenon=Reference": (0, 100, 1),
        "phenomenon=Speech Act": (0, 100, 1),
    },
    length=2048,
)  # fmt: skip
HAERAE_BODIES = (
    "다음 질문에 답하시오.\n### 질문: 설날에 먹는 음식은?\n### 선택지:\n"
    "(A) 송편\n(B) 팥죽\n(C) 미역국\n(D) 떡국\n(E) 냉면\n### ",
    "다음 질문에 답하시오.\n### 질문: 거북선을 이끈 사람은?\n### 선택지:\n"
    "(A) 이순신\n(B) 강감찬\n(C) 을지문덕\n(D) 계백\n(E) 김유신\n### ",
    "우리말로 바꾼 것을 고르시오.\n### 질문: 리더\n### 선택지:\n"
    "(A) 손님\n(B) 이웃\n(C) 길손\n(D) 지도자\n(E) 일꾼\n### ",
    "뜻에 맞는 낱말을 고르시오.\n### 질문: 첫눈\n### 선택지:\n"
    "(A) 마지막 비\n(B) 센 바람\n(C) 짙은 안개\n(D) 긴 장마\n(E) 처음 내린 눈\n### ",
    "다듬은 용어를 고르시오.\n### 질문: 스크린 도어\n### 선택지:\n"
    "(A) 앞마당\n(B) 안전문\n(C) 쪽지\n(D) 울타리\n(E) 다락\n### ",
)


def haerae(body: str, answer: str) -> dict[str, Any]:
    """Return a row in the shape of HAE-RAE Bench, whose query ends where the answer stands."""
    return {"query": f"{body}정답:", "options": "[]", "answer": answer}


def haerae_think(query: str) -> str:
    """Return the prompt of HAE-RAE's toolkit."""
    return (
        '다음은 객관식 문제입니다. 당신의 추론 과정을 간결하게 요약한 후, "따라서, 정답은: X"라고 결론지으십시오. '
        f"여기서 X는 (A), (B), (C), (D), (E) 중 하나입니다. {query}"
    )


HAERAE = Gold(
    file="haerae/{config}.jsonl",
    rows=tuple(
        Row(
            haerae(body, f"({right})"), f"{body}정답:", haerae_think(f"{body.removesuffix('### ')}:"),
            "ABCDE", right, likely, text, named, {"category": config}, config,
        )
        for body, right, likely, text, named, config in (
            (HAERAE_BODIES[0], "D", "D", "설날이다. 따라서, 정답은: (D)", "D", "general_knowledge"),
            (HAERAE_BODIES[1], "A", "A", "따라서, 정답은: B", "B", "history"),
            (HAERAE_BODIES[2], "D", "E", "지도자", "D", "loan_words"),
            (HAERAE_BODIES[3], "E", "E", "", None, "rare_words"),
            (HAERAE_BODIES[4], "B", "B", "따라서, 정답은: 2번", "B", "standard_nomenclature"),
        )
    ),
    primary=(100 * 4 / 5, 100 * 3 / 5),
    chance=100 / 5,
    majority=100 * 2 / 5,  # D
    parts={
        "category=general_knowledge": (100, 100, 1),
        "category=history": (100, 0, 1),
        "category=loan_words": (0, 100, 1),
        "category=rare_words": (100, 0, 1),
        "category=standard_nomenclature": (100, 100, 1),
    },
    default="multiple_choice",
    choice="({})",
    configs=("general_knowledge", "history", "loan_words", "rare_words", "standard_nomenclature"),
)  # fmt: skip


def medical(exam: str, question: str, answer: int, *choices: str) -> dict[str, Any]:
    """Return a row in the shape of KorMedMCQA, which counts the answer from 1."""
    about = {"subject": exam, "year": 2026, "period": 1, "q_number": 1}
    return {**about, "question": question, **dict(zip("ABCDE", choices, strict=True)), "answer": answer, "cot": ""}


MEDICAL_PROMPTS = (
    "심장이 뛰는 수를 재는 곳은?\nA. 손톱\nB. 머리카락\nC. 손목\nD. 눈썹\nE. 이마\n정답：",
    "넘어진 사람에게 먼저 살필 것은?\nA. 신발\nB. 의식\nC. 지갑\nD. 모자\nE. 가방\n정답：",
    "졸음이 오는 약을 먹은 뒤 피할 것은?\nA. 운전\nB. 낮잠\nC. 독서\nD. 산책\nE. 목욕\n정답：",
    "젖니 다음에 나는 이는?\nA. 틀니\nB. 덧니\nC. 옥니\nD. 뻐드렁니\nE. 간니\n정답：",
)
KORMEDMCQA = Gold(
    file="kormedmcqa/{config}/test.jsonl",
    rows=(
        Row(
            medical("doctor", "심장이 뛰는 수를 재는 곳은?", 3, "손톱", "머리카락", "손목", "눈썹", "이마"),
            MEDICAL_PROMPTS[0], MEDICAL_PROMPTS[0], "ABCDE", "C", "B", "C", "C", {"subject": "doctor"}, "doctor",
        ),
        Row(
            medical("nurse", "넘어진 사람에게 먼저 살필 것은?", 2, "신발", "의식", "지갑", "모자", "가방"),
            MEDICAL_PROMPTS[1], MEDICAL_PROMPTS[1], "ABCDE", "B", "B", "의식", "B", {"subject": "nurse"}, "nurse",
        ),
        Row(
            medical("pharm", " 졸음이 오는 약을 먹은 뒤 피할 것은?", 1, "운전", "낮잠", "독서", "산책", "목욕"),
            MEDICAL_PROMPTS[2], MEDICAL_PROMPTS[2], "ABCDE", "A", "A", "B", "B", {"subject": "pharm"}, "pharm",
        ),
        Row(
            medical("dentist", "젖니 다음에 나는 이는?", 5, "틀니", "덧니", "옥니", "뻐드렁니", "간니"),
            MEDICAL_PROMPTS[3], MEDICAL_PROMPTS[3], "ABCDE", "E", "E", "6번", None, {"subject": "dentist"}, "dentist",
        ),
    ),
    primary=(100 * 3 / 4, 100 * 2 / 4),
    chance=100 / 5,
    majority=100 * 1 / 4,
    parts={
        "subject=dentist": (100, 0, 1),
        "subject=doctor": (0, 100, 1),
        "subject=nurse": (100, 100, 1),
        "subject=pharm": (100, 0, 1),
    },
    configs=("doctor", "nurse", "pharm", "dentist"),
    until=("Q:", "</s>", "<|im_end|>", ".", "\n\n"),
)  # fmt: skip
GOLD = {
    "knowledge:click": CLICK,
    "knowledge:kmmlu": KMMLU,
    "knowledge:kmmlu_redux": REDUX,
    "knowledge:kmmlu_pro": PRO,
    "knowledge:kobalt": KOBALT,
    "knowledge:haerae": HAERAE,
    "knowledge:kormedmcqa": KORMEDMCQA,
}


def check_parts(result: TaskResult, expected: dict[str, tuple[float, int]]) -> None:
    """Compare the parts of the first score, and how many rows each has."""
    first = result.scores[0]
    assert first.part_counts == {name: count for name, (_, count) in expected.items()}
    assert first.parts == pytest.approx({name: share for name, (share, _) in expected.items()})


@pytest.mark.parametrize("name", GOLD)
def test_exams_by_likelihood_are_asked_and_scored_as_worked_out_by_hand(name: str, answer_rows: Ask) -> None:
    """Each prompt, choice and label to the character, and every score of answers of which some are wrong."""
    gold = GOLD[name]
    given = [gold.choice.format(row.likely) for row in gold.rows]
    result = answer_rows(name, gold.files(gold.rows), given, answer="likelihood")
    assert [example.prompt for example in result.examples] == [row.listed for row in gold.rows]
    letters = [tuple(gold.choice.format(letter) for letter in row.letters) for row in gold.rows]
    assert [example.choices for example in result.examples] == letters
    assert [example.target for example in result.examples] == [gold.choice.format(row.right) for row in gold.rows]
    assert [example.target_choice for example in result.examples] == ["ABCDEFGHIJ".index(r.right) for r in gold.rows]
    assert [example.output for example in result.examples] == given
    assert [example.correct for example in result.examples] == [float(row.likely == row.right) for row in gold.rows]
    assert [example.groups for example in result.examples] == [row.groups for row in gold.rows]
    metrics = ["accuracy", "accuracy_norm"] if name == "knowledge:click" else ["accuracy"]
    assert {score.metric: score.value for score in result.scores} == pytest.approx(
        dict.fromkeys(metrics, gold.primary[0])
    )
    assert result.scores[0].metric == "accuracy"
    assert (result.scores[0].chance, result.scores[0].majority) == pytest.approx((gold.chance, gold.majority))
    check_parts(result, {part: (likely, count) for part, (likely, _, count) in gold.parts.items()})


@pytest.mark.parametrize("name", GOLD)
def test_exams_by_a_text_are_asked_and_scored_as_worked_out_by_hand(name: str, answer_rows: Ask) -> None:
    """Each prompt to the character, the choice that each text names, and a text that names none is wrong."""
    gold = GOLD[name]
    result = answer_rows(name, gold.files(gold.rows), [row.text for row in gold.rows], answer="generate")
    assert [example.prompt for example in result.examples] == [row.asked for row in gold.rows]
    assert [example.target for example in result.examples] == [gold.choice.format(row.right) for row in gold.rows]
    assert [example.target_choice for example in result.examples] == ["ABCDEFGHIJ".index(r.right) for r in gold.rows]
    named = [None if row.named is None else "ABCDEFGHIJ".index(row.named) for row in gold.rows]
    assert [example.output_choice for example in result.examples] == named
    assert [example.malformed for example in result.examples] == [row.named is None for row in gold.rows]
    assert any(example.malformed for example in result.examples)
    assert [example.correct for example in result.examples] == [float(row.named == row.right) for row in gold.rows]
    assert [example.groups for example in result.examples] == [row.groups for row in gold.rows]
    (score,) = result.scores
    assert score.metric == "extracted_accuracy"
    assert score.value == pytest.approx(gold.primary[1])
    assert (score.chance, score.majority) == pytest.approx((gold.chance, gold.majority))
    check_parts(result, {part: (text, count) for part, (_, text, count) in gold.parts.items()})


@pytest.mark.parametrize("name", GOLD)
def test_an_exam_is_answered_as_its_authors_report_it(name: str, build_rows: Build) -> None:
    """Without a word on how to answer; a text ends where their own ends."""
    gold = GOLD[name]
    default = build_rows(name, gold.files(gold.rows)).lm_task
    assert gold.default == default.OUTPUT_TYPE
    written = build_rows(name, gold.files(gold.rows), answer="generate").lm_task
    ends = {"until": list(gold.until), "do_sample": False, "max_gen_toks": gold.length}
    assert written.config.generation_kwargs == ends


TRAIN_FILES = {
    "knowledge:kmmlu": "kmmlu/data/{config}-dev.csv",
    "knowledge:kormedmcqa": "kormedmcqa/{config}/fewshot.jsonl",
}
"""Where a data directory has the training rows of exams that have some."""


@pytest.mark.parametrize("name", TRAIN_FILES)
def test_training_teaches_the_right_letter_of_each_row(name: str, teach_rows: Teach) -> None:
    """The response is the letter after a space; a row that is asked in the test is not taught."""
    gold = GOLD[name]
    taught = teach_rows(name, gold.files(gold.rows[:1]) | gold.files(gold.rows, TRAIN_FILES[name]))
    assert taught == [(row.listed, f" {row.right}") for row in gold.rows[1:]]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("knowledge:click", "answer", "다시 버리려고"),
        ("knowledge:kmmlu", "answer", 5),
        ("knowledge:kmmlu", "answer", 0),
        ("knowledge:kmmlu_redux", "solution", "0"),
        ("knowledge:kmmlu_pro", "solution", "6"),
        ("knowledge:kobalt", "Answer", "K"),
        ("knowledge:haerae", "answer", "(F)"),
        ("knowledge:kormedmcqa", "answer", 6),
        ("knowledge:kormedmcqa", "answer", 0),
    ],
)
@pytest.mark.parametrize("answer", ["likelihood", "generate"])
def test_an_answer_outside_the_choices_is_refused(
    name: str, field: str, value: Any, answer: str, answer_rows: Ask
) -> None:
    """It is not taken for another choice: 0 is not the last one."""
    gold = GOLD[name]
    first = gold.rows[0]
    files = gold.files([first, replace(first, fields=first.fields | {field: value})])
    with pytest.raises(BenchError, match=rf"^(Row 1|Line 2) of .*{name}"):
        answer_rows(name, files, ["", ""], answer=answer)


@dataclass(frozen=True)
class Problem:
    """A problem of mathematics, its answer in the row and as a text, and the text that the test gives."""

    question: str
    answer: float
    right: str
    text: str
    read: str
    """Number that a reader finds in that text; empty if there is none."""


def solve(question: str) -> str:
    """Return the prompt of a problem."""
    return (
        "주어진 문제를 풀어보세요.\n문제를 푼 후, 최종 답변을 다음과 같은 형식으로 작성하세요: $\\boxed{N}$.\n\n"
        f"문제: {question}\n답변:"
    )


def choose(question: str) -> str:
    """Return the prompt of a problem with four choices."""
    return (
        "주어진 문제를 풀어보세요.\n문제를 푼 후, 주어진 선택지 (1, 2, 3, 4) 중 최종 선택지를 다음 "
        f"형식으로 작성하세요: $\\boxed{{N}}$.\n\n문제: {question}\n답변:"
    )


PROBLEMS = {
    "math:gsm8k": (
        Problem(
            "연필 12자루를 세 명이 똑같이 나누면 한 명은 몇 자루를 갖나요?", 4.0, "4", "12 ÷ 3 = 4. $\\boxed{4}$", "4"
        ),
        Problem("한 봉지에 25개씩 40봉지면 사탕은 몇 개인가요?", 1000.0, "1000", "답은 1,000개입니다.", "1000"),
        Problem("버스에 9명이 타고 2명이 내렸습니다. 몇 명이 남았나요?", 7.0, "7", "$\\boxed{11}$", "11"),
        Problem("하루에 두 쪽씩 사흘 읽으면 몇 쪽인가요?", 6.0, "6", "잘 모르겠습니다.", ""),
    ),
    "math:ksm": (
        Problem("$7^2-1$을 구하여라.", 48.0, "48", "\\boxed{48}", "48"),
        Problem("1보다 작은 수 가운데 가장 큰 정수를 구하여라.", 0.0, "0", "정답: 0", "0"),
        Problem("$2^{10}$을 3으로 나눈 나머지를 구하여라.", 1.0, "1", "\\boxed{2}", "2"),
        Problem("$2^{20}$을 구하여라.", 1048576.0, "1048576", "\\boxed{}", ""),
    ),
    "math:math": (
        Problem("$\\frac{3}{8}$을 소수로 나타내시오.", 0.375, "0.375", "$\\boxed{\\frac{3}{8}}$", "3/8"),
        Problem("$x+5=2$일 때 $x$를 구하시오.", -3.0, "-3", "$\\boxed{-3}$", "-3"),
        Problem("$\\frac{5}{2}$를 소수로 나타내시오.", 2.5, "2.5", "$\\boxed{0.4}$", "2/5"),
        Problem("$|{-4}|$의 값을 구하시오.", 4.0, "4", "", ""),
    ),
    "math:mmmlu": (
        Problem("3의 제곱은?\n1. 6\n2. 8\n3. 9\n4. 12", 3.0, "3", "$\\boxed{3}$", "3"),
        Problem("10의 절반은?\n1. 5\n2. 10\n3. 15\n4. 20", 1.0, "1", "절반은 5이다. $\\boxed{1}$", "1"),
        Problem("2와 5의 곱은?\n1. 3\n2. 7\n3. 9\n4. 10", 4.0, "4", "$\\boxed{10}$", "10"),
        Problem("가장 작은 소수는?\n1. 1\n2. 2\n3. 3\n4. 5", 2.0, "2", "없음", ""),
    ),
    "math:omni_math": (
        Problem("두 자리 자연수의 개수를 구하시오.", 90.0, "90", "\\boxed{90}", "90"),
        Problem("정육각형의 대각선의 개수를 구하시오.", 9.0, "9", "모두 9개이다.", "9"),
        Problem("100 이하의 제곱수의 개수를 구하시오.", 10.0, "10", "\\boxed{9}", "9"),
        Problem("한 점에서 만나는 두 직선이 이루는 각의 개수를 구하시오.", 4.0, "4", "풀 수 없다.", ""),
    ),
}
MATH_FILES = {
    "math:gsm8k": "hrm8k/GSM8K/test.jsonl",
    "math:ksm": "hrm8k/KSM/test.jsonl",
    "math:math": "hrm8k/MATH/test.jsonl",
    "math:mmmlu": "hrm8k/MMMLU/test.jsonl",
    "math:omni_math": "hrm8k/OMNI_MATH/test.jsonl",
}


def write_problems(name: str) -> dict[str, Any]:
    """Return the file of a task in the shape of HRM8K, with a space behind each problem."""
    rows = [{"question": f"{one.question} ", "answer": one.answer, "original": ""} for one in PROBLEMS[name]]
    return {MATH_FILES[name]: rows}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_asked_and_scored_as_worked_out_by_hand(name: str, answer_rows: Ask) -> None:
    """The first two of four are solved, the third is wrong, and the fourth has no number."""
    problems = PROBLEMS[name]
    ask = choose if name == "math:mmmlu" else solve
    result = answer_rows(name, write_problems(name), [one.text for one in problems])
    assert [example.prompt for example in result.examples] == [ask(one.question) for one in problems]
    assert [example.target for example in result.examples] == [one.right for one in problems]
    assert [example.output_labels for example in result.examples] == [(one.read,) for one in problems]
    assert [example.malformed for example in result.examples] == [False, False, False, True]
    assert [example.correct for example in result.examples] == [1.0, 1.0, 0.0, 0.0]
    (score,) = result.scores
    assert (score.metric, score.value) == ("number_match", 50.0)
    assert score.chance == (100 / 4 if name == "math:mmmlu" else 0.0)
    assert score.majority is None


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_solution_ends_by_itself_or_at_its_limit(name: str, build_rows: Build) -> None:
    """Lines of it end nothing, and nothing is sampled."""
    stops = ["</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"]
    kwargs = build_rows(name, write_problems(name)).lm_task.config.generation_kwargs
    assert kwargs == {"until": stops, "do_sample": False, "max_gen_toks": 2048}


def instruct(prompt: str, *instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a row in the shape of IFEval-Ko."""
    ids, arguments = [name for name, _ in instructions], [given for _, given in instructions]
    return {"key": 1, "prompt": prompt, "instruction_id_list": ids, "kwargs": arguments}


TITLE, NO_COMMA, END = "detectable_format:title", "punctuation:no_comma", "startend:end_checker"
INSTRUCTIONS: tuple[tuple[dict[str, Any], str, tuple[str, ...]], ...] = (
    (
        instruct("제목을 <<>>로 감싼 시를 쉼표 없이 써 주세요.", (TITLE, {}), (NO_COMMA, {})),
        "<<바다>>\n물결이 온다",
        ("strict", "strict"),
    ),
    (
        instruct('쉼표 없이 인사하고 "끝."으로 마쳐 주세요.', (NO_COMMA, {}), (END, {"end_phrase": "끝."})),
        "네, 알겠습니다.\n안녕하세요. 끝.",  # without its first line, there is no comma
        ("loose", "strict"),
    ),
    (
        instruct("제목을 <<>>로 감싼 글을 쉼표 없이 써 주세요.", (TITLE, {}), (NO_COMMA, {})),
        "<<산>>\n돌, 나무, 새\n물, 바람, 해\n달, 별, 꽃",
        ("strict", ""),
    ),
    (instruct("쉼표 없이 써 주세요.", (NO_COMMA, {})), "", ("",)),
)
"""Rows, the texts that are given, and how each instruction is followed: strictly, loosely, or not."""


def test_instructions_are_asked_and_scored_as_worked_out_by_hand(answer_rows: Ask) -> None:
    """An empty text follows none; what is followed strictly is followed loosely too."""
    rows = [row for row, _, _ in INSTRUCTIONS]
    result = answer_rows(
        "instructions:ifeval_ko", {"ifeval_ko/test.jsonl": rows}, [text for _, text, _ in INSTRUCTIONS]
    )
    assert [example.prompt for example in result.examples] == [
        "제목을 <<>>로 감싼 시를 쉼표 없이 써 주세요.",
        '쉼표 없이 인사하고 "끝."으로 마쳐 주세요.',
        "제목을 <<>>로 감싼 글을 쉼표 없이 써 주세요.",
        "쉼표 없이 써 주세요.",
    ]
    assert [example.target for example in result.examples] == [""] * 4
    assert [example.target_labels for example in result.examples] == [
        (TITLE, NO_COMMA),
        (NO_COMMA, END),
        (TITLE, NO_COMMA),
        (NO_COMMA,),
    ]
    assert [example.output_labels for example in result.examples] == [labels for _, _, labels in INSTRUCTIONS]
    assert [example.correct for example in result.examples] == [1.0, 0.0, 0.0, 0.0]
    scores = {score.metric: score for score in result.scores}
    assert {metric: score.value for metric, score in scores.items()} == pytest.approx(
        {
            "prompt_strict": 100 * 1 / 4,
            "prompt_loose": 100 * 2 / 4,
            "instruction_strict": 100 * 4 / 7,
            "instruction_loose": 100 * 5 / 7,
        }
    )
    assert result.scores[0].metric == "prompt_strict"
    assert (result.scores[0].chance, result.scores[0].majority) == (0.0, None)
    assert scores["instruction_strict"].parts == pytest.approx({TITLE: 100, NO_COMMA: 100 * 1 / 4, END: 100})
    assert scores["instruction_loose"].parts == pytest.approx({TITLE: 100, NO_COMMA: 100 * 2 / 4, END: 100})


def test_an_answer_to_an_instruction_ends_by_itself(build_rows: Build) -> None:
    """Paragraphs and lines are what is asked for: nothing in the text ends it."""
    built = build_rows("instructions:ifeval_ko", {"ifeval_ko/test.jsonl": [row for row, _, _ in INSTRUCTIONS]})
    assert built.lm_task.config.generation_kwargs == {"until": [], "do_sample": False, "max_gen_toks": 1280}


WRITTEN = {*PROBLEMS, "instructions:ifeval_ko"}
"""Tasks of this file whose answer is always written."""
