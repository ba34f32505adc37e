"""Read how a version of llama.h lays out the three structures that are passed to libllama.

They differ between versions, so nothing is assumed: a layout comes from the header that a build was made with, from the
declarations that a wheel brings, or from known_layouts.json, and `self_test` proves it on the library before its use.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from bitnet_bench.errors import BenchError

SCALARS = {
    "bool": "?",
    "int": "i",
    "int8_t": "b",
    "int32_t": "i",
    "uint32_t": "I",
    "int64_t": "q",
    "uint64_t": "Q",
    "size_t": "N",
    "float": "f",
    "double": "d",
}
"""Format characters of `struct` by C type."""
CALLBACKS = ("llama_progress_callback", "ggml_backend_sched_eval_callback", "ggml_abort_callback")
"""Types of pointers whose declarations have no star; some stand in other headers."""
USED_FIELDS = {
    "llama_model_params": ("n_gpu_layers", "vocab_only"),
    "llama_context_params": ("n_ctx", "n_batch", "n_seq_max", "n_threads", "n_threads_batch"),
    "llama_batch": ("n_tokens", "token", "pos", "n_seq_id", "seq_id", "logits"),
}
"""Fields that a session sets, by structure; a version without one of them is not supported."""
STRUCTURE_BYTES = 1024
"""Room for a structure of any version. They are passed in memory, where a callee reads no more than its own size."""
KNOWN_FILE = "known_layouts.json"
"""[offset in bytes, format character of `struct`] of every field on 64-bit machines, by version and structure."""
REGISTER_BYTES = 16
"""Size up to which a structure is passed in registers instead (System V, AArch64); none of libllama's is so small."""


@dataclass(frozen=True)
class Field:
    """Place of one field: its offset in bytes, and its format character in `struct`."""

    offset: int
    format: str

    def read(self, data: memoryview) -> Any:
        """Return the field's value in the structure *data*."""
        return struct.unpack_from(f"@{self.format}", data, self.offset)[0]

    def write(self, data: memoryview, value: Any) -> None:
        """Set the field in the structure *data*."""
        struct.pack_into(f"@{self.format}", data, self.offset, value)


Structure = Mapping[str, Field]


@dataclass(frozen=True)
class Layout:
    """Layouts of the structures that a session passes, and where they were read."""

    source: str
    model: Structure
    context: Structure
    batch: Structure
    tokenizes_with_model: bool
    """Whether llama_tokenize takes the model, as in older versions and in ik_llama.cpp, and not its vocabulary."""


def read_layout(header: str, source: str) -> Layout:
    """Return the layout that the text *header* of a llama.h declares; BenchError names what is not understood."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    subject = re.search(r"\bllama_tokenize\s*\(\s*const\s+struct\s+llama_(model|vocab)\b", text)
    if subject is None:
        raise _make_error(source, "it declares no llama_tokenize")
    model, context, batch = (_read_structure(text, name, source) for name in USED_FIELDS)
    return Layout(source, model, context, batch, subject[1] == "model")


@cache
def list_known_layouts() -> tuple[Layout, ...]:
    """Return the layouts in `KNOWN_FILE`, newest first: versions of llama.cpp that came in wheels without a header."""
    known = json.loads(resources.files(__package__).joinpath(KNOWN_FILE).read_text(encoding="utf-8"))
    return tuple(make_layout(f"llama.cpp {version}", parts) for version, parts in known.items())


def make_layout(source: str, parts: Mapping[str, Any]) -> Layout:
    """Return a layout from JSON that gives [offset, format character] of each field by the names of `USED_FIELDS`."""
    model, context, batch = ({name: Field(*place) for name, place in parts[one].items()} for one in USED_FIELDS)
    return Layout(source, model, context, batch, parts["tokenizes_with_model"])


def _read_structure(text: str, name: str, source: str) -> Structure:
    found = re.search(rf"struct\s+{name}\s*\{{(.*?)\}}", text, re.DOTALL)
    if found is None:
        raise _make_error(source, f"it declares no struct {name}")
    fields: dict[str, Field] = {}
    offset = 0
    for declaration in found[1].split(";"):
        words = " ".join(declaration.split())
        if words:
            code, names = _read_declaration(words, text, source)
            size = struct.calcsize(code)
            for field in names:
                offset = -(-offset // size) * size
                fields[field] = Field(offset, code)
                offset += size
    missing = [field for field in USED_FIELDS[name] if field not in fields]
    if missing or not REGISTER_BYTES < offset <= STRUCTURE_BYTES:
        raise _make_error(source, f"its {name} has no {missing[0]}" if missing else f"its {name} is {offset} bytes")
    return fields


def _read_declaration(words: str, text: str, source: str) -> tuple[str, list[str]]:
    """Return the format character and the names of a declaration such as `enum ggml_type type_k, type_v`."""
    parts = re.fullmatch(r"(?:const )?(enum |struct )?(\w+)((?: ?\* ?(?:const)?)*) ?(\w+(?: ?, ?\w+)*)", words)
    if parts is None:
        raise _make_error(source, f"`{words}` is not understood")
    kind, base, stars, names = parts.groups()
    aliased = re.search(rf"\btypedef\s+(\w+)\s+{base}\s*;", text)
    if stars or base in CALLBACKS:
        code: str | None = "P"
    elif kind == "enum ":
        code = "i"
    else:
        code = None if kind else SCALARS.get(aliased[1] if aliased else base)
    if code is None:
        raise _make_error(source, f"`{words}` is not understood")
    return code, [name.strip() for name in names.split(",")]


def _make_error(source: str, what: str) -> BenchError:
    return BenchError(
        f"The interface that {source} declares is not supported: {what}.",
        "Use the wheel of the extra `llamacpp`, or another version of the library.",
    )
