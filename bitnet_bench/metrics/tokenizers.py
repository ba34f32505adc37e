"""The tokenizers of ROUGE and METEOR, each with a name that includes its version."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from bitnet_bench.errors import BenchError

PROBE_SENTENCE = "한국어 문장을 3개 나눈다."


class Tokenizer:
    """rouge_score's tokenizer protocol, over text in NFC."""

    def __init__(self, name: str, split: Callable[[str], list[str]]) -> None:
        self.name = name
        self._split = split

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of *text*."""
        return self._split(unicodedata.normalize("NFC", text))


@cache
def load_metric_tokenizer(key: str) -> Tokenizer:
    """Return the tokenizer *key*; BenchError if it is unknown or would drop Hangul."""
    if key not in _TOKENIZERS:
        raise BenchError(f"There is no tokenizer {key!r}.", f"There are: {', '.join(_TOKENIZERS)}.")
    found = _TOKENIZERS[key]()
    check_hangul(key, found.tokenize(PROBE_SENTENCE))
    return found


def check_hangul(key: str, tokens: list[str]) -> None:
    """Raise BenchError if *tokens* of `PROBE_SENTENCE` lack its Hangul: a score over the rest would be wrong."""
    if PROBE_SENTENCE.split()[0] not in "".join(tokens):  # a tokenizer may respell morphemes, not this noun
        raise BenchError(
            f"The tokenizer {key!r} drops Hangul, so that Korean scores 0, or a false 100 where digits agree.",
            "Take one for Korean, such as mecab.",
        )


def _make_mecab() -> Tokenizer:
    from sacrebleu.tokenizers.tokenizer_ko_mecab import TokenizerKoMecab

    mecab = TokenizerKoMecab()
    return Tokenizer(f"mecab-ko-{version('mecab-ko')}", lambda text: list(mecab(text).split()))


def _make_kiwi() -> Tokenizer:
    try:
        from kiwipiepy import Kiwi

        kiwi, name = Kiwi(), f"kiwi-{version('kiwipiepy')}"
    except (ImportError, PackageNotFoundError) as missing:
        raise BenchError(
            "The tokenizer 'kiwi' needs kiwipiepy, which is not installed.", "pip install 'bitnet-bench[kiwi]'"
        ) from missing
    return Tokenizer(name, lambda text: [token.form for token in kiwi.tokenize(text)])


def _make_syllable() -> Tokenizer:
    return Tokenizer("syllable", lambda text: list("".join(text.split())))


def _make_space() -> Tokenizer:
    return Tokenizer("space", str.split)


def _make_rouge_score() -> Tokenizer:
    from rouge_score.tokenizers import DefaultTokenizer

    return Tokenizer("rouge_score", DefaultTokenizer(False).tokenize)


_TOKENIZERS = {
    "mecab": _make_mecab,
    "kiwi": _make_kiwi,
    "syllable": _make_syllable,
    "space": _make_space,
    "rouge_score": _make_rouge_score,
}
