"""Encode texts to token ids, word by word where the tokenizer provably cuts texts there: words recur, texts do not."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

MAX_WORDS = 1 << 17
"""Words that a memory of ids holds; when it is full, it becomes the older one of two, and the oldest is forgotten."""
MAX_WORD_LENGTH = 64
"""Characters of a word that is remembered."""
IDS = np.int32
ID_BYTES = 4
_DISPUTED = re.compile("[\x1c-\x1f\x85\u180e\u200b\ufeff]")
"""Characters that only one of Python and the tokenizers library, in any of its versions, counts as white space."""
_WORDS_AND_LINES = re.compile(r"(?:^\s\s+| ?)\S+(?:\s\s+\S+)*|\s+")
"""Words with the space before them, and single line ends. Words stay together around longer white space, the parts of
which depend on whether a special token follows."""
_WORDS = re.compile(r"(?:^\s+| ?)\S+(?:(?:\s\s+|[^\S ])\S+)*(?:\s+$)?|\s+")
"""Words with the space before them. Words stay together around all other white space."""
_CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_PATTERNS = {_CL100K % r"\p{N}", _CL100K % r"\p{N}{1,3}"}
"""Patterns of Qwen's and Llama 3's tokenizers. None of their alternatives goes from a visible character on to a space,
but some go on to a line end."""

ADDING_STEPS = ("TemplateProcessing", "ByteLevel")
"""Post-processors that add the same tokens to every text, or none."""


def begins_with_bos(text: str, tokenizer: Any) -> bool:
    """Return whether *text* has its own BOS, so that the tokenizer adds none: the rule of training and evaluation."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


class TextEncoder:
    """Encodes texts as a tokenizer does, with the rule of training and evaluation for BOS and EOS."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._cut = _find_cut(tokenizer)
        self._known: dict[str, bytes] = {}
        self._older: dict[str, bytes] = {}
        self._around: tuple[np.ndarray, np.ndarray] | None = None

    def encode(self, texts: Sequence[str], begins: Sequence[bool]) -> list[np.ndarray]:
        """Return ids of each text, with BOS as the tokenizer adds it unless *begins* says that the text has it.

        An EOS that the tokenizer adds is dropped: rows have theirs in the text, so that each response ends with one.
        """
        if not texts:
            return []
        before, after = self._find_added()
        if before is None:
            return self._encode_adding(texts, begins)
        encoded = self._encode_by_words(texts)
        if not len(before) + len(after):
            return encoded
        return [
            ids if present else np.concatenate((before, ids, after))
            for ids, present in zip(encoded, begins, strict=True)
        ]

    def encode_with_cuts(
        self, texts: Sequence[str], begins: Sequence[bool], cuts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yield the ids of each text, and how many of them lie before each of its *cuts*, which are places in the text.

        These are the leading ids that the text before the cut, encoded alone, shares with the whole text.
        """
        before, after = self._find_added() if texts else (None, None)
        if before is None or after is None or len(after):
            yield from self._encode_cuts_apart(texts, begins, cuts)
            return
        words = [self._cut_words(text) for text in texts]
        tails = [list(self._cut_tails(*one)) for one in zip(texts, words, cuts, strict=True)]
        found = self._look_up([*words, *(tail for of_text in tails for _, tail in of_text if tail)])
        of_tails = iter(found[len(words) :])
        for of_words, of_text, has_own in zip(found[: len(words)], tails, begins, strict=True):
            ids = _join_ids(of_words)
            added = 0 if has_own else len(before)
            shared = []
            for kept, tail in of_text:
                start = sum(map(len, of_words[:kept])) // ID_BYTES
                more = _count_shared(_join_ids(next(of_tails)), ids[start:]) if tail else 0
                shared.append(added + start + more)
            yield np.concatenate((before, ids)) if added else ids, shared

    def _cut_tails(self, text: str, words: Sequence[str], cuts: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        """Yield for each cut of *text* how many of its *words* the text before it has, and its other words.

        A word depends on what follows it up to the next visible character alone: those before the word that holds the
        last visible character before the cut are the same.
        """
        assert self._cut is not None
        ends = list(accumulate(map(len, words)))
        for cut in cuts:
            if cut >= len(text):
                yield len(words), []
                continue
            last = len(text[:cut].rstrip()) - 1
            if len(words) == 1 or last < 0:
                yield 0, self._cut_words(text[:cut])
                continue
            kept = bisect_right(ends, last)
            tail = self._cut.findall(text, ends[kept - 1] if kept else 0, cut)
            if tail == words[kept : kept + len(tail)]:
                kept, tail = kept + len(tail), []
            yield kept, tail

    def _encode_cuts_apart(
        self, texts: Sequence[str], begins: Sequence[bool], cuts: Sequence[Sequence[int]]
    ) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yield what `encode_with_cuts` does, with each text before a cut encoded on its own."""
        parts = [
            (text, *(text[:cut] for cut in some if cut < len(text))) for text, some in zip(texts, cuts, strict=True)
        ]
        have_own = [has_own for has_own, some in zip(begins, parts, strict=True) for _ in some]
        encoded = iter(self.encode([part for some in parts for part in some], have_own))
        for text, some in zip(texts, cuts, strict=True):
            ids = next(encoded)
            yield ids, [_count_shared(next(encoded), ids) if cut < len(text) else len(ids) for cut in some]

    def _encode_adding(self, texts: Sequence[str], begins: Sequence[bool]) -> list[np.ndarray]:
        """Return what `encode` does, by the tokenizer alone."""
        encoded: list[Any] = [None] * len(texts)
        drops = self._drops_eos()
        for present in (False, True):
            members = [i for i, has in enumerate(begins) if has is present]
            if members:
                batch = self._call([texts[i] for i in members], adds=not present)
                for i, ids in zip(members, batch, strict=True):
                    encoded[i] = np.asarray(ids[:-1] if drops and not present else ids, IDS)
        return encoded

    def _drops_eos(self) -> bool:
        bare = self._call(["가"], adds=True)[0]
        return len(bare) > 1 and bare[-1] == self.tokenizer.eos_token_id

    def _call(self, texts: list[str], adds: bool) -> Any:
        return self.tokenizer(texts, add_special_tokens=adds, verbose=False).input_ids

    def _find_added(self) -> tuple[Any, Any]:
        """Return the ids that the tokenizer adds before and after a text, without EOS; (None, None) if not known."""
        if self._cut is None:
            return None, None
        if self._around is None:
            with_them, inner = (self._call(["가"], adds)[0] for adds in (True, False))
            at = next(i for i in range(len(with_them)) if with_them[i : i + len(inner)] == inner)
            after = with_them[at + len(inner) : len(with_them) - self._drops_eos()]
            self._around = np.asarray(with_them[:at], IDS), np.asarray(after, IDS)
        return self._around

    def _encode_by_words(self, texts: Sequence[str]) -> list[np.ndarray]:
        return list(map(_join_ids, self._look_up([self._cut_words(text) for text in texts])))

    def _look_up(self, words: Sequence[list[str]]) -> list[list[bytes]]:
        """Return the ids of lists of words."""
        found: list[list[Any]] = [list(map(self._known.get, some)) for some in words]
        lacking = [i for i, ids in enumerate(found) if None in ids]
        missing = {word for i in lacking for word, ids in zip(words[i], found[i], strict=True) if ids is None}
        new = {word: ids for word in missing if (ids := self._older.get(word)) is not None}
        unknown = [word for word in missing if word not in new]
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(unknown, add_special_tokens=False)
        new |= {word: np.asarray(one.ids, IDS).tobytes() for word, one in zip(unknown, encoded, strict=True)}
        for i in lacking:
            found[i] = [new[word] if ids is None else ids for word, ids in zip(words[i], found[i], strict=True)]
        if len(self._known) + len(new) > MAX_WORDS:
            self._older, self._known = self._known, {}
        self._known |= {word: ids for word, ids in new.items() if len(word) <= MAX_WORD_LENGTH}
        return found

    def _cut_words(self, text: str) -> list[str]:
        assert self._cut is not None
        return [text] if _DISPUTED.search(text) else self._cut.findall(text)


def _join_ids(words: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(words), IDS)


def _count_shared(prefix: np.ndarray, ids: np.ndarray) -> int:
    """Return how many leading tokens two sequences have in common."""
    length = min(len(prefix), len(ids))
    differing = np.flatnonzero(prefix[:length] != ids[:length])
    return int(differing[0]) if len(differing) else length


def _find_cut(tokenizer: Any) -> re.Pattern[str] | None:
    """Return the pattern of words between which *tokenizer* cuts every text before its model sees it; None if unknown.

    A normalizer other than NFC, a model that
    draws lots, and special tokens that look at their neighbours or hold white space are not known to leave these cuts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "split_special_tokens", False) or getattr(backend.model, "dropout", None):
        return None
    if _describe(backend.normalizer).get("type", "NFC") != "NFC":
        return None
    for token in tokenizer.added_tokens_decoder.values():
        if token.lstrip or token.rstrip or token.single_word or re.search(r"\s", token.content):
            return None
    after = _describe(backend.post_processor)
    if any(one.get("type") not in ADDING_STEPS for one in after.get("processors", [after] if after else [])):
        return None
    steps = _describe(backend.pre_tokenizer)
    listed = steps.get("pretokenizers", [steps])
    if listed and listed[0].get("type") == "Digits":  # cuts between characters, and joins none
        listed = listed[1:]
    return _find_cut_of_steps(listed)


def _find_cut_of_steps(steps: Sequence[dict[str, Any]]) -> re.Pattern[str] | None:
    """Return the pattern of words between which the pre-tokenizers *steps*, as JSON of their library, cut a text."""
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    if not before:
        return _WORDS_AND_LINES if last.get("use_regex") else None
    is_known = (
        len(before) == 1
        and before[0].get("type") == "Split"
        and before[0].get("pattern", {}).get("Regex") in SPLIT_PATTERNS
        and before[0].get("behavior") == "Isolated"
        and not before[0].get("invert")
    )
    return _WORDS if is_known else None


def _describe(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as JSON; {} if there is none."""
    return {} if part is None else dict(json.loads(part.__getstate__()))
