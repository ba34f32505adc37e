"""Tasks that are asked as a choice: their labels, prompts and scores, worked out by hand.

Every row, prompt, label and score stands here as it has to be. Nothing is computed from the task that is tested: one
whose labels are swapped is wrong here, though it agrees with itself.
"""

from __future__ import annotations

import json
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
Teach = Callable[[str, dict[str, Any]], list[tuple[str, str]]]
Build = Callable[..., BuiltTask]


@dataclass(frozen=True)
class Row:
    """A row, the prompt that asks it, its right answer, and the answer that is given in the test."""

    fields: dict[str, Any]
    prompt: str
    right: str
    given: str


@dataclass(frozen=True)
class Gold:
    """A task on rows written for it."""

    file: str
    """Where a data directory has the test rows."""
    choices: tuple[str, ...]
    """What there is to choose from, in order; empty if each row brings its own."""
    rows: tuple[Row, ...]
    scores: dict[str, float]
    """Every metric of the given answers, worked out by hand."""
    majority: float
    """The first of them if every answer were the most frequent label."""


TWO_OF_FIVE_WRONG = {
    "accuracy": 100 * 3 / 5,
    "f1": 100 * 2 * 1 / (2 * 1 + 0 + 2),
    "macro_f1": 100 * (2 / 4 + 4 / 6) / 2,
    "macro_precision": 100 * (1 / 1 + 2 / 4) / 2,
    "macro_recall": 100 * (1 / 3 + 2 / 2) / 2,
}
"""Three rows of class 1 and two of class 0: of class 1 one is found and two are missed, and class 0 is found."""
ALWAYS_ONE = {"accuracy": 100 * 3 / 5, "macro_f1": 100 * (6 / 8 + 0) / 2}
"""The same rows, always answered with class 1."""


def two_of_five(*names: str) -> dict[str, float]:
    """Return the metrics of `TWO_OF_FIVE_WRONG` that a task has."""
    return {name: TWO_OF_FIVE_WRONG[name] for name in names}


NSMC = Gold(
    file="nsmc/test.jsonl",
    choices=("부정", "긍정"),
    rows=(
        Row(
            {"id": "1", "document": "배우들 연기가 정말 훌륭했다", "label": 1},
            "리뷰: 배우들 연기가 정말 훌륭했다 긍부정:",
            "긍정",
            "긍정",
        ),
        Row(
            {"id": "2", "document": "졸려서 중간에 나왔다", "label": 0},
            "리뷰: 졸려서 중간에 나왔다 긍부정:",
            "부정",
            "부정",
        ),
        Row(
            {"id": "3", "document": "두 번 봐도 재미있네요", "label": 1},
            "리뷰: 두 번 봐도 재미있네요 긍부정:",
            "긍정",
            "부정",
        ),
        Row(
            {"id": "4", "document": "음악이 오래 마음에 남는다", "label": 1},
            "리뷰: 음악이 오래 마음에 남는다 긍부정:",
            "긍정",
            "부정",
        ),
        Row(
            {"id": "5", "document": "표값이 아까운 영화", "label": 0},
            "리뷰: 표값이 아까운 영화 긍부정:",
            "부정",
            "부정",
        ),
    ),
    scores=two_of_five("accuracy", "macro_f1", "macro_precision", "macro_recall"),
    majority=ALWAYS_ONE["accuracy"],
)


def entails(premise: str, hypothesis: str, label: str) -> dict[str, str]:
    """Return a row in the shape of KorNLI's files."""
    return {"sentence1": premise, "sentence2": hypothesis, "gold_label": label}


KORNLI = Gold(
    file="kornli/xnli_test_ko.jsonl",
    choices=("함의", "중립", "모순"),
    rows=(
        Row(
            entails("그는 매일 아침 강가를 달린다.", "그는 아침마다 운동을 한다.", "entailment"),
            "전제: 그는 매일 아침 강가를 달린다. 가설: 그는 아침마다 운동을 한다. 관계:",
            "함의",
            "함의",
        ),
        Row(
            entails("가게 문이 닫혀 있었다.", "주인은 휴가를 떠났다.", "neutral"),
            "전제: 가게 문이 닫혀 있었다. 가설: 주인은 휴가를 떠났다. 관계:",
            "중립",
            "함의",
        ),
        Row(
            entails("방에는 아무도 없었다.", "방에서 두 사람이 이야기했다.", "contradiction"),
            "전제: 방에는 아무도 없었다. 가설: 방에서 두 사람이 이야기했다. 관계:",
            "모순",
            "모순",
        ),
        Row(
            entails("동생은 사과와 배를 샀다.", "동생은 과일을 샀다.", "entailment"),
            "전제: 동생은 사과와 배를 샀다. 가설: 동생은 과일을 샀다. 관계:",
            "함의",
            "함의",
        ),
        Row(
            entails("회의는 세 시에 시작했다.", "회의는 열리지 않았다.", "contradiction"),
            "전제: 회의는 세 시에 시작했다. 가설: 회의는 열리지 않았다. 관계:",
            "모순",
            "모순",
        ),
    ),
    scores={
        "accuracy": 100 * 4 / 5,
        "macro_f1": 100 * (4 / 5 + 0 + 1) / 3,
        "macro_precision": 100 * (2 / 3 + 0 + 1) / 3,
        "macro_recall": 100 * (1 + 0 + 1) / 3,
    },
    majority=100 * 2 / 5,
)


def similar(first: str, second: str, score: float) -> dict[str, Any]:
    """Return a row in the shape of KorSTS's files."""
    about = {"genre": "main-news", "filename": "own", "year": "2026", "id": "1"}
    return {**about, "score": score, "sentence1": first, "sentence2": second}


KORSTS = Gold(
    file="korsts/test.jsonl",
    choices=("0", "1", "2", "3", "4", "5"),
    rows=(
        Row(
            similar("개가 잔디밭을 뛰어다닌다.", "물가가 크게 올랐다.", 0.0),
            "문장1: 개가 잔디밭을 뛰어다닌다. 문장2: 물가가 크게 올랐다. 두 문장의 유사도(0~5):",
            "0",
            "0",
        ),
        Row(
            similar("한 여자가 춤을 춘다.", "한 남자가 노래한다.", 1.2),
            "문장1: 한 여자가 춤을 춘다. 문장2: 한 남자가 노래한다. 두 문장의 유사도(0~5):",
            "1",
            "1",
        ),
        Row(
            similar("아이가 공을 찬다.", "아이가 공을 던진다.", 2.5),
            "문장1: 아이가 공을 찬다. 문장2: 아이가 공을 던진다. 두 문장의 유사도(0~5):",
            "3",
            "3",
        ),
        Row(
            similar("그가 문을 열었다.", "그 사람이 문을 열고 들어왔다.", 3.8),
            "문장1: 그가 문을 열었다. 문장2: 그 사람이 문을 열고 들어왔다. 두 문장의 유사도(0~5):",
            "4",
            "2",
        ),
        Row(
            similar("비가 많이 온다.", "많은 비가 내린다.", 5.0),
            "문장1: 비가 많이 온다. 문장2: 많은 비가 내린다. 두 문장의 유사도(0~5):",
            "5",
            "5",
        ),
    ),
    scores={
        # ranks 1 2 3 4 5 against 1 2 4 3 5: squared differences 0 0 1 1 0
        "spearman": 100 * (1 - 6 * 2 / (5 * 24)),
        # around the means 2.5 and 2.2
        "pearson": 100 * 13.8 / math.sqrt(15.88 * 14.8),
    },
    majority=0.0,  # a constant has no correlation
)
PAWSX = Gold(
    file="pawsx_ko/test.jsonl",
    choices=("아니오", "예"),
    rows=(
        Row(
            {"id": 1, "sentence1": "강은 시의 북쪽을 흐른다.", "sentence2": "시의 북쪽에는 강이 흐른다.", "label": 1},
            "문장1: 강은 시의 북쪽을 흐른다. 문장2: 시의 북쪽에는 강이 흐른다. 두 문장은 같은 뜻인가?",
            "예",
            "예",
        ),
        Row(
            {
                "id": 2,
                "sentence1": "그는 파리에서 런던으로 갔다.",
                "sentence2": "그는 런던에서 파리로 갔다.",
                "label": 0,
            },
            "문장1: 그는 파리에서 런던으로 갔다. 문장2: 그는 런던에서 파리로 갔다. 두 문장은 같은 뜻인가?",
            "아니오",
            "아니오",
        ),
        Row(
            {"id": 3, "sentence1": "책은 1990년에 나왔다.", "sentence2": "1990년에 그 책이 나왔다.", "label": 1},
            "문장1: 책은 1990년에 나왔다. 문장2: 1990년에 그 책이 나왔다. 두 문장은 같은 뜻인가?",
            "예",
            "아니오",
        ),
        Row(
            {"id": 4, "sentence1": "누나가 동생을 불렀다.", "sentence2": "동생을 누나가 불렀다.", "label": 1},
            "문장1: 누나가 동생을 불렀다. 문장2: 동생을 누나가 불렀다. 두 문장은 같은 뜻인가?",
            "예",
            "아니오",
        ),
        Row(
            {"id": 5, "sentence1": "팀 A가 팀 B를 이겼다.", "sentence2": "팀 B가 팀 A를 이겼다.", "label": 0},
            "문장1: 팀 A가 팀 B를 이겼다. 문장2: 팀 B가 팀 A를 이겼다. 두 문장은 같은 뜻인가?",
            "아니오",
            "아니오",
        ),
    ),
    scores=two_of_five("accuracy", "f1", "macro_precision", "macro_recall"),
    majority=ALWAYS_ONE["accuracy"],
)
QUESTION_PAIR = Gold(
    file="question_pair/test.jsonl",
    choices=("아니오", "예"),
    rows=(  # upstream's is_duplicate is 0 for the same question, and 1 for another
        Row(
            {"question1": "오늘 뭐 먹지?", "question2": "오늘은 뭘 먹을까?", "is_duplicate": 0},
            "질문1: 오늘 뭐 먹지? 질문2: 오늘은 뭘 먹을까? 두 질문은 같은 것을 묻는가?",
            "예",
            "예",
        ),
        Row(
            {"question1": "버스가 언제 와?", "question2": "은행은 어디 있어?", "is_duplicate": 1},
            "질문1: 버스가 언제 와? 질문2: 은행은 어디 있어? 두 질문은 같은 것을 묻는가?",
            "아니오",
            "아니오",
        ),
        Row(
            {"question1": "몇 시야?", "question2": "지금 몇 시인가요?", "is_duplicate": 0},
            "질문1: 몇 시야? 질문2: 지금 몇 시인가요? 두 질문은 같은 것을 묻는가?",
            "예",
            "아니오",
        ),
        Row(
            {"question1": "이름이 뭐니?", "question2": "이름을 알려 줄래?", "is_duplicate": 0},
            "질문1: 이름이 뭐니? 질문2: 이름을 알려 줄래? 두 질문은 같은 것을 묻는가?",
            "예",
            "아니오",
        ),
        Row(
            {"question1": "방학은 언제니?", "question2": "숙제는 다 했니?", "is_duplicate": 1},
            "질문1: 방학은 언제니? 질문2: 숙제는 다 했니? 두 질문은 같은 것을 묻는가?",
            "아니오",
            "아니오",
        ),
    ),
    scores=two_of_five("accuracy", "f1", "macro_precision", "macro_recall"),
    majority=ALWAYS_ONE["accuracy"],
)


def headline(title: str, topic: str) -> dict[str, str]:
    """Return a row in the shape of KLUE-YNAT's files."""
    return {"guid": title, "title": title, "predefined_news_category": topic, "label": topic}


YNAT = Gold(
    file="klue/ynat/validation.jsonl",
    choices=("IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치"),
    rows=(
        Row(headline("새 반도체 공정 공개", "IT과학"), "제목: 새 반도체 공정 공개 주제:", "IT과학", "IT과학"),
        Row(headline("환율 이틀째 하락", "경제"), "제목: 환율 이틀째 하락 주제:", "경제", "경제"),
        Row(headline("학교 앞 도로 공사 시작", "사회"), "제목: 학교 앞 도로 공사 시작 주제:", "사회", "사회"),
        Row(headline("봄꽃 축제 이번 주말", "생활문화"), "제목: 봄꽃 축제 이번 주말 주제:", "생활문화", "생활문화"),
        Row(headline("두 나라 국경 다시 열어", "세계"), "제목: 두 나라 국경 다시 열어 주제:", "세계", "정치"),
        Row(headline("신인 투수 첫 완봉승", "스포츠"), "제목: 신인 투수 첫 완봉승 주제:", "스포츠", "스포츠"),
        Row(headline("여야 예산안 합의", "정치"), "제목: 여야 예산안 합의 주제:", "정치", "정치"),
        Row(headline("국회 본회의 열려", "정치"), "제목: 국회 본회의 열려 주제:", "정치", "정치"),
    ),
    scores={"macro_f1": 100 * (5 * 1 + 0 + 4 / 5) / 7, "accuracy": 100 * 7 / 8},
    majority=100 * (4 / 10) / 7,
)


def infers(premise: str, hypothesis: str, label: str) -> dict[str, str]:
    """Return a row in the shape of KLUE-NLI's files."""
    return {"guid": "1", "source": "own", "premise": premise, "hypothesis": hypothesis, "gold_label": label}


def ask_klue_nli(premise: str, hypothesis: str) -> str:
    """Return the prompt of KLUE-NLI."""
    return f"전제: {premise}\n가설: {hypothesis}\n전제에 비추어 가설은 함의, 중립, 모순 중 무엇인가요?\n답:"


KLUE_NLI = Gold(
    file="klue/nli/validation.jsonl",
    choices=("함의", "중립", "모순"),
    rows=(
        Row(
            infers("숙소에서 바다가 보입니다.", "숙소는 바다 가까이에 있습니다.", "entailment"),
            ask_klue_nli("숙소에서 바다가 보입니다.", "숙소는 바다 가까이에 있습니다."),
            "함의",
            "함의",
        ),
        Row(
            infers("수영장은 여름에만 엽니다.", "수영장은 무료입니다.", "neutral"),
            ask_klue_nli("수영장은 여름에만 엽니다.", "수영장은 무료입니다."),
            "중립",
            "중립",
        ),
        Row(
            infers("기차역까지 걸어서 오 분 걸려요.", "기차역은 차로 두 시간 거리예요.", "contradiction"),
            ask_klue_nli("기차역까지 걸어서 오 분 걸려요.", "기차역은 차로 두 시간 거리예요."),
            "모순",
            "모순",
        ),
        Row(
            infers("작가는 소설 세 권을 냈다.", "작가는 책을 낸 적이 있다.", "entailment"),
            ask_klue_nli("작가는 소설 세 권을 냈다.", "작가는 책을 낸 적이 있다."),
            "함의",
            "중립",
        ),
        Row(
            infers("모두가 찬성했다.", "반대한 사람이 있었다.", "contradiction"),
            ask_klue_nli("모두가 찬성했다.", "반대한 사람이 있었다."),
            "모순",
            "함의",
        ),
    ),
    scores={"accuracy": 100 * 3 / 5, "macro_f1": 100 * (2 / 4 + 2 / 3 + 2 / 3) / 3},
    majority=100 * 2 / 5,
)


def grades(first: str, second: str, score: float, label: float) -> dict[str, Any]:
    """Return a row in the shape of KLUE-STS's files."""
    labels = {"label": label, "real-label": score, "binary-label": int(score >= 3)}
    return {"guid": "1", "source": "own", "sentence1": first, "sentence2": second, "labels": labels}


def ask_klue_sts(first: str, second: str) -> str:
    """Return the prompt of KLUE-STS."""
    asked = "두 문장의 의미는 얼마나 비슷한가요? 0(전혀 다름)부터 5(완전히 같음)까지의 숫자로 답하세요."
    return f"문장1: {first}\n문장2: {second}\n{asked}\n점수:"


KLUE_STS = Gold(
    file="klue/sts/validation.jsonl",
    choices=("0", "1", "2", "3", "4", "5"),
    rows=(
        Row(
            grades("불을 꺼 줘.", "내일 날씨 알려 줘.", 0.0, 0.0),
            ask_klue_sts("불을 꺼 줘.", "내일 날씨 알려 줘."),
            "0",
            "0",
        ),
        Row(
            grades("방이 깨끗했다.", "방이 조용했다.", 1.44, 1.4),
            ask_klue_sts("방이 깨끗했다.", "방이 조용했다."),
            "1",
            "1",
        ),
        Row(
            grades("버스로 십 분 걸려요.", "버스를 타면 가까워요.", 2.6, 2.6),
            ask_klue_sts("버스로 십 분 걸려요.", "버스를 타면 가까워요."),
            "3",
            "3",
        ),
        Row(
            grades("메일을 보내지 마.", "메일 보내면 안 돼.", 4.8, 4.8),
            ask_klue_sts("메일을 보내지 마.", "메일 보내면 안 돼."),
            "5",
            "5",
        ),
        Row(grades("문을 닫아라.", "창을 닫아라.", 3.0, 3.0), ask_klue_sts("문을 닫아라.", "창을 닫아라."), "3", "2"),
    ),
    scores={
        # 0, 1.44, 2.6, 4.8, 3 around 2.368 against 0, 1, 3, 5, 2 around 2.2
        "pearson": 100 * 13.192 / math.sqrt(12.83648 * 14.8),
        # similar from 3 on: the gold numbers of rows 4 and 5, the answers of rows 3 and 4
        "f1_at_3": 100 * 2 * 1 / (2 * 1 + 1 + 1),
    },
    majority=0.0,
)


def relates(sentence: str, subject: tuple[str, str], other: tuple[str, str], label: str) -> dict[str, Any]:
    """Return a row in the shape of KLUE-RE's files, whose offsets include the last character."""

    def entity(word: str, kind: str) -> dict[str, Any]:
        start = sentence.index(word)
        return {"word": word, "start_idx": start, "end_idx": start + len(word) - 1, "type": kind}

    return {
        "guid": "1",
        "sentence": sentence,
        "subject_entity": entity(*subject),
        "object_entity": entity(*other),
        "label": label,
    }


RELATIONS = (
    ("no_relation", "관계 없음"),
    ("org:dissolved", "단체의 해산일"),
    ("org:founded", "단체의 설립일"),
    ("org:place_of_headquarters", "단체의 본부 소재지"),
    ("org:alternate_names", "단체의 다른 이름"),
    ("org:member_of", "단체의 상위 단체"),
    ("org:members", "단체의 하위 단체"),
    ("org:political/religious_affiliation", "단체의 정치·종교 성향"),
    ("org:product", "단체의 제품"),
    ("org:founded_by", "단체의 설립자"),
    ("org:top_members/employees", "단체의 임직원"),
    ("org:number_of_employees/members", "단체의 인원수"),
    ("per:date_of_birth", "인물의 출생일"),
    ("per:date_of_death", "인물의 사망일"),
    ("per:place_of_birth", "인물의 출생지"),
    ("per:place_of_death", "인물의 사망지"),
    ("per:place_of_residence", "인물의 거주지"),
    ("per:origin", "인물의 출신 국가"),
    ("per:employee_of", "인물의 소속 단체"),
    ("per:schools_attended", "인물의 출신 학교"),
    ("per:alternate_names", "인물의 다른 이름"),
    ("per:parents", "인물의 부모"),
    ("per:children", "인물의 자녀"),
    ("per:siblings", "인물의 형제자매"),
    ("per:spouse", "인물의 배우자"),
    ("per:other_family", "인물의 그 밖의 가족"),
    ("per:colleagues", "인물의 동료"),
    ("per:product", "인물의 작품"),
    ("per:religion", "인물의 종교"),
    ("per:title", "인물의 직함"),
)
"""KLUE-RE's relations in the official order, each with what it is called in Korean."""
KLUE_RE = Gold(
    file="klue/re/validation.jsonl",
    choices=tuple(text for _name, text in RELATIONS),
    rows=(
        Row(
            relates("김하늘은 한강대에서 일한다.", ("김하늘", "PER"), ("한강대", "ORG"), "per:employee_of"),
            "문장: [주체:김하늘]은 [객체:한강대]에서 일한다.\n주체: 김하늘(인물)\n객체: 한강대(단체)\n"
            "문장에서 객체는 주체의 무엇인가요?\n관계:",
            "인물의 소속 단체",
            "인물의 소속 단체",
        ),
        Row(
            relates("서울에서 만난 이바다는 의사다.", ("이바다", "PER"), ("서울", "LOC"), "no_relation"),
            "문장: [객체:서울]에서 만난 [주체:이바다]는 의사다.\n주체: 이바다(인물)\n객체: 서울(장소)\n"
            "문장에서 객체는 주체의 무엇인가요?\n관계:",
            "관계 없음",
            "인물의 직함",
        ),
        Row(
            relates("푸른은행은 1980년에 세워졌다.", ("푸른은행", "ORG"), ("1980년", "DAT"), "org:founded"),
            "문장: [주체:푸른은행]은 [객체:1980년]에 세워졌다.\n주체: 푸른은행(단체)\n객체: 1980년(날짜)\n"
            "문장에서 객체는 주체의 무엇인가요?\n관계:",
            "단체의 설립일",
            "단체의 설립일",
        ),
        Row(
            relates("박들의 어머니는 박산이다.", ("박들", "PER"), ("박산", "PER"), "per:parents"),
            "문장: [주체:박들]의 어머니는 [객체:박산]이다.\n주체: 박들(인물)\n객체: 박산(인물)\n"
            "문장에서 객체는 주체의 무엇인가요?\n관계:",
            "인물의 부모",
            "인물의 자녀",
        ),
        Row(
            relates("최달은 아들 최별과 산다.", ("최달", "PER"), ("최별", "PER"), "per:children"),
            "문장: [주체:최달]은 아들 [객체:최별]과 산다.\n주체: 최달(인물)\n객체: 최별(인물)\n"
            "문장에서 객체는 주체의 무엇인가요?\n관계:",
            "인물의 자녀",
            "인물의 자녀",
        ),
    ),
    scores={
        # without no_relation: three hits, four relations that are right and five that are given
        "re_micro_f1": 100 * 2 * 3 / (4 + 5),
        # whole areas for two labels; 0.6 for two that are never given; 0.75 for one that is given twice and right once;
        # 0.5 for the 25 that are never right
        "re_auprc": 100 * (2 * 1 + 2 * 0.6 + 0.75 + 25 * 0.5) / 30,
        "accuracy": 100 * 3 / 5,
    },
    majority=100 * 2 * 1 / (4 + 5),
)
BOOLQ = Gold(
    file="kobest/boolq/test.jsonl",
    choices=("아니오", "예"),
    rows=(
        Row(
            {"id": "1", "paragraph": "고래는 폐로 숨을 쉰다.", "question": "고래는 폐가 있는가?", "label": 1},
            "고래는 폐로 숨을 쉰다. 질문: 고래는 폐가 있는가? 답변:",
            "예",
            "예",
        ),
        Row(
            {"id": "2", "paragraph": "펭귄은 날지 못하는 새다.", "question": "펭귄은 날 수 있는가?", "label": 0},
            "펭귄은 날지 못하는 새다. 질문: 펭귄은 날 수 있는가? 답변:",
            "아니오",
            "아니오",
        ),
        Row(
            {"id": "3", "paragraph": "이 다리는 1970년에 놓였다.", "question": "다리는 20세기에 놓였나?", "label": 1},
            "이 다리는 1970년에 놓였다. 질문: 다리는 20세기에 놓였나? 답변:",
            "예",
            "아니오",
        ),
        Row(
            {"id": "4", "paragraph": "박물관은 월요일에 쉰다.", "question": "박물관은 월요일에 닫는가?", "label": 1},
            "박물관은 월요일에 쉰다. 질문: 박물관은 월요일에 닫는가? 답변:",
            "예",
            "아니오",
        ),
        Row(
            {"id": "5", "paragraph": "이 섬에는 나무가 없다.", "question": "섬에 숲이 있는가?", "label": 0},
            "이 섬에는 나무가 없다. 질문: 섬에 숲이 있는가? 답변:",
            "아니오",
            "아니오",
        ),
    ),
    scores=two_of_five("macro_f1", "accuracy"),
    majority=ALWAYS_ONE["macro_f1"],
)


def follows(premise: str, question: str, first: str, second: str, label: int) -> dict[str, Any]:
    """Return a row in the shape of KoBEST-COPA's files."""
    return {
        "id": "1",
        "premise": premise,
        "question": question,
        "alternative_1": first,
        "alternative_2": second,
        "label": label,
    }


COPA = Gold(
    file="kobest/copa/test.jsonl",
    choices=(),
    rows=(
        Row(
            follows("유리컵이 떨어졌다.", "결과", "컵이 커졌다.", "컵이 깨졌다.", 1),
            "유리컵이 떨어졌다. 그래서",
            "컵이 깨졌다.",
            "컵이 깨졌다.",
        ),
        Row(
            follows("길이 젖어 있다.", "원인", "밤새 비가 왔다.", "해가 떴다.", 0),
            "길이 젖어 있다. 왜냐하면",
            "밤새 비가 왔다.",
            "밤새 비가 왔다.",
        ),
        Row(
            follows("아이가 울었다.", "원인", "아이가 웃었다.", "아이가 넘어졌다.", 1),
            "아이가 울었다. 왜냐하면",
            "아이가 넘어졌다.",
            "아이가 웃었다.",
        ),
        Row(
            follows("알람이 울리지 않았다.", "결과", "일찍 일어났다.", "늦잠을 잤다.", 1),
            "알람이 울리지 않았다. 그래서",
            "늦잠을 잤다.",
            "일찍 일어났다.",
        ),
        Row(
            follows("불을 껐다.", "결과", "방이 어두워졌다.", "방이 밝아졌다.", 0),
            "불을 껐다. 그래서",
            "방이 어두워졌다.",
            "방이 어두워졌다.",
        ),
    ),
    scores=two_of_five("macro_f1", "accuracy"),
    majority=ALWAYS_ONE["macro_f1"],
)


def uses(word: str, first: str, second: str, label: int) -> dict[str, Any]:
    """Return a row in the shape of KoBEST-WiC's files."""
    return {"id": "1", "word": word, "context_1": first, "context_2": second, "label": label}


WIC = Gold(
    file="kobest/wic/test.jsonl",
    choices=("아니오", "예"),
    rows=(
        Row(
            uses("배", "강에 [배]가 떠 있다.", "[배]를 타고 섬에 갔다.", 1),
            "문장1: 강에 [배]가 떠 있다. 문장2: [배]를 타고 섬에 갔다. 두 문장에서 배가 같은 뜻으로 쓰였나?",
            "예",
            "예",
        ),
        Row(
            uses("눈", "[눈]이 펑펑 내린다.", "[눈]에 먼지가 들어갔다.", 0),
            "문장1: [눈]이 펑펑 내린다. 문장2: [눈]에 먼지가 들어갔다. 두 문장에서 눈가 같은 뜻으로 쓰였나?",
            "아니오",
            "아니오",
        ),
        Row(
            uses("다리", "[다리]가 아프다.", "[다리]를 다쳤다.", 1),
            "문장1: [다리]가 아프다. 문장2: [다리]를 다쳤다. 두 문장에서 다리가 같은 뜻으로 쓰였나?",
            "예",
            "아니오",
        ),
        Row(
            uses("밤", "어두운 [밤]이 되었다.", "[밤]에는 춥다.", 1),
            "문장1: 어두운 [밤]이 되었다. 문장2: [밤]에는 춥다. 두 문장에서 밤가 같은 뜻으로 쓰였나?",
            "예",
            "아니오",
        ),
        Row(
            uses("말", "[말]을 타고 달렸다.", "[말]을 아꼈다.", 0),
            "문장1: [말]을 타고 달렸다. 문장2: [말]을 아꼈다. 두 문장에서 말가 같은 뜻으로 쓰였나?",
            "아니오",
            "아니오",
        ),
    ),
    scores=two_of_five("macro_f1", "accuracy"),
    majority=ALWAYS_ONE["macro_f1"],
)


def goes_on(context: str, *endings: str, label: int) -> dict[str, Any]:
    """Return a row in the shape of KoBEST-HellaSwag's files."""
    return {"context": context, **{f"ending_{i}": ending for i, ending in enumerate(endings, 1)}, "label": label}


HELLASWAG = Gold(
    file="kobest/hellaswag/test.jsonl",
    choices=(),
    rows=(
        Row(
            goes_on("물을 끓인다.", "면을 넣는다.", "얼음을 얼린다.", "문을 닫는다.", "잠을 잔다.", label=0),
            "문장: 물을 끓인다.",
            "면을 넣는다.",
            "면을 넣는다.",
        ),
        Row(
            goes_on("우산을 편다.", "밥을 짓는다.", "빗속을 걷는다.", "불을 켠다.", "옷을 판다.", label=1),
            "문장: 우산을 편다.",
            "빗속을 걷는다.",
            "빗속을 걷는다.",
        ),
        Row(
            goes_on("책을 펼친다.", "공을 찬다.", "배를 탄다.", "첫 줄을 읽는다.", "나무를 심는다.", label=2),
            "문장: 책을 펼친다.",
            "첫 줄을 읽는다.",
            "첫 줄을 읽는다.",
        ),
        Row(
            goes_on("씨앗을 심는다.", "차를 닦는다.", "시험을 본다.", "춤을 춘다.", "물을 준다.", label=3),
            "문장: 씨앗을 심는다.",
            "물을 준다.",
            "시험을 본다.",
        ),
        Row(
            goes_on("이를 닦는다.", "산에 오른다.", "입을 헹군다.", "글을 쓴다.", "표를 산다.", label=1),
            "문장: 이를 닦는다.",
            "입을 헹군다.",
            "표를 산다.",
        ),
    ),
    scores={
        "macro_f1": 100 * (1 + 2 / 4 + 1 + 0) / 4,
        "accuracy": 100 * 3 / 5,
        "accuracy_norm": 100 * 3 / 5,
    },
    majority=100 * (4 / 7) / 4,
)
SENTINEG = Gold(
    file="kobest/sentineg/test.jsonl",
    choices=("부정", "긍정"),
    rows=(
        Row(
            {"id": "1", "sentence": "배송이 빨라서 좋아요", "label": 1},
            "문장: 배송이 빨라서 좋아요 긍부정:",
            "긍정",
            "긍정",
        ),
        Row(
            {"id": "2", "sentence": "금방 고장이 났어요", "label": 0},
            "문장: 금방 고장이 났어요 긍부정:",
            "부정",
            "부정",
        ),
        Row(
            {"id": "3", "sentence": "냄새가 나지 않아요", "label": 1},
            "문장: 냄새가 나지 않아요 긍부정:",
            "긍정",
            "부정",
        ),
        Row({"id": "4", "sentence": "튼튼하고 예뻐요", "label": 1}, "문장: 튼튼하고 예뻐요 긍부정:", "긍정", "부정"),
        Row({"id": "5", "sentence": "다시는 안 사요", "label": 0}, "문장: 다시는 안 사요 긍부정:", "부정", "부정"),
    ),
    scores=two_of_five("macro_f1", "accuracy"),
    majority=ALWAYS_ONE["macro_f1"],
)
GOLD = {
    "classification:nsmc": NSMC,
    "classification:kornli": KORNLI,
    "classification:korsts": KORSTS,
    "classification:pawsx_ko": PAWSX,
    "classification:question_pair": QUESTION_PAIR,
    "klue:ynat": YNAT,
    "klue:nli": KLUE_NLI,
    "klue:sts": KLUE_STS,
    "klue:re": KLUE_RE,
    "kobest:boolq": BOOLQ,
    "kobest:copa": COPA,
    "kobest:wic": WIC,
    "kobest:hellaswag": HELLASWAG,
    "kobest:sentineg": SENTINEG,
    # rows of our own in the shapes of KoBEST
    "sample:boolq": BOOLQ,
    "sample:copa": COPA,
    "sample:wic": WIC,
    "sample:hellaswag": HELLASWAG,
    "sample:sentineg": SENTINEG,
}
CHANCE = {
    "classification:nsmc": 50.0,
    "classification:kornli": 33.33,
    "classification:korsts": 0.0,
    "classification:pawsx_ko": 50.0,
    "classification:question_pair": 50.0,
    "klue:ynat": 14.29,
    "klue:sts": 0.0,
    "klue:nli": 33.33,
    "klue:ner": 0.0,
    "klue:re": 2.0,
    "klue:dp": 0.0,
    "klue:mrc": 0.0,
    "klue:wos": 0.0,
    "instructions:ifeval_ko": 0.0,
    "knowledge:click": 24.3,  # a seventh of the questions has five choices, the others have four
    "knowledge:kmmlu": 25.0,
    "knowledge:kmmlu_redux": 25.0,
    "knowledge:kmmlu_pro": 20.0,
    "knowledge:kobalt": 10.0,
    "knowledge:haerae": 20.0,
    "knowledge:kormedmcqa": 20.0,
    "kobest:boolq": 50.0,
    "kobest:copa": 50.0,
    "kobest:wic": 50.0,
    "kobest:hellaswag": 25.0,
    "kobest:sentineg": 50.0,
    "language_modeling:kaist_treebank": 8.0,
    "language_modeling:own": 8.0,
    "math:gsm8k": 0.0,
    "math:ksm": 0.0,
    "math:math": 0.0,
    "math:mmmlu": 25.0,
    "math:omni_math": 0.0,
    "qa:korquad": 0.0,
    "qa:klue_mrc": 0.0,
    "sample:boolq": 50.0,
    "sample:copa": 50.0,
    "sample:wic": 50.0,
    "sample:hellaswag": 25.0,
    "sample:sentineg": 50.0,
    "sample:qa": 0.0,
    "sample:summarization": 0.0,
    "sample:translation": 0.0,
    "summarization:klue_headline": 0.0,
    "summarization:sci_news_sum_kr_50": 0.0,
    "summarization:sae4k": 0.0,
    "summarization:xlsum": 0.0,
    "translation:flores200_en_ko": 0.0,
    "translation:flores200_ko_en": 0.0,
    "translation:korean_parallel_news_en_ko": 0.0,
    "translation:korean_parallel_news_ko_en": 0.0,
    "translation:tatoeba_en_ko": 0.0,
    "translation:tatoeba_ko_en": 0.0,
    "translation:own_en_ko": 0.0,
    "translation:own_ko_en": 0.0,
}
"""What guessing gets on each task, in the unit of its first metric; a uniform guess of a byte takes 8 bits."""


def test_chance_is_what_guessing_gets() -> None:
    """One of two to five, seven or ten choices; 2 of 100 on KLUE-RE, whose 30 choices are scored without the first."""
    tasks = [(suite.name, task) for suite in load_suites().values() for task in suite.tasks if task.kind == "scored"]
    assert {f"{suite}:{task.name}": task.chance for suite, task in tasks} == CHANCE


@pytest.mark.parametrize("name", GOLD)
def test_choices_are_asked_and_scored_as_worked_out_by_hand(name: str, answer_rows: Answer) -> None:
    """Each prompt, choice and label to the character, and every metric of answers of which some are wrong."""
    gold = GOLD[name]
    result = answer_rows(name, {gold.file: [row.fields for row in gold.rows]}, [row.given for row in gold.rows])
    assert [example.prompt for example in result.examples] == [row.prompt for row in gold.rows]
    assert [example.target for example in result.examples] == [row.right for row in gold.rows]
    assert [example.output for example in result.examples] == [row.given for row in gold.rows]
    if gold.choices:
        assert {example.choices for example in result.examples} == {gold.choices}
    places = [example.choices.index(row.right) for example, row in zip(result.examples, gold.rows, strict=True)]
    assert [example.target_choice for example in result.examples] == places
    assert {score.metric: score.value for score in result.scores} == pytest.approx(gold.scores)
    first = result.scores[0]
    assert (first.metric, first.chance) == (next(iter(gold.scores)), CHANCE[name])
    assert first.majority == pytest.approx(gold.majority)


@pytest.mark.parametrize("name", [name for name in GOLD if not name.startswith("sample:")])
def test_training_teaches_the_right_choice_of_each_row(name: str, teach_rows: Teach) -> None:
    """The response is the right choice after a space; a row that is asked in the test is not taught."""
    gold = GOLD[name]
    train = {
        "classification:kornli": "kornli/xnli_dev_ko.jsonl",
        "classification:pawsx_ko": "pawsx_ko/validation.jsonl",
    }.get(name, gold.file.rpartition("/")[0] + "/train.jsonl")
    rows = [row.fields for row in gold.rows]
    taught = teach_rows(name, {gold.file: rows[:1], train: rows})
    assert taught == [(row.prompt, f" {row.right}") for row in gold.rows[1:]]


@pytest.mark.parametrize("name", ["kobest:hellaswag", "sample:hellaswag"])
def test_length_is_counted_in_characters(name: str, answer_rows: Answer) -> None:
    """A syllable is one character of three bytes: by bytes, both of these rows would be answered wrong."""
    rows = [
        goes_on("문장", "abcdef", "가나", "x", "y", label=0),  # -1 and -1.5 a character, -1 and -0.5 a byte
        goes_on("문장", "가나다라", "abc", "x", "y", label=1),  # -1.5 and -1.33 a character, -0.5 and -1.33 a byte
    ]
    answers = [(-6.0, -3.0, -99.0, -99.0), (-6.0, -4.0, -99.0, -99.0)]
    result = answer_rows(name, {HELLASWAG.file: rows}, answers)
    scores = {score.metric: score.value for score in result.scores}
    assert scores["accuracy_norm"] == 100.0
    assert scores["accuracy"] == 50.0, "without the length, the likeliest ending counts"


HUB_ROWS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "classification:kornli": [
        ({"premise": "비가 온다.", "hypothesis": "날이 흐리다.", "label": 0}, "함의"),
        ({"premise": "비가 온다.", "hypothesis": "그는 집에 있다.", "label": 1}, "중립"),
        ({"premise": "비가 온다.", "hypothesis": "비가 오지 않는다.", "label": 2}, "모순"),
    ],
    "klue:nli": [
        ({"premise": "비가 온다.", "hypothesis": "날이 흐리다.", "label": 0}, "함의"),
        ({"premise": "비가 온다.", "hypothesis": "그는 집에 있다.", "label": 1}, "중립"),
        ({"premise": "비가 온다.", "hypothesis": "비가 오지 않는다.", "label": 2}, "모순"),
    ],
    "klue:ynat": [
        ({"title": "제목 영", "label": 0}, "IT과학"),
        ({"title": "제목 일", "label": 1}, "경제"),
        ({"title": "제목 이", "label": 2}, "사회"),
        ({"title": "제목 삼", "label": 3}, "생활문화"),
        ({"title": "제목 사", "label": 4}, "세계"),
        ({"title": "제목 오", "label": 5}, "스포츠"),
        ({"title": "제목 육", "label": 6}, "정치"),
    ],
    "klue:re": [(KLUE_RE.rows[0].fields | {"label": index}, text) for index, (_name, text) in enumerate(RELATIONS)],
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_the_hub_s_numbers_mean_the_same_labels(name: str, answer_rows: Answer) -> None:
    """The hub has an index where the files have a name, and KorNLI's fields have other names there."""
    rows = HUB_ROWS[name]
    result = answer_rows(name, {GOLD[name].file: [fields for fields, _ in rows]}, [right for _, right in rows])
    assert [example.target for example in result.examples] == [right for _, right in rows]
    assert all(example.correct == 1.0 for example in result.examples)


def test_every_relation_of_klue_re_is_called_what_it_is(answer_rows: Answer) -> None:
    """A row for each of the 30 names, answered with the text that stands for it: none is another's."""
    rows = [KLUE_RE.rows[0].fields | {"label": name} for name, _ in RELATIONS]
    result = answer_rows("klue:re", {KLUE_RE.file: rows}, [text for _, text in RELATIONS])
    assert [example.correct for example in result.examples] == [1.0] * 30


HARNESS_CHOICES = {
    "boolq": ("아니오", "예"),
    "wic": ("아니오", "예"),
    "sentineg": ("부정", "긍정"),
}
"""Choices of lm-eval's own prompts, in order, where they do not come from the row."""


@pytest.mark.parametrize("task", ["boolq", "copa", "wic", "hellaswag", "sentineg"])
def test_the_prompts_of_lm_eval_have_the_same_right_answers(task: str, build_rows: Build) -> None:
    """The other way to ask KoBEST does not turn a label."""
    gold = GOLD[f"kobest:{task}"]
    built = build_rows(f"kobest:{task}", {gold.file: [row.fields for row in gold.rows]}, prompts="lm-eval").lm_task
    docs = list(built.eval_docs)
    found = []
    for doc in docs:
        choices, target = built.doc_to_choice(doc), built.doc_to_target(doc)
        found.append(choices[target] if isinstance(target, int) else target)
        if task in HARNESS_CHOICES:
            assert tuple(choices) == HARNESS_CHOICES[task]
    right = [row.right for row in gold.rows]
    assert [text.strip().rstrip(".") for text in found] == [text.rstrip(".") for text in right]


SAMPLE = {
    "sample:boolq": ("아니오", "아니오", "예", *["아니오"] * 7),
    "sample:copa": (
        "비에 흠뻑 젖었답니다.",
        "친구가 기뻐했습니다.",
        "대회에서 꼴찌를 했답니다.",
        "배탈이 났답니다.",
        "고기가 맛있게 익었습니다.",
        "선생님께 칭찬을 들었습니다.",
        "일찍 일어났다고 한다.",
        "난로를 켰습니다.",
        "휴대폰을 물에 빠뜨렸습니다.",
        "경찰서에 분실 신고를 했습니다.",
    ),
    "sample:wic": ("예", "예", "예", "아니오", "아니오", "예", "아니오", "예", "예", "예"),
    "sample:hellaswag": (
        "봉투에 우표를 붙였습니다.",
        "젖은 머리를 수건으로 닦았습니다.",
        "커피 가루에 뜨거운 물을 부었습니다.",
        "상영관에 들어갔습니다.",
        "기차에 올라 창가에 앉았습니다.",
        "김밥을 돌돌 말았다고 한다.",
        "젖은 빨래를 꺼냈다고 한다.",
        "물로 입을 헹궜다고 한다.",
        "젖은 머리를 수건으로 닦았다고 한다.",
        "김밥을 돌돌 말았다고 한다.",
    ),
    "sample:sentineg": ("긍정", "긍정", "부정", "긍정", "긍정", "부정", "부정", "부정", "긍정", "부정"),
}
"""What a reader answers to the first ten rows that the package ships."""


@pytest.mark.parametrize("name", SAMPLE)
def test_rows_that_are_shipped_have_the_label_that_a_reader_gives_them(name: str, answer_rows: Answer) -> None:
    """They were read, not looked up."""
    suite, _, task = name.partition(":")
    file = load_suites()[suite].folder / "data" / task / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[: len(SAMPLE[name])]]
    result = answer_rows(name, {"rows.jsonl": rows}, SAMPLE[name])
    assert [example.target for example in result.examples] == list(SAMPLE[name])


def test_every_task_that_is_asked_as_a_choice_is_worked_out_by_hand_in_one_of_two_files() -> None:
    """A task that is added needs rows here, or in the file of exams if it is asked in two ways."""
    asked = {
        f"{suite.name}:{task.name}": len(task.definitions)
        for suite in load_suites().values()
        for task in suite.tasks
        if any(has_output_type(suite.folder / file, "multiple_choice") for file in task.definitions.values())
    }
    assert {name for name, ways in asked.items() if ways == 1} == set(GOLD)
    assert {name for name, ways in asked.items() if ways > 1} == set(test_gold_exams.GOLD)
