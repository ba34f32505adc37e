"""Build a tokenizer from the metadata of a GGUF file, as the folder that the file was made from has it.

`tokenizer.huggingface.json`, a field of the GGUF specification that `convert --to gguf-...` writes, holds it whole.
Other files hold tokens, and merges or scores; how text is split before that is a name in `tokenizer.ggml.pre`, whose
meanings are those of llama.cpp (`src/llama-vocab.cpp` at 00ad355). transformers reads such files too, but takes a name
that it does not know for GPT-2's, adds no BOS, and has the code elsewhere in each release.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitnet_bench.checkpoints.gguf.vocabulary import CONTROL, GPT2_SPLIT, USER_DEFINED, WHOLE_TOKENIZER_KEY
from bitnet_bench.errors import BenchError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PREFIX = "tokenizer.ggml."
LLAMA3_SPLIT = "llama-bpe"
LLAMA3_FIRST_SPECIAL = "<|begin_of_text|>"
GPT2_SPLITS = {GPT2_SPLIT, "gpt2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"}
"""Names of GPT-2's expression, which `ByteLevel` of the tokenizers library has built in."""
DIGIT_SPLITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}
"""Names of GPT-2's expression after every digit has been split off."""
WHOLE_WORD_SPLITS = {
    "llama3",
    "llama-v3",
    LLAMA3_SPLIT,
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
}
"""Names whose words are taken whole if they are tokens, whatever the merges are (`ignore_merges`)."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_WORD}{_UPPER}*{_LOWER}+|{_WORD}{_UPPER}+{_LOWER}*|\p{{N}}{_REST}"
_GPT4O = rf"{_WORD}{_UPPER}*{_LOWER}+{_SHORT}|{_WORD}{_UPPER}+{_LOWER}*{_SHORT}|\p{{N}}{{1,3}}{_REST}"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
EXPRESSIONS = {
    **dict.fromkeys(
        ("llama3", "llama-v3", LLAMA3_SPLIT, "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _GPT4O),
    "qwen35": _QWEN35,
    "tekken": _TEKKEN,
}
"""Regular expression by name."""
COMPOSED_SPLITS = {"qwen2", "qwen35"}
"""Names whose published tokenizers bring text to NFC first; a GGUF does not say so."""
GIVE_TOKENIZER_HINT = "Give `tokenizer`: a folder or a hub id that has the model's tokenizer."
_log = logging.getLogger(__name__)


def save_tokenizer(path: Path, fields: Mapping[str, Any], folder: Path) -> None:
    """Write the tokenizer of the file *path* with the metadata *fields* into *folder*; BenchError if it has none.

    It is written from the tokenizers library itself: transformers copies a tokenizer twice before it saves one, which
    takes twice the memory that building it does.
    """
    tokens = fields.get(f"{PREFIX}tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise BenchError(f"{path} holds no tokenizer.", GIVE_TOKENIZER_HINT)
    named: dict[str, str] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = fields.get(f"{PREFIX}{theirs}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            named[f"{ours}_token"] = tokens[index]
    backend = _build_backend(path, fields, tokens, named)
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _build_backend(path: Path, fields: Mapping[str, Any], tokens: list[str], named: Mapping[str, str]) -> Tokenizer:
    from tokenizers import Tokenizer

    whole = fields.get(WHOLE_TOKENIZER_KEY)
    try:
        if isinstance(whole, str):
            return Tokenizer.from_str(whole)
        kind = fields.get(f"{PREFIX}model")
        if kind not in ("gpt2", "llama"):
            raise BenchError(f"{path} has a tokenizer of the kind {kind}, which is not read.", GIVE_TOKENIZER_HINT)
        backend = _build_bytes(path, fields, tokens) if kind == "gpt2" else _build_pieces(fields, tokens)
    except BenchError:
        raise
    except Exception as error:  # the tokenizers library has no class of its own for them
        what = f"{path} holds a tokenizer that cannot be built: {str(error).splitlines()[0]}"
        raise BenchError(what.rstrip(".") + ".", GIVE_TOKENIZER_HINT) from error
    _add_whole_tokens(backend, fields, tokens)
    _add_begin_and_end(backend, fields, named)
    return backend


def _build_bytes(path: Path, fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = _find_split(path, fields, tokens)
    merges = [_cut_merge(merge) for merge in fields[f"{PREFIX}merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split in WHOLE_WORD_SPLITS))
    if split in DIGIT_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split in GPT2_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif split in EXPRESSIONS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(EXPRESSIONS[split]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise BenchError(
            f"{path} splits text in a way called {split or 'nothing at all'}, which is not known here.",
            GIVE_TOKENIZER_HINT,
        )
    if split in COMPOSED_SPLITS:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _cut_merge(merge: str) -> tuple[str, str]:
    """Return the two pieces of a merge, of which the first may begin with the space that parts them."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def _find_split(path: Path, fields: Mapping[str, Any], tokens: list[str]) -> str:
    """Return the name of how text is split; of a file that names none, Llama 3's if it has Llama 3's tokens.

    bitnet.cpp's converter writes no name, into its own file of BitNet 2B-4T neither.
    """
    split = fields.get(f"{PREFIX}pre")
    if not isinstance(split, str) and LLAMA3_FIRST_SPECIAL in tokens:
        _log.warning("%s does not say how it splits text; it has the tokens of Llama 3, and is read as that.", path)
        return LLAMA3_SPLIT
    return str(split or "")


def _build_pieces(fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Return a SentencePiece BPE tokenizer, which merges the pieces of the best score first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    is_gemma = str(fields.get("general.architecture")).startswith("gemma")
    if is_gemma:  # its runs of spaces are stored as such, and its scores are not in the order of its merges
        tokens = ["▁" * len(token) if not token.strip(" ") else token for token in tokens]
        scores: list[float] = [-float(index) for index in range(len(tokens))]
    else:
        scores = fields[f"{PREFIX}scores"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = fields.get(f"{PREFIX}unknown_token_id", 0)
    merges = _derive_merges(tokens, scores)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True))
    prefix = bool(fields.get(f"{PREFIX}add_space_prefix", not is_gemma))
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _derive_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return every pair of tokens that make another one, that of the best score first.

    They are sorted as columns of numbers: as tuples, the half million pairs of a large vocabulary take 200 MiB.
    """
    indexes = {token: index for index, token in enumerate(tokens)}
    made, lefts, rights = array("i"), array("i"), array("i")
    for token, index in indexes.items():
        for at in range(1, len(token)):
            left, right = indexes.get(token[:at]), indexes.get(token[at:])
            if left is not None and right is not None:
                made.append(index)
                lefts.append(left)
                rights.append(right)
    lengths = np.array([len(tokens[index]) for index in lefts])
    ranks = np.asarray(scores, dtype=np.float64)[np.asarray(made)]
    order = np.lexsort((np.asarray(rights), np.asarray(lefts), -lengths, -ranks))
    return [(tokens[lefts[place]], tokens[rights[place]]) for place in order.tolist()]


def _add_whole_tokens(backend: Tokenizer, fields: Mapping[str, Any], tokens: list[str]) -> None:
    """Let *backend* find control tokens and those of the user's own whole in a text."""
    from tokenizers import AddedToken

    kinds = fields.get(f"{PREFIX}token_type") or []
    known = backend.get_vocab()
    for kind, add in ((CONTROL, backend.add_special_tokens), (USER_DEFINED, backend.add_tokens)):
        named = [token for token, own in zip(tokens, kinds, strict=False) if own == kind and token in known]
        add([AddedToken(token, normalized=False, special=kind == CONTROL) for token in named])


def _add_begin_and_end(backend: Tokenizer, fields: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Let *backend* add the first and last tokens that the file names; llama.cpp's defaults if it does not say."""
    from tokenizers import processors

    pieces = fields[f"{PREFIX}model"] == "llama" or fields.get(f"{PREFIX}pre") in WHOLE_WORD_SPLITS
    begin = named.get("bos_token") if fields.get(f"{PREFIX}add_bos_token", pieces) else None
    end = named.get("eos_token") if fields.get(f"{PREFIX}add_eos_token", False) else None
    around = [name for name in (begin, "$A", end) if name]
    known = {name: backend.token_to_id(name) for name in (begin, end) if name}
    template = processors.TemplateProcessing(
        single=around,
        pair=[*around, *(name.replace("$A", "$B") for name in around)],
        special_tokens=list(known.items()),
    )
    backend.post_processor = template
