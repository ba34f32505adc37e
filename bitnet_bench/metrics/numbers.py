"""Read a number as people and LaTeX write it, and compare numbers as numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from fractions import Fraction

FLOAT_TOLERANCE = 1e-9
"""Relative difference up to which two numbers are equal, one of which is irrational and so not exact."""
MIN_ROUNDED_PLACES = 4
"""Decimal places from which a right answer may be rounded: 1/3 is then 0.3333."""
MAX_EXPONENT = 256
MAX_BASE = 10**18
"""Largest numerator and denominator of what is raised to a power."""
MAX_DEGREE = 12
"""Largest degree of a root that is looked for among the rational numbers: a number is then raised to it."""
MAX_BITS = 1000
"""Bits of a numerator or a denominator up to which a number is read: any such number is a float as well."""
MAX_LENGTH = 200
"""Characters up to which a text is read as a number."""
MYRIADS = {"만": 10**4, "억": 10**8, "조": 10**12}
TENS = {"십": 10, "백": 100, "천": 1000}
DIGITS = {digit: value for value, digit in enumerate("영일이삼사오육칠팔구")} | {"공": 0, "륙": 6}
RAISED = {ord("²"): "^2", ord("³"): "^3"}
Number = Fraction | float
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|,|;|:|!|\s|quad)|[$\s~]|\\[()\[\]]")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm|rm|bf|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\{?\\circ\}?|°|\\degree")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
_UNIT = re.compile(r"(?<=[\d)}])(?:[가-힣a-zA-Z%]|\\%|(?<=[가-힣a-zA-Z])\^\{?[23]\}?|(?<=m)[23])+$")
"""Units at the end, where spaces are gone and NFKC has made `cm2` of `㎠`. Each character can be read in one way only,
so that a text that does not end in a unit is given up at once."""
_MIXED = re.compile(r"(?<![\d.])(-?)(\d+)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_DECIMAL = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def parse_number(text: str) -> Number | None:
    """Return the number that *text* is, exact where it is rational; None if it is none, or more than one.

    Read are integers, decimals, commas of thousands, percentages (50 % is 50), fractions (`1/2`, `\\frac{1}{2}`,
    `1\\frac12`), roots, powers, products and π, what stands behind the last `=` or `≈`, numbers with a unit (`3개`,
    `5 cm`, `90^\\circ`) and Korean ones (`3만 5천`, `백이십`).
    """
    if len(text) > MAX_LENGTH:
        return None
    plain = fold_characters(text).replace("–", "-")
    plain = re.split(r"=|≈|\\approx|\\simeq|≒", plain)[-1]
    plain = (
        _DROPPED.sub("", _THOUSANDS.sub("", _DEGREES.sub("", _TEXT.sub(r"\1", plain)))).rstrip(".,;: ").lstrip(",;: ")
    )
    korean = _read_korean(plain)
    if korean is not None:
        return korean
    plain = _UNIT.sub("", plain.replace("\\%", "%")).strip("%")
    plain = _MIXED.sub(r"(\1(\2+\\frac{\3}{\4}))", plain)
    try:
        value = _Expression(plain).read()
    except (ValueError, ZeroDivisionError, OverflowError, IndexError, RecursionError):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS else None


def fold_characters(text: str) -> str:
    """Return *text* with ASCII digits, letters and signs; a raised 2 or 3 stays a power."""
    raised = unicodedata.normalize("NFC", text).translate(RAISED)
    return unicodedata.normalize("NFKC", raised).replace("−", "-")


def is_same_number(answer: Number, gold: Number, gold_text: str = "") -> bool:
    """Return whether two numbers are equal.

    Irrational ones may differ in the last bits; of a gold number with at least four decimal places, the answer may be
    a more precise form: it has to be the same after rounding.
    """
    if isinstance(answer, Fraction) and isinstance(gold, Fraction):
        if answer == gold:
            return True
    elif math.isclose(answer, gold, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE):
        return True
    places = len(gold_text.partition(".")[2].strip()) if re.fullmatch(r"-?\d*\.\d+", gold_text.strip()) else 0
    return places >= MIN_ROUNDED_PLACES and abs(float(answer) - float(gold)) * 2 * 10**places <= 1 + FLOAT_TOLERANCE


def format_number(number: Number) -> str:
    """Return a number as a text that `parse_number` reads as the same number."""
    if isinstance(number, float):
        return repr(number) if "e" not in repr(number) else f"{number:.18f}"
    return str(number)


def _read_korean(text: str) -> Fraction | None:
    """Return a number with 만, 천, 백 and so on, such as 3만5천 or 백이십 or 천원; None if it is none."""
    found = re.match(r"(-?)([\d.영공일이삼사오육륙칠팔구십백천만억조]+)", text)
    if found is None or not re.search("[십백천만억조]", found[2]):
        return None
    if not re.fullmatch(r"(?:[가-힣A-Za-z%]{0,6}\.?)", text[found.end() :]):
        return None
    total = Fraction(0)
    for part in re.findall(r"[^만억조]+[만억조]?|[만억조]", found[2]):
        myriad = MYRIADS.get(part[-1], 1)
        below = _read_below_myriad(part.rstrip("만억조") or "1")
        if below is None:
            return None
        total += below * myriad
    return -total if found[1] else total


def _read_below_myriad(text: str) -> Fraction | None:
    total = Fraction(0)
    for digits, unit in re.findall(r"(\d+(?:\.\d+)?|[영공일이삼사오육륙칠팔구]?)([십백천]?)", text):
        if not digits and not unit:
            continue
        count = Fraction(digits) if digits[:1].isdigit() else Fraction(DIGITS[digits] if digits else 1)
        total += count * TENS.get(unit, 1)
    rest = re.sub(r"\d+(?:\.\d+)?|[영공일이삼사오육륙칠팔구십백천]", "", text)
    return None if rest else total


class _Expression:
    """Reads an expression of numbers by recursive descent: sums of products of powers. ValueError if it is none."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("π", "\\pi")
        self._text = re.sub(r"\\cdot|\\times|×|·", "*", self._text).replace("\\div", "/").replace("÷", "/")
        self._text = self._text.replace("√", "\\sqrt").replace("**", "^")
        self._at = 0

    def read(self) -> Number:
        """Return the value of the whole text."""
        value = self._sum()
        if self._at < len(self._text):
            raise ValueError("something stands behind the number")
        return value

    def _take(self, *signs: str) -> str:
        for sign in signs:
            if self._text.startswith(sign, self._at):
                self._at += len(sign)
                return sign
        return ""

    def _sum(self) -> Number:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Number:
        value = self._signed()
        while True:
            if sign := self._take("*", "/"):
                other = self._signed()
                value = value * other if sign == "*" else value / other
            elif self._text.startswith(("\\", "("), self._at):
                value = value * self._power()  # 2\sqrt{3}, 2(3)
            else:
                return value

    def _signed(self) -> Number:
        if self._take("-"):
            return -self._signed()
        self._take("+")
        return self._power()

    def _power(self) -> Number:
        base = self._atom()
        if not self._take("^"):
            return base
        exponent = self._group() if self._text.startswith("{", self._at) else self._signed()
        is_large = isinstance(base, Fraction) and max(abs(base.numerator), base.denominator) > MAX_BASE
        if abs(float(exponent)) > MAX_EXPONENT or is_large:
            raise ValueError("the power is too large")
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            power: Number = base ** int(exponent)
            return power
        return _root(base, exponent)

    def _group(self) -> Number:
        """Return the value of what stands in braces, or of the next digit or command."""
        if self._take("{"):
            value = self._sum()
            if not self._take("}"):
                raise ValueError("a brace is not closed")
            return value
        digit = self._text[self._at]
        if digit.isdigit():
            self._at += 1
            return Fraction(int(digit))
        return self._atom()

    def _atom(self) -> Number:
        if opened := self._take("(", "{", "["):
            value = self._sum()
            if not self._take({"(": ")", "{": "}", "[": "]"}[opened]):
                raise ValueError("a bracket is not closed")
            return value
        if self._take("\\frac"):
            above = self._group()
            return above / self._group()
        if self._take("\\sqrt"):
            degree: Number = Fraction(2)
            if self._take("["):
                degree = self._sum()
                self._take("]")
            return _root(self._group() if self._text[self._at] in "{\\" else self._atom(), 1 / degree)
        if self._take("\\pi"):
            return math.pi
        found = _DECIMAL.match(self._text, self._at)
        if found is None:
            raise ValueError("no number")
        self._at = found.end()
        return Fraction(found[0].rstrip(".") or "0")


def _root(base: Number, exponent: Number) -> Number:
    """Return base ** exponent of a positive base, exact where it is a rational number."""
    if base < 0:
        raise ValueError("the root of a negative number")
    power: float = float(base) ** float(exponent)
    is_simple = isinstance(exponent, Fraction) and exponent.denominator <= MAX_DEGREE
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and is_simple and abs(power) < 10**12:
        near = Fraction(power).limit_denominator(10**6)
        if near > 0 and near**exponent.denominator == base**exponent.numerator:
            return near
    return power
