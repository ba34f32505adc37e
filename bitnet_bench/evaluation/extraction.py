"""Read out of a generated text which of a question's choices it answers with.

The rules are tried in this order, and the first that finds a choice decides; one that finds several, or a letter that
the question does not have, decides that there is no answer:

1. the last box, `\\boxed{B}`;
2. what follows the last cue, such as `정답: B`, `정답은 (B)입니다`, `답은 3번`, `The answer is B`;
3. the last sentence that calls a choice right: `B가 정답입니다`, `가장 적절한 것은 ③이다`, `B를 선택합니다`;
4. a first line that is a choice: `B`, `(B)`, `b.`, `B: 서울`, `두 번째`, `서울`; of lines that list choices none is;
5. the only choice that the text names by letter, number or ordinal;
6. the only choice whose text it restates.

A choice is named by its letter, also a full-width one (`Ｂ`), by `2번`, `②` or `두 번째`, and behind a cue also by a
bare number or by `(나)`. Where the texts of the choices are known, a text that equals one of them is that choice, even
if it looks like a number or a letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitnet_bench.evaluation.number_extraction import find_last_box

OUTSIDE = -1
"""Stands for a choice that is named and that the question does not have."""
LABELS = "가나다라마바사아자차"
"""Syllables that number choices, as in `(가)`."""
ORDINALS = ("첫", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
SHORT_ORDINALS = ("첫째", "둘째", "셋째", "넷째", "다섯째", "여섯째", "일곱째", "여덟째", "아홉째", "열째")
MIN_RESTATED_CHARS = 2
"""Length from which a choice's text counts where it stands inside another text."""
_CIRCLED = {ord("①") + i: f"{i + 1}번" for i in range(20)}
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\b\s*|\\[()\[\]]|[*`$_]")
_PARTICLE = (
    r"(?:입니다|이다|임|이며|이고|이라|이에|예요|인\b|번|를|을|이\b|가\b|은\b|는\b|로|으로|라|와|과|도\b|만\b|의\b"
    r"|처럼|일 |때문|에|쪽"
    r"|뿐|였|밖)"
)
_NO_ARTICLE = r"(?! (?!(?:because|since|as|is|or|and|but)\b)[a-z])"
"""Tells the letter in `B because` from the words in `A mountain` and `I think`."""
_LETTER = re.compile(rf"(?<![A-Za-z0-9'’+.-])([A-Z])(?![A-Za-z0-9'’+]){_NO_ARTICLE}(?=[^가-힣]|$|{_PARTICLE})")
_NUMBERED = re.compile(r"(?<![\d.,])(\d{1,2})\s*번(?!째|[이가]?\s*반복|\s*(?:이상|이하|정도|만에))")
_ORDINAL = re.compile(rf"(?:({'|'.join(ORDINALS)})|제?\s*(\d{{1,2}}))\s*번째|({'|'.join(SHORT_ORDINALS)})")
_LABEL = re.compile(rf"\(([{LABELS}])\)|^([{LABELS}])[.)]?$")
_PARENTHESISED = re.compile(r"\((\d{1,2})\)")
_BARE_NUMBER = re.compile(r"\(?(\d{1,2})\)?(?![\d%A-Za-z]|[.,]\d|\s*[가-힣])")
_CUE = re.compile(
    r"(?:(?<![오대응문질])(?:정답|해답|답안|답변|답)|최종\s*선택|선택지|(?i:\banswer|\bchoice))"
    r"(?:\s*\([A-Za-z ]+\))?\s*(?:번호)?\s*"
    r"(?:(?:은|는|이|가|으로|로|(?i:is\b)|:|=|-|–|→|⇒)[\s:]*|(?=[(\[]?(?:[A-Z](?![A-Za-z])|\d{1,2}\s*번)))"
)
_REASON = re.compile(r"\b(?:because|since)\b|왜냐하면|이유는")
_SENTENCE_END = re.compile(r"(?<=[^\d\s])[.!?](?=\s|$)|\n")
_COPULA = re.compile(r"\s*(?:입니다|이다|이에요|예요|임|이라고.*|라고.*|로 (?:보|판단|생각).*|인 것.*)?[\s.!?\"'”’]*$")
_NEGATED = re.compile(r"(?<!\S)\S+\s*(?:아니라|아니고|아닌|말고|아닙니다|아니다|아니므로|아니며)")
_RIGHT = re.compile(r"정답|맞(?:다|습|음|는)|옳(?:다|습|음|은)|적절|적합|선택|고르|고릅|골라|답입|답이다")
_WRONG = re.compile(r"아니|아닙|않|못|틀|오답|부적절|중에|중 하나")
_DENIED = re.compile(r"아니(?!면)|아닙|오답|틀[리렸린]|(?:옳|맞|적절하)지\s*않")
_LIST_LINE = re.compile(r"^\s*\(?([A-Z])\)?\s*[.:)]", re.MULTILINE)
_LEADING = re.compile(r"^[(\[]?([A-Za-z])[)\]]?(?:\s*[.:)\],]\s*|\s+(?![a-z])|$)(.*)$")
_NOTHING = re.compile(r"[\W_]+")
_GAP = re.compile(r"\s{3,}")
"""Blank space that says no more than less of it, and that other expressions would try to divide in every way."""


@dataclass(frozen=True)
class _Question:
    """The letters of a question's choices, and their texts without spaces and punctuation, () if they are unknown."""

    letters: str
    texts: tuple[str, ...]

    def find_letter(self, letter: str) -> int:
        """Return the position of a letter in either case; OUTSIDE if it is none."""
        return self.letters.find(letter.upper()) if letter else OUTSIDE

    def find_number(self, number: int) -> int:
        """Return the position of a choice that is counted from 1; OUTSIDE if there are not so many."""
        return number - 1 if 1 <= number <= max(len(self.letters), len(self.texts)) else OUTSIDE

    def find_text(self, text: str) -> int | None:
        """Return the position of the only choice with this text; None if there is none, or several."""
        squashed = _squash(text)
        at = [i for i, one in enumerate(self.texts) if one and one == squashed]
        return at[0] if len(at) == 1 else None


def find_choice(output: str, choices: Sequence[str], options: Sequence[str] = ()) -> int | None:
    """Return the position of the choice that *output* answers with; None if that cannot be decided.

    *choices* are what the model was asked to write: letters, such as `A` or `(A)`, or texts. *options* are the texts of
    choices that are letters.
    """
    letters = [choice.strip().strip("()") for choice in choices]
    if all(len(letter) == 1 and letter.isascii() and letter.isupper() for letter in letters):
        question = _Question("".join(letters), tuple(map(_squash, options)))
    else:
        question = _Question("", tuple(map(_squash, choices)))
    text = _clean(output)
    for rule in RULES:
        found = rule(text, question)
        if found:
            (first, *others) = sorted(found)
            return None if others or first == OUTSIDE else first
    return None


def _clean(text: str) -> str:
    """Return *text* with ASCII letters and digits, `2번` for `②`, and without markup."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFC", text).translate(_CIRCLED))
    text = _MARKUP.sub("", plain.replace("번번", "번")).strip()
    return _GAP.sub(lambda gap: "\n\n" if "\n" in gap[0] else " ", text)


def _squash(text: str) -> str:
    return _NOTHING.sub("", unicodedata.normalize("NFKC", text)).casefold()


def _read_box(text: str, question: _Question) -> set[int] | None:
    """Return what the last box holds; OUTSIDE if it holds no choice."""
    box = find_last_box(text)
    if box is None:
        return None
    held = box.strip("{} \n")
    cues = list(_CUE.finditer(held))
    return _read_claim(held[cues[-1].end() :] if cues else held, question) or {OUTSIDE}


def _read_cued(text: str, question: _Question) -> set[int] | None:
    """Return what the last cue that is followed by a choice is followed by."""
    for cue in reversed(list(_CUE.finditer(text))):
        rest = text[cue.end() :].lstrip()
        claim = _SENTENCE_END.split(rest, maxsplit=1)[0]
        if found := _read_claim(claim, question):
            return found
    return None


def _read_claim(claim: str, question: _Question) -> set[int] | None:
    """Return the choices that a short text names, by the most explicit of the ways; None if it names none."""
    claim = _NEGATED.sub("", _REASON.split(claim, maxsplit=1)[0]).strip(" \t\"'“”‘’「」『』<>:")
    bare = _COPULA.sub("", claim)
    if not bare:
        return None
    restated = question.find_text(bare)
    if restated is not None:
        return {restated}
    if leading := _LEADING.match(bare):
        at = question.find_letter(leading[1])
        rest = _squash(leading[2])
        is_restated = at >= 0 and bool(question.texts) and bool(rest) and rest.startswith(question.texts[at] or "\0")
        if is_restated or (not rest and (question.letters or leading[1].isupper())):
            return {at}
    ways: tuple[Callable[[], set[int]], ...] = (
        lambda: _list_named(claim, question),
        lambda: {question.find_number(int(n)) for n in _PARENTHESISED.findall(claim)},
        lambda: _list_restated(claim, question),
        lambda: {question.find_number(int(match[1])) for match in [_BARE_NUMBER.match(bare)] if match},
        lambda: _list_labels(bare, question),
    )
    return next((found for way in ways if (found := way())), None)


def _list_named(text: str, question: _Question, count_outside: bool = True) -> set[int]:
    """Return the choices that a text names by letter, by number with 번, or by an ordinal."""
    found = {question.find_letter(letter) for letter in _LETTER.findall(text)} if question.letters else set()
    found |= {question.find_number(int(number)) for number in _NUMBERED.findall(text)}
    for word, number, short in _ORDINAL.findall(text):
        place = int(number) if number else ORDINALS.index(word) + 1 if word else SHORT_ORDINALS.index(short) + 1
        found.add(question.find_number(place))
    return found if count_outside else found - {OUTSIDE}


def _list_labels(text: str, question: _Question) -> set[int]:
    """Return the choices that a text names as `(가)`."""
    return {question.find_number(LABELS.index(a or b) + 1) for a, b in _LABEL.findall(text)}


def _list_restated(text: str, question: _Question) -> set[int]:
    """Return the choices whose text stands in *text*, without those that are only part of a longer one there."""
    squashed = _squash(text)
    left = squashed
    found = set()
    for i, one in sorted(enumerate(question.texts), key=lambda pair: -len(pair[1])):
        if len(one) >= MIN_RESTATED_CHARS and one in left:
            found.add(i)
            left = left.replace(one, "\0")
    return found


def _read_declared(text: str, question: _Question) -> set[int] | None:
    """Return the choice that the last sentence that calls one right names."""
    for sentence in reversed(_SENTENCE_END.split(text)):
        claim = _NEGATED.sub("", sentence)
        is_right = _RIGHT.search(claim) and not _WRONG.search(claim)
        if is_right and (found := _list_named(claim, question, count_outside=False)):
            return found
    return None


def _read_first_line(text: str, question: _Question) -> set[int] | None:
    """Return the choice that the first line is."""
    line = text.split("\n", 1)[0].strip()
    listed = {question.find_letter(letter) for letter in _LIST_LINE.findall(text)} - {OUTSIDE}
    if len(listed) > 1:
        return None
    leading = _LEADING.match(line) if question.letters else None
    if leading and (leading[1].isupper() or not leading[2]):
        others = _list_named(leading[2], question, count_outside=False)
        return {question.find_letter(leading[1]), *others}
    bare = _COPULA.sub("", line)
    restated = question.find_text(bare)
    if restated is not None:
        return {restated}
    number = re.fullmatch(r"\(?(\d{1,2})\)?\.?", bare)
    if number:
        return {question.find_number(int(number[1]))}
    return _list_labels(bare, question) if re.fullmatch(r"\(?.\)?[.)]?", bare) else None


def _read_only_named(text: str, question: _Question) -> set[int] | None:
    """Return the choices that a text names, but for those that it calls wrong."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if not _DENIED.search(_NEGATED.sub("", sentence))]
    return _list_named(_NEGATED.sub("", "\n".join(sentences)), question, count_outside=False)


def _read_only_restated(text: str, question: _Question) -> set[int] | None:
    return _list_restated(text, question)


RULES: tuple[Callable[[str, _Question], set[int] | None], ...] = (
    _read_box,
    _read_cued,
    _read_declared,
    _read_first_line,
    _read_only_named,
    _read_only_restated,
)
"""The rules in the order in which they are tried."""
