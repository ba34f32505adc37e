"""Prove, in a process of its own, that a layout is a library's: `python -m bitnet_bench.backends.libllama.self_test`.

A wrong offset makes libllama read other fields than were meant, or crash. So the defaults that it returns are compared
with those that every version has, a tiny file is loaded and read, and what was set is read back through its getters.
Each step is printed before it is tried: if the process ends, the last line says where.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_bench.backends.libllama.layouts import USED_FIELDS, Layout, Structure, make_layout
from bitnet_bench.backends.libllama.library import Calls, LlamaLibrary
from bitnet_bench.backends.libllama.tiny_gguf import VOCABULARY, write_tiny_gguf
from bitnet_bench.backends.libllama.token_batch import TokenBatch
from bitnet_bench.errors import BenchError

CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "type_k": 1, "type_v": 1}
CONTEXT_DEFAULTS |= {"embeddings": False, "offload_kqv": True}
MODEL_DEFAULTS = {"vocab_only": False, "split_mode": 1, "main_gpu": 0, "check_tensors": False}
"""Defaults of llama.cpp since 2024, of bitnet.cpp and of ik_llama.cpp; a field that a version lacks is not compared."""
TOKENS, SEQUENCES, THREADS = 512, 3, 1
GETTERS = {"llama_n_ctx": TOKENS, "llama_n_ctx_seq": TOKENS, "llama_n_threads": THREADS}
GETTERS |= {"llama_n_threads_batch": THREADS}
TEXT = "가a"
LARGEST_DIFFERENCE = 1e-2
"""Largest difference of a logit between sequences side by side and one alone."""


class LayoutError(Exception):
    """What shows that the layout is not the library's."""


def main() -> int:
    """Test the library and the layout in the JSON of the first argument; print the result as the last line."""
    asked = json.loads(sys.argv[1])
    try:
        found = test(Path(asked["library"]), make_layout(asked["layout"]["source"], asked["layout"]))
    except (LayoutError, BenchError, MemoryError) as error:
        print(json.dumps({"fault": getattr(error, "problem", None) or str(error)}))
        return 1
    print(json.dumps(found))
    return 0


def save_fields(layout: Layout) -> dict[str, Any]:
    """Return *layout* as `make_layout` reads it, with its source."""
    parts = dict(zip(USED_FIELDS, (layout.model, layout.context, layout.batch), strict=True))
    saved = {key: {name: (f.offset, f.format) for name, f in part.items()} for key, part in parts.items()}
    return {"source": layout.source, "tokenizes_with_model": layout.tokenizes_with_model, **saved}


def test(library: Path, layout: Layout) -> dict[str, Any]:
    """Return what the library says of itself; raise LayoutError if *layout* is not its own."""
    _say("loading it")
    calls = Calls(library)
    _say("reading its defaults")
    _check_defaults(layout.model, calls.model_defaults(), MODEL_DEFAULTS)
    _check_defaults(layout.context, calls.context_defaults(), CONTEXT_DEFAULTS)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "tiny.gguf"
        write_tiny_gguf(file)
        _say("reading a vocabulary")
        _check_vocabulary(LlamaLibrary(calls, layout, file, vocabulary_only=True))
        _say("loading a model")
        _check_model(calls, LlamaLibrary(calls, layout, file))
    return {"gpu": calls.computes_on_gpu, "version": calls.describe_version()}


def _say(step: str) -> None:
    print(step, flush=True)


def _check_defaults(structure: Structure, defaults: Any, expected: dict[str, Any]) -> None:
    """Compare a structure that the library returned with *expected*."""
    view = memoryview(defaults).cast("B")
    found = {name: field.read(view) for name, field in structure.items() if field.format != "?"}
    found |= {name: view[field.offset] for name, field in structure.items() if field.format == "?"}
    for name, value in found.items():
        kind = structure[name].format
        if _is_impossible(kind, value) or value != expected.get(name, value):
            raise LayoutError(f"the default of {name} is {value}")
    if found.get("n_threads") != found.get("n_threads_batch") or not 0 < found.get("n_threads", 1) < 4096:
        raise LayoutError(f"the default of n_threads is {found.get('n_threads')}")


def _is_impossible(kind: str, value: Any) -> bool:
    """Return whether no default of the kind of field has this *value*: pointers are null, and floats are numbers."""
    if kind == "f":
        return not math.isfinite(value)
    return bool(value != 0) if kind == "P" else kind == "?" and value > 1


def _check_vocabulary(library: LlamaLibrary) -> None:
    if library.vocabulary != VOCABULARY:
        raise LayoutError(f"a vocabulary of {VOCABULARY} tokens is read as {library.vocabulary}")
    if library.tokenize(TEXT) != list(TEXT.encode()):
        raise LayoutError(f"{TEXT!r} becomes the tokens {library.tokenize(TEXT)}")
    library.close()


def _check_model(calls: Calls, library: LlamaLibrary) -> None:
    _say("making a context")
    context = library.make_context(TOKENS, SEQUENCES, THREADS)
    for getter, wanted in GETTERS.items():
        if calls.read_number(getter, context) not in (None, wanted):
            raise LayoutError(f"{getter} says {calls.read_number(getter, context)} where {wanted} was set")
    _say("reading tokens")
    rows = [list(range(60)), [9], list(range(200, 240))]
    together = _read(library, rows)
    if [library.count_held_tokens(row) for row in range(len(rows))] != [len(row) for row in rows]:
        raise LayoutError("sequences side by side are not kept apart")
    alone = np.concatenate([_read(library, [row]) for row in rows])
    if not np.isfinite(together).all() or np.abs(together - alone).max() > LARGEST_DIFFERENCE:
        raise LayoutError("sequences side by side have other logits than alone")
    library.close()


def _read(library: LlamaLibrary, rows: list[list[int]]) -> Any:
    """Return the logits of every token of *rows*."""
    library.forget()
    lengths = [len(row) for row in rows]
    ids = np.concatenate([np.array(row, np.int32) for row in rows])
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    sequences = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
    library.read(TokenBatch(ids, positions, sequences, np.ones(len(ids), np.int8)))
    return library.logits(len(ids)).copy()


if __name__ == "__main__":
    sys.exit(main())
