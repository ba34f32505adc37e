"""Build a tokenizer from the metadata of a GGUF file, as the folder that the file was made from has it.

`tokenizer.huggingface.json`, a field of the GGUF specification that `convert --to gguf-...` writes, holds it whole. Of
other files transformers builds it from tokens and merges; how text is split before that is a name in
`tokenizer.ggml.pre`, whose meanings are those of llama.cpp (`src/llama-vocab.cpp` at 00ad355).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench.checkpoints.gguf.vocabulary import GPT2_SPLIT, WHOLE_TOKENIZER_KEY
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
COMPOSED_SPLITS = {"qwen2", "qwen35"}
"""Names whose published tokenizers bring text to NFC first; a GGUF does not say so."""
GIVE_TOKENIZER_HINT = "Give `tokenizer`: a folder or a hub id that has the model's tokenizer."
_log = logging.getLogger(__name__)


def build_tokenizer(path: Path, fields: Mapping[str, Any]) -> Any:
    """Return the fast tokenizer of the file *path* with the metadata *fields*; BenchError if it cannot be built."""
    from transformers import PreTrainedTokenizerFast

    tokens = fields.get(f"{PREFIX}tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise BenchError(f"{path} holds no tokenizer.", GIVE_TOKENIZER_HINT)
    named: dict[str, str] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = fields.get(f"{PREFIX}{theirs}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            named[f"{ours}_token"] = tokens[index]
    made = PreTrainedTokenizerFast(tokenizer_object=_build_backend(path, fields, tokens, named), **named)
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        made.chat_template = template
    return made


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
    _add_begin_and_end(backend, fields, named)
    return backend


def _build_bytes(path: Path, fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    split = _find_split(path, fields, tokens)
    backend = _convert(fields, tokens, split)
    if split in DIGIT_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split not in GPT2_SPLITS and split not in mapping.GGUF_PRE_TOKENIZER_SPLITS:
        raise BenchError(
            f"{path} splits text in a way called {split or 'nothing at all'}, which is not known here.",
            GIVE_TOKENIZER_HINT,
        )
    if split in WHOLE_WORD_SPLITS:
        backend.model.ignore_merges = True
    if split in COMPOSED_SPLITS:
        backend.normalizer = normalizers.NFC()
    return backend


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
    """Return a SentencePiece BPE tokenizer."""
    from tokenizers import decoders, normalizers

    architecture = str(fields.get("general.architecture"))
    backend = _convert(fields, tokens, None)
    if architecture.startswith("gemma"):
        return backend
    prefix = bool(fields.get(f"{PREFIX}add_space_prefix", True))
    spaces = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence([*([normalizers.Prepend("▁")] if prefix else []), *spaces])
    backend.pre_tokenizer = None
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _convert(fields: Mapping[str, Any], tokens: list[str], split: str | None) -> Tokenizer:
    """Return the tokenizer that transformers builds of tokens, merges or scores, and kinds of tokens."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    given = {"tokenizer_type": fields[f"{PREFIX}model"], "pre_tokenizer_type": split, "tokens": tokens}
    for name in ("merges", "scores", "token_type"):
        if f"{PREFIX}{name}" in fields:
            given[name] = fields[f"{PREFIX}{name}"]
    made: Tokenizer = mapping.convert_gguf_tokenizer(str(fields.get("general.architecture")), given)[0]
    return made


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
