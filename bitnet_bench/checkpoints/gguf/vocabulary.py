"""Write a checkpoint's tokenizer into the fields of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError
from bitnet_bench.json_files import read_json_object

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
LLAMA3_DIGITS, QWEN2_DIGITS = r"\p{N}{1,3}", r"\p{N}|"
WHOLE_TOKENIZER_KEY = "tokenizer.huggingface.json"
"""Field of the GGUF specification that holds a whole tokenizer.json; llama.cpp does not read it."""
GPT2_SPLIT = "gpt-2"
"""Name in llama.cpp of the expression that GPT-2's byte-level tokenizer splits text by."""


def add_vocabulary(writer: Any, tokenizer: Any, folder: Path, size: int, ends: Iterable[int] = ()) -> None:
    """Write the tokens, merges and special tokens of the fast *tokenizer*, padded to *size* tokens.

    *ends* are all tokens that end an answer.
    """
    said = read_json_object(folder / "tokenizer.json", "GGUF export reads the vocabulary from it.")
    model = said.get("model")
    if not isinstance(model, dict):
        raise BenchError(f"{folder / 'tokenizer.json'} has no `model`.", "Save the tokenizer again.")
    if model.get("type") != "BPE":
        raise BenchError(
            f"{folder} has a tokenizer of type {model.get('type')}, and only BPE is exported.",
            "GGUF export takes byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece BPE (Llama 2).",
        )
    tokens, kinds = _list_tokens(tokenizer, model, said.get("added_tokens", []), size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(i) for i in range(size)])  # earlier merges have priority
        writer.add_add_space_prefix(_adds_space(said))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(find_pre_tokenizer(said.get("pre_tokenizer") or {}))
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # as it is used, whatever the file says
    writer.add_string(WHOLE_TOKENIZER_KEY, tokenizer.backend_tokenizer.to_str())
    _add_special(writer, tokenizer, ends)


def find_pre_tokenizer(pre_tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how *pre_tokenizer* of a tokenizer.json splits text; its `default` if unknown.

    A wrong name is found by the parity check, which compares ids.
    """
    text = json.dumps(pre_tokenizer, ensure_ascii=False).replace("\\\\", "\\")
    if LLAMA3_DIGITS in text:
        return "llama-bpe"
    if QWEN2_DIGITS in text:
        return "qwen2"
    return GPT2_SPLIT if '"use_regex": true' in text or '"ByteLevel"' in text else "default"


def _list_tokens(
    tokenizer: Any, model: Mapping[str, Any], added: list[dict[str, Any]], size: int
) -> tuple[list[bytes], list[int]]:
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    special = {entry["id"]: entry["special"] for entry in added}
    tokens, kinds = [], []
    for index in range(size):
        name = names.get(index)
        tokens.append((f"[PAD{index}]" if name is None else name).encode())
        kinds.append(_classify_token(name, special.get(index), bool(model.get("byte_fallback"))))
    return tokens, kinds


def _classify_token(name: str | None, special: bool | None, fallback: bool) -> int:
    if name is None:
        return UNUSED
    if special is not None:
        return CONTROL if special else USER_DEFINED
    return BYTE if fallback and len(name) == len("<0x00>") and name.startswith("<0x") else NORMAL


def _adds_space(said: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json puts a space before text, as Llama 2 does and Gemma does not."""
    text = json.dumps([said.get("normalizer"), said.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"prepend_scheme": "always"' in text


def _add_special(writer: Any, tokenizer: Any, ends: Iterable[int]) -> None:
    for add, index in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if index is not None:
            add(index)
    others = sorted(set(ends) - {tokenizer.eos_token_id})
    for add, index in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(index)
    begins = tokenizer("").input_ids
    writer.add_add_bos_token(bool(begins) and begins[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
