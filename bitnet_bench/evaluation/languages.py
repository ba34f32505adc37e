"""Tell the language of a text by its script, and where languages share one, by letters and words that one of them has.

That is a rule that can be read and repeated, and not a statistical guess: it is meant for an answer of a sentence or
more, and returns None for a text without letters or where the languages of its script cannot be told apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

MIN_SHARE = 0.7
"""Share of the letters that have to be of one script; names and terms of another are common."""
SCRIPTS = {
    "HANGUL": "ko", "THAI": "th", "BENGALI": "bn", "GUJARATI": "gu", "GURMUKHI": "pa", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "SINHALA": "si", "GREEK": "el", "HEBREW": "he", "ARMENIAN": "hy",
    "GEORGIAN": "ka", "ETHIOPIC": "am", "KHMER": "km", "LAO": "lo", "MYANMAR": "my",
}  # fmt: skip
"""Languages that have a script of their own here, by the first word of its letters' names in Unicode."""
LETTERS = {
    "CYRILLIC": {"uk": "іїєґ", "ru": "ыэё", "bg": ""},
    "ARABIC": {"ur": "ٹڈڑںےھ", "fa": "پچژگ", "ar": ""},
}
"""Languages of a shared script by letters that only they have here, the one without such letters last."""
WORDS = {
    "DEVANAGARI": {
        "hi": "है हैं और का की के में से को यह था नहीं लिए",
        "mr": "आहे आहेत आणि ची चे मध्ये हे ते होते नाही साठी",
        "ne": "छ छन् र को हो गर्न भएको छैन लागि पनि यो",
    },
    "LATIN": {
        "en": "the and of to in is that it for was with are this you have not be on as they",
        "de": "der die das und ist nicht ein eine zu den mit von für auf ich sie es im dem werden",
        "fr": "le la les et est un une des que pas pour dans qui vous nous au du avec sur ce",
        "es": "el la los las y es un una que de en no por para con del se su como más",
        "pt": "o a os as e é um uma que de em não por para com do da dos se mais você",
        "it": "il la lo gli e è un una che di in non per con del della sono si come più",
        "nl": "de het een en is van niet dat op te in voor met zijn aan er ook maar",
        "sv": "och det att är en ett som på för inte av med den har till om",
        "fi": "ja on ei se että oli hän ovat mutta kun niin myös tai joka olla",
        "sw": "na ya wa kwa ni katika za la yake hii kuwa hiyo watu sana kama",
        "id": "dan yang di untuk dengan ini itu dari adalah tidak pada dalam akan ke",
        "tr": "ve bir bu için ile de da çok olarak daha değil ne gibi olan",
        "pl": "i w na nie się jest że z do to jak ale od za czy",
        "vi": "là và của có không được một người cho trong với những này đã các",
    },
}  # fmt: skip
"""Languages of a shared script by their most frequent words."""
_KANA = ("HIRAGANA", "KATAKANA")
_SYLLABLES = ("HANGUL", "CJK", *_KANA)
"""Scripts whose letters are syllables or more, and count as two."""
_WORD = re.compile(r"[^\W\d_]+(?:[\u0300-\u036f\u0900-\u0dff]+[^\W\d_]*)*")


def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of the language of *text*; None if that cannot be told."""
    scripts: Counter[str] = Counter()
    for letter in filter(str.isalpha, text):
        script = _name_script(letter)
        scripts[script] += 2 if script in _SYLLABLES else 1
    total = scripts.total()
    if not total:
        return None
    if sum(scripts[kana] for kana in _KANA) + scripts["CJK"] >= MIN_SHARE * total:
        return "ja" if any(scripts[kana] for kana in _KANA) else "zh"
    script, count = scripts.most_common(1)[0]
    if count < MIN_SHARE * total:
        return None
    if script in SCRIPTS:
        return SCRIPTS[script]
    if script in LETTERS:
        return next(code for code, letters in LETTERS[script].items() if not letters or any(x in text for x in letters))
    return _detect_by_words(text, WORDS[script]) if script in WORDS else None


def _name_script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ", 1)[0]


def _detect_by_words(text: str, languages: dict[str, str]) -> str | None:
    """Return the language whose frequent words are most of the words of *text*; None if none is, or two are."""
    words = Counter(unicodedata.normalize("NFC", word) for word in _WORD.findall(text.lower()))
    counts = {code: sum(words[word] for word in frequent.split()) for code, frequent in languages.items()}
    (first, most), (_, second) = Counter(counts).most_common(2)
    return first if most > second else None
