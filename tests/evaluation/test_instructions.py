"""Every verifiable instruction: what follows it and what does not, and lm-eval's own checks as the oracle."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.evaluation.instructions import (
    CHECKS,
    check_known,
    count_sentences,
    follows,
    label_instructions,
    list_loose_variants,
)
from bitnet_bench.evaluation.languages import detect_language
from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["바다", "Python"]}, "바다에서 python을 배운다.", "바다에서 배운다."),
    ("keywords:frequency", {"keyword": "강", "frequency": 2, "relation": "at least"}, "강과 강가", "강"),
    ("keywords:frequency", {"keyword": "강", "frequency": 2, "relation": "less than"}, "강", "강과 강가"),
    ("keywords:forbidden_words", {"forbidden_words": ["사과"]}, "배를 먹었다. 풋사과도.", "사과를 먹었다."),
    ("keywords:forbidden_words", {"forbidden_words": ["json"]}, "jsonl 파일", "JSON 파일"),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 3, "let_relation": "at least"}, "Banana", "Bana"),
    ("language:response_language", {"language": "ko"}, "오늘은 날씨가 맑습니다.", "The weather is fine today."),
    ("language:response_language", {"language": "hi"}, "आज मौसम बहुत अच्छा है और हम खुश हैं।", "오늘은 맑습니다."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "맑다. 덥다.", "맑고 덥다."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "3.5도이다.", "맑다. 덥다."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "하나\n***\n둘", "하나\n\n둘"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "나는 밥을 먹는다", "나는 - 먹는다"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "나는 먹는다", "나는 밥을 먹는다"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "기업"},
     "하나이다.\n\n기업은 둘이다.", "기업은 하나이다.\n\n둘이다."),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[이름]님, [주소]로", "[이름]님"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "안녕.\nP. S. 또 봐.", "안녕.\n추신: 또 봐."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S 또 봐.", "P.S. 또 봐."),
    ("detectable_content:postscript", {"postscript_marker": "추신"}, "안녕.\n추신: 또 봐.", "안녕."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* 하나\n- 둘", "* 하나"),
    ("detectable_format:constrained_response", {}, "제 답변은 예입니다.", "예."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*하나*와 *둘*", "*하나*"),
    ("detectable_format:multiple_sections", {"section_spliter": "섹션", "num_sections": 2},
     "섹션 1\n가\n섹션 2\n나", "섹션 1\n가"),
    ("detectable_format:json_format", {}, '```json\n{"가": 1}\n```', '{"가": 1'),
    ("detectable_format:title", {}, "<<봄>>\n시", "<< >>\n시"),
    ("combination:two_responses", {}, "첫째\n******\n둘째", "첫째\n******\n첫째"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "시를 써라."}, "시를 써라.\n봄이다.", "네. 시를 써라."),
    ("startend:end_checker", {"end_phrase": "이상입니다."}, '끝. 이상입니다."', "이상입니다. 끝."),
    ("startend:quotation", {}, '"봄이다"', '"봄이다'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     "NLP와 LLM-QA", "NLP"),
    ("change_case:english_capital", {}, "THIS IS THE END OF IT.", "THIS is THE END OF IT."),
    ("change_case:english_lowercase", {}, "this is the end of it.", "This is the end of it."),
    ("punctuation:no_comma", {}, "하나 둘", "하나, 둘"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_an_instruction_is_followed_or_not(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    """Each check tells a text that follows from one that does not, whatever nulls a table adds to its arguments."""
    given_all = {"num_words": None, "language": None, **arguments}
    check_known([name], [given_all])
    assert follows(name, good, given_all)
    assert not follows(name, bad, given_all)
    assert not follows(name, "  \n", given_all)


def test_every_instruction_has_a_case() -> None:
    """The 25 of IFEval, of which IFEval-Ko uses 21."""
    assert {name for name, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize(
    ("ids", "arguments", "said"),
    [
        (["keywords:nothing"], [{}], "no instruction 'keywords:nothing'"),
        (["punctuation:no_comma"], [], "1 instructions and kwargs for 0"),
        (["punctuation:no_comma"], [{"num_words": 3}], "the kwargs of punctuation:no_comma"),
        (["startend:end_checker"], [{"end_phrase": None}], "the kwargs of startend:end_checker"),
    ],
)
def test_an_unknown_instruction_is_refused(ids: list[str], arguments: list[dict[str, Any]], said: str) -> None:
    """Before a model is loaded, and not as an instruction that nobody can follow."""
    with pytest.raises(ValueError, match=said):
        check_known(ids, arguments)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("맑다", 1),
        ("맑다. 덥다! 춥다?", 3),
        ("기온은 3.5도이다.", 1),
        ("1. 물을 끓인다.\n2. 면을 넣는다.", 2),
        ('그는 "가자." 하고 말했다.', 2),
        ("제목\n\n본문이다.", 2),
        ("J. K. 롤링은 작가다.", 1),
        ("정말...? 그래!!", 2),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    """By the rule that the page of the suite states."""
    assert count_sentences(text) == count


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("오늘은 날씨가 맑습니다. NLP 모델을 배웁니다.", "ko"),
        ("The cat is on the table and it was not mine.", "en"),
        ("Der Hund ist nicht in dem Haus und die Katze ist es.", "de"),
        ("Le chat est dans la maison et il ne veut pas sortir avec nous.", "fr"),
        ("O gato não está em casa, mas você pode ver a foto que eu fiz do gato.", "pt"),
        ("Il gatto non è in casa e la porta della cucina è aperta.", "it"),
        ("Watu wengi wa kijiji wanakula chakula kwa pamoja na familia ya mwalimu.", "sw"),
        ("Tôi là một người học và không có nhiều thời gian cho những việc này.", "vi"),
        ("今日は天気がいいです。", "ja"),
        ("今天天气很好。", "zh"),
        ("Сегодня мы были в музее, и это было очень интересно.", "ru"),
        ("Днес времето е хубаво и отиваме на разходка.", "bg"),
        ("الطقس جميل اليوم ونحن سعداء", "ar"),
        ("امروز هوا خوب است و چند گل زیبا دیدیم", "fa"),
        ("آج موسم بہت اچھا ہے اور ہم باہر جائیں گے", "ur"),
        ("आज मौसम अच्छा है और हम खुश हैं", "hi"),
        ("आज हवामान छान आहे आणि आम्ही आनंदी आहोत", "mr"),
        ("आज मौसम राम्रो छ र हामी खुसी छौं, यो दिन पनि हो", "ne"),
        ("วันนี้อากาศดีมาก", "th"),
        ("இன்று வானிலை நன்றாக உள்ளது", "ta"),
        ("12345 !!", None),
        ("", None),
        ("오늘은 hello world this is mixed 날씨", None),
    ],
)
def test_the_language_of_a_text(text: str, code: str | None) -> None:
    """The languages that IFEval-Ko asks for are told apart; a mixed text has none."""
    assert detect_language(text) == code


def test_the_loose_variants_are_the_eight_of_the_paper() -> None:
    """Without first line, last line and both, each with and without asterisks."""
    assert list_loose_variants("*가*\n나\n다") == [
        "*가*\n나\n다",
        "나\n다",
        "*가*\n나",
        "나",
        "가\n나\n다",
        "나\n다",
        "가\n나",
        "나",
    ]


def test_labels_say_how_an_instruction_was_followed() -> None:
    """A preamble is forgiven by the loose accuracy only, and only for the instruction that it breaks."""
    ids = ["punctuation:no_comma", "startend:end_checker", "detectable_format:title"]
    arguments: list[dict[str, Any]] = [{}, {"end_phrase": "끝."}, {}]
    assert label_instructions("네, 물론입니다\n봄이다 끝.", ids, arguments) == ("loose", "strict", "")


def make_example(*labels: str) -> Example:
    """Return an answer to as many instructions as there are labels."""
    names = ("punctuation:no_comma", "detectable_format:title", "startend:quotation")[: len(labels)]
    return Example(
        task="t", doc_id=0, prompt="", target="", output="x", target_labels=names, output_labels=labels, correct=0.0
    )


def test_the_four_accuracies() -> None:
    """Of prompts and of instructions: two prompts with two and three instructions, counted by hand."""
    examples = [make_example("strict", "strict"), make_example("strict", "loose", "")]
    found = {key: load_metric(key).value(examples) for key in ("prompt_strict", "prompt_loose")}
    assert found == {"prompt_strict": 50.0, "prompt_loose": 50.0}
    strict, loose = load_metric("instruction_strict"), load_metric("instruction_loose")
    assert strict.value(examples) == pytest.approx(60.0)
    assert loose.value(examples) == pytest.approx(80.0)
    assert loose.parts(examples)["detectable_format:title"] == pytest.approx(100.0)
    assert strict.parts(examples)["startend:quotation"] == 0.0
    assert strict.score_resamples(strict.example_statistics(examples), np.ones((1, 2))) == pytest.approx([60.0])
    assert load_metric("prompt_loose").value([make_example("loose", "strict")]) == 100.0


@cache
def load_oracle() -> Any:
    """Return lm-eval's instructions, whose module wants language detection that is not asked of it here."""
    detection = types.ModuleType("langdetect")
    detection.detect = lambda text: "en"  # type: ignore[attr-defined]
    detection.LangDetectException = ValueError  # type: ignore[attr-defined]
    mapping = types.ModuleType("immutabledict")
    mapping.immutabledict = dict  # type: ignore[attr-defined]
    nltk = types.ModuleType("nltk")
    nltk.__version__ = "3.9.1"  # type: ignore[attr-defined]
    with (
        patch.dict(sys.modules, {"langdetect": detection, "immutabledict": mapping}),
        patch("nltk.download"),
        patch("nltk.data.find"),
    ):
        from lm_eval.tasks.ifeval import instructions_registry

        return instructions_registry.INSTRUCTION_DICT


PIECES = (
    *(
        "word",
        "Word",
        " ",
        " ",
        "\n",
        "\n\n",
        "*",
        "**",
        "***",
        "******",
        "[x]",
        "<<t>>",
        "<<",
        ">>",
        "- ",
        "* ",
        "P.S.",
    ),
    *("p. p. s", "Section 1", "SECTION 2", '"', ",", ".", "{", "}", '{"a": 1}', "```", "first", "The end."),
    "My answer is no.",
)
"""What random texts are made of."""
INDEPENDENT: list[tuple[str, dict[str, Any]]] = [
    ("keywords:frequency", {"keyword": "word", "frequency": 2, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "word", "frequency": 2, "relation": "less than"}),
    ("keywords:existence", {"keywords": ["word", "first"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["word"]}),
    ("keywords:letter_frequency", {"letter": "w", "let_frequency": 2, "let_relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "first"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 1}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "first word"}),
    ("startend:end_checker", {"end_phrase": "The end."}),
    ("startend:quotation", {}),
    ("punctuation:no_comma", {}),
]


@pytest.mark.parametrize(("name", "arguments"), INDEPENDENT)
@settings(max_examples=60)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=14))
def test_checks_that_depend_on_no_language_agree_with_lm_eval(
    name: str, arguments: dict[str, Any], pieces: list[str]
) -> None:
    """On texts of marks and English words, in every order."""
    text = "".join(pieces)
    oracle = load_oracle()[name](name)
    oracle.build_description(**arguments)
    wanted = bool(text.strip()) and bool(oracle.check_following(text))
    assert follows(name, text, arguments) == wanted, text


def generate_words() -> Iterator[str]:
    """Yield texts of English words between single spaces, which both count alike."""
    yield from ("one", "one two", "one two three", "one two three four")


@pytest.mark.parametrize("text", list(generate_words()))
def test_words_between_spaces_are_counted_as_lm_eval_does(text: str) -> None:
    """Words with punctuation inside differ on purpose: an eojeol is one word."""
    name, arguments = "length_constraints:number_words", {"num_words": 3, "relation": "at least"}
    oracle = load_oracle()[name](name)
    oracle.build_description(**arguments)
    assert follows(name, text, arguments) == oracle.check_following(text)
