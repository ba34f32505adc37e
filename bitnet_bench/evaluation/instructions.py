"""Check whether a text follows the verifiable instructions of IFEval (arXiv:2311.07911), as IFEval-Ko uses them.

Every instruction is a function of the text and the arguments in a row's `kwargs`. They follow the definitions of the
paper, with these rules for Korean:

- words are what stands between spaces (eojeol);
- a sentence ends at `.`, `!`, `?` or `。` before a space, a quotation mark or the end, and at an empty line; the point
  of a number, of a list's number at the beginning of a line, and of several initials (J. K.) ends none;
- a keyword counts wherever it stands, and a Hangul word is forbidden wherever it begins a word, whatever particle
  follows; a Latin word is forbidden as a word;
- the first word of a paragraph may have a particle behind it, if it is Hangul;
- the three answers of `constrained_response` are those of IFEval-Ko, or of the English set;
- a language is told by script and frequent words (`bitnet_bench.evaluation.languages`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitnet_bench.evaluation.languages import detect_language

STRICT, LOOSE, MISSED = "strict", "loose", ""
"""Labels of an instruction that is followed, that is followed in one of the loose variants, and that is not."""
CONSTRAINED = (
    "제 답변은 예입니다.",
    "제 답변은 아니요입니다.",
    "제 답변은 아마도입니다.",
    "My answer is yes.",
    "My answer is no.",
    "My answer is maybe.",
)
_SENTENCE = re.compile(r"[.!?。…]+(?=[\s\"'”’)\]」』]|$)|\n\s*\n")
_LIST_NUMBER = re.compile(r"^\s*(?:\d+|[A-Za-z가-힣])[.)]\s", re.MULTILINE)
_INITIAL = re.compile(r"(?<![A-Za-z])(?:[A-Za-z]\.\s?){2,}|\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|e\.g|i\.e)\.")
_HANGUL = re.compile(r"[가-힣]")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


def label_instructions(text: str, ids: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return for each instruction whether *text* follows it: strict, loose (in one of eight variants) or missed."""
    variants = list_loose_variants(text)
    labels = []
    for name, given in zip(ids, arguments, strict=True):
        if follows(name, text, given):
            labels.append(STRICT)
        else:
            labels.append(LOOSE if any(follows(name, variant, given) for variant in variants) else MISSED)
    return tuple(labels)


def list_loose_variants(text: str) -> list[str]:
    """Return the eight texts of the paper's loose accuracy: without first line, last line or both, and asterisks."""
    lines = text.split("\n")
    parts = [text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*parts, *(part.replace("*", "") for part in parts)]


def follows(name: str, text: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether *text* follows the instruction *name*; no instruction is followed by an empty text."""
    if not text.strip():
        return False
    return CHECKS[name](unicodedata.normalize("NFC", text), **_list_given(arguments))


def check_known(ids: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if an instruction is unknown, or an argument of it is missing or unknown."""
    if len(ids) != len(arguments):
        raise ValueError(f"it has {len(ids)} instructions and kwargs for {len(arguments)}")
    for name, given in zip(ids, arguments, strict=True):
        if name not in CHECKS:
            raise ValueError(f"there is no instruction {name!r}")
        try:
            CHECKS[name]("글", **_list_given(given))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the kwargs of {name} are not its own: {error}") from error


def _list_given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are given, in NFC: a table has a column, and a null, for those of every instruction."""
    return {name: _to_nfc(value) for name, value in arguments.items() if value is not None}


def _to_nfc(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    return [_to_nfc(one) for one in value] if isinstance(value, list | tuple) else value


def _compare(count: int, relation: str, bound: float) -> bool:
    return count < bound if relation == "less than" else count >= bound


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    """Return whether every keyword stands in the text, in any case."""
    return all(word.lower() in text.lower() for word in keywords)


def has_keyword_often(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    """Return whether a keyword stands in the text as often as asked, in any case."""
    return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def lacks_words(text: str, forbidden_words: Sequence[str]) -> bool:
    """Return whether none of the words is used: a Hangul word with any particle, a Latin one as it is."""
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}" + ("" if _HANGUL.search(word) else r"(?!\w)"), text, re.IGNORECASE)
        for word in forbidden_words
    )


def has_letter_often(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    """Return whether a letter stands in the text as often as asked, in any case."""
    return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def is_in_language(text: str, language: str) -> bool:
    """Return whether the text is in a language, by its ISO 639-1 code."""
    return detect_language(text) == language.split("-")[0]


def has_sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    """Return whether the text has as many sentences as asked."""
    return _compare(count_sentences(text), relation, num_sentences)


def count_sentences(text: str) -> int:
    """Return the number of sentences; what stands behind the last mark counts if it has a letter or a digit."""
    plain = _LIST_NUMBER.sub("\n", _INITIAL.sub("x ", text))
    return sum(any(map(str.isalnum, part)) for part in _SENTENCE.split(plain))


def has_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Return whether `***` separates exactly so many paragraphs; an empty one counts only between two of them."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    filled = [bool(part.strip()) for part in parts]
    return all(filled[1:-1]) and sum(filled) == num_paragraphs


def has_words(text: str, num_words: int, relation: str = "at least") -> bool:
    """Return whether the text has as many words as asked."""
    return _compare(sum(any(map(str.isalnum, word)) for word in text.split()), relation, num_words)


def has_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Return whether there are exactly so many paragraphs, between empty lines, and one begins with a word."""
    paragraphs = text.split("\n\n")
    count = sum(bool(part.strip()) for part in paragraphs)
    if count != num_paragraphs or nth_paragraph > count:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'\"“‘").lower(), maxsplit=1)[0] if words else ""
    wanted = first_word.lower()
    return first.startswith(wanted) if _HANGUL.search(wanted) else first == wanted


def has_placeholders(text: str, num_placeholders: int) -> bool:
    """Return whether at least so many placeholders such as [주소] stand in the text."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    """Return whether a postscript begins with the marker; spaces may stand between the letters of P.S. and P.P.S."""
    marker = postscript_marker.strip().lower()
    known = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}
    return re.search(known.get(marker, re.escape(marker)), text.lower()) is not None


def has_bullets(text: str, num_bullets: int) -> bool:
    """Return whether exactly so many lines are bullet points, with `*` or `-`."""
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def is_constrained(text: str) -> bool:
    """Return whether one of the three answers stands in the text."""
    return any(answer in text for answer in CONSTRAINED)


def has_highlights(text: str, num_highlights: int) -> bool:
    """Return whether at least so many parts are between asterisks; a part between two counts once more, as defined."""
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def has_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Return whether at least so many sections begin with the mark and a number, such as 섹션 1."""
    return len(re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", text)) >= num_sections


def is_json(text: str) -> bool:
    """Return whether the whole text is JSON, in a fence or without."""
    plain = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(plain)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """Return whether a title stands between << and >>."""
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+>>", text))


def has_two_responses(text: str) -> bool:
    """Return whether six asterisks separate two different answers."""
    parts = text.split("******")
    if not all(part.strip() for part in parts[1:-1]):
        return False
    answers = [part.strip() for part in parts if part.strip()]
    return len(answers) == 2 and answers[0] != answers[1]


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    """Return whether the text begins with the request itself, in any case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def has_end(text: str, end_phrase: str) -> bool:
    """Return whether the text ends with a phrase, in any case; a quotation mark may follow."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(text: str) -> bool:
    """Return whether the whole text is between double quotation marks."""
    plain = text.strip()
    return len(plain) > 1 and plain[0] == plain[-1] == '"'


def has_capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    """Return whether as many words as asked are in capital letters; a word with a hyphen counts once."""
    return _compare(sum(word.isupper() for word in _WORD.findall(text)), capital_relation, capital_frequency)


def is_capital(text: str) -> bool:
    """Return whether the text is English in capital letters only."""
    return text.isupper() and detect_language(text.lower()) == "en"


def is_lowercase(text: str) -> bool:
    """Return whether the text is English in small letters only."""
    return text.islower() and detect_language(text) == "en"


def lacks_commas(text: str) -> bool:
    """Return whether there is no comma."""
    return "," not in text


CHECKS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": has_keywords,
    "keywords:frequency": has_keyword_often,
    "keywords:forbidden_words": lacks_words,
    "keywords:letter_frequency": has_letter_often,
    "language:response_language": is_in_language,
    "length_constraints:number_sentences": has_sentences,
    "length_constraints:number_paragraphs": has_paragraphs,
    "length_constraints:number_words": has_words,
    "length_constraints:nth_paragraph_first_word": has_first_word,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:number_bullet_lists": has_bullets,
    "detectable_format:constrained_response": is_constrained,
    "detectable_format:number_highlighted_sections": has_highlights,
    "detectable_format:multiple_sections": has_sections,
    "detectable_format:json_format": is_json,
    "detectable_format:title": has_title,
    "combination:two_responses": has_two_responses,
    "combination:repeat_prompt": repeats_prompt,
    "startend:end_checker": has_end,
    "startend:quotation": is_quoted,
    "change_case:capital_word_frequency": has_capital_words,
    "change_case:english_capital": is_capital,
    "change_case:english_lowercase": is_lowercase,
    "punctuation:no_comma": lacks_commas,
}
"""The check of every instruction, by its id."""
