"""Encode texts to token ids, word by word where the tokenizer provably cuts texts there: words recur, texts do not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_WORDS = 1 << 17
"""Words whose ids are remembered; their number bounds memory."""
MAX_WORD_LENGTH = 64
"""Characters of a word that is remembered."""
IDS = np.int32
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
        words = [self._cut_words(text) for text in texts]
        found: list[list[bytes | None]] = [list(map(self._known.get, some)) for some in words]
        lacking = [i for i, ids in enumerate(found) if None in ids]
        missing = list({word for i in lacking for word, ids in zip(words[i], found[i], strict=True) if ids is None})
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(missing, add_special_tokens=False)
        new = {word: np.asarray(one.ids, IDS).tobytes() for word, one in zip(missing, encoded, strict=True)}
        for i in lacking:
            found[i] = [new[word] if ids is None else ids for word, ids in zip(words[i], found[i], strict=True)]
        if len(self._known) + len(new) > MAX_WORDS:
            self._known.clear()
        self._known |= {word: ids for word, ids in new.items() if len(word) <= MAX_WORD_LENGTH}
        return [np.frombuffer(b"".join(ids), IDS) for ids in found]  # type: ignore[arg-type]

    def _cut_words(self, text: str) -> list[str]:
        assert self._cut is not None
        return [text] if _DISPUTED.search(text) else self._cut.findall(text)


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
