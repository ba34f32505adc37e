"""Open a GGUF file as a checkpoint: its metadata as a small folder in the cache, which every reader of folders takes.

The folder holds config.json, generation_config.json, the tokenizer and the chat template, and an index of the tensors.
It is named by the digests of the file, of a tokenizer that is given for it, and of the code that made it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from bitnet_bench.checkpoints.config import ACTIVATIONS_KEY, PRECISION_KEY
from bitnet_bench.checkpoints.detect import PACKED_LAYOUT, PACKED_METHOD, PACKED_VERSION
from bitnet_bench.checkpoints.gguf.cache import find_cache_folder
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, count_types
from bitnet_bench.checkpoints.gguf.gguf_shards import INDEX_NAME, GgufIndex, read_index
from bitnet_bench.checkpoints.gguf.index import (
    LAYER_SUFFIX,
    IndexedTensor,
    has_three_values,
    index_tensors,
    list_rounded_layers,
)
from bitnet_bench.checkpoints.gguf.model_config import make_config, make_generation_config
from bitnet_bench.checkpoints.gguf.naming import QUANTIZES_KEY
from bitnet_bench.checkpoints.gguf.order import find_i2s_order
from bitnet_bench.checkpoints.gguf.parts import list_part_names, list_tensors, open_parts
from bitnet_bench.checkpoints.gguf.tokenizer import save_tokenizer
from bitnet_bench.checkpoints.identity import TOKENIZER_PATTERNS, copy_files, digest_files
from bitnet_bench.checkpoints.inspect import MIN_UNCHANGED_NS, inspect_folder
from bitnet_bench.checkpoints.layouts import make_group_config
from bitnet_bench.checkpoints.shards import hash_files
from bitnet_bench.errors import BenchError
from bitnet_bench.files import explain_disk_errors, write_folder_whole, write_whole
from bitnet_bench.runs.records import Checkpoint

TABLES = ("model.embed_tokens", "lm_head")
"""Embedding and head, which are ternary in files of types with a scale per group."""
FileState = tuple[str, int, int, int]
_digests: dict[tuple[FileState, ...], str] = {}
"""Digests that this process has computed, by path, size, modification time (ns) and inode of each part."""


def open_gguf(path: Path, source: str, tokenizer: Path | None = None, revision: str | None = None) -> Checkpoint:
    """Return what the GGUF file *path* holds, with the tokenizer of the folder *tokenizer* if one is given.

    BenchError if the file is damaged, a part of it is missing, or it is of a model or a type that is not read. One
    whose tokenizer cannot be built is opened without: a tokenizer that is needed later is refused then.
    """
    places = [path.with_name(name) for name in list_part_names(path.name)]
    if not all(place.is_file() for place in places):
        open_parts(path)  # raises, and names those that are missing
    digest = _compute_digest(places)
    given = _describe_tokenizer(tokenizer) if tokenizer else ""
    key = hashlib.sha256(f"{digest} {given} {_digest_code()}".encode()).hexdigest()[:32]
    folder = find_cache_folder() / "views" / key
    with explain_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            _make_or_move(folder, places, digest, tokenizer)
    return inspect_folder(folder, source=source, revision=revision)


def find_source(folder: Path) -> Path | None:
    """Return the GGUF file that *folder* is a view of; None if it is a folder of its own."""
    index = read_index(folder)
    return Path(index.files[0]) if index else None


def _make_or_move(folder: Path, places: Sequence[Path], digest: str, tokenizer: Path | None) -> None:
    """Make the view of *places* if there is none or a damaged one, and note where they are now."""
    files = tuple(str(place.absolute()) for place in places)
    try:
        known = read_index(folder)
    except BenchError:
        known = None
    if known is None:
        _make_view(folder, open_parts(places[0]), digest, tokenizer)
    elif known.files != files:
        write_whole(folder / INDEX_NAME, known.model_copy(update={"files": files}).model_dump_json())


def _make_view(folder: Path, files: list[GgufFile], digest: str, tokenizer: Path | None) -> None:
    places = list_tensors(files)
    config = make_config(files, {name: entry.shape for name, (_, entry) in places.items()})
    tensors, sizes = index_tensors(files), count_types(entry for _, entry in places.values())
    problem = None
    with write_folder_whole(folder, last=INDEX_NAME) as partial:
        if tokenizer:
            copy_files(tokenizer, partial, TOKENIZER_PATTERNS)
        else:
            try:
                save_tokenizer(files[0].path, files[0].fields, partial)
            except BenchError as error:
                problem = error.problem, error.hint
        _write_json(partial / "config.json", config | _mark_format(config, files, tensors))
        _write_json(partial / "generation_config.json", make_generation_config(files[0].fields))
        index = GgufIndex(
            architecture=files[0].architecture,
            files=tuple(str(file.path.absolute()) for file in files),
            sizes=tuple(file.path.stat().st_size for file in files),
            sha256=digest,
            order=find_i2s_order(files, tensors, config["num_hidden_layers"]),
            types=dict(sorted(sizes.items(), key=lambda one: -one[1])),
            tokenizer_problem=problem,
            tokenizer_given=tokenizer is not None,
            tensors=tensors,
        )
        (partial / INDEX_NAME).write_text(index.model_dump_json(), encoding="utf-8")


def _mark_format(config: dict[str, Any], files: list[GgufFile], tensors: dict[str, IndexedTensor]) -> dict[str, Any]:
    """Return the keys of config.json that say how the weights are stored: packed codes, or floats.

    A BitNet whose layers were rounded to few bits has lost its masters, and its codes too unless three values are left.
    """
    ternary = {name for name, one in tensors.items() if one.is_ternary}
    rounds = files[0].fields.get(QUANTIZES_KEY) is True
    group = next((one.group for one in tensors.values() if one.group), None)
    if group:
        tables = [name for name in TABLES if f"{name}.weight" in ternary]
        return make_group_config("packed", group, tables, rounds, digests={})
    if ternary:
        kept = [name.removesuffix(".weight") for name in tensors if name.endswith(LAYER_SUFFIX) and name not in ternary]
        layout = {"quant_method": PACKED_METHOD, "layout": PACKED_LAYOUT, "version": PACKED_VERSION}
        return {"quantization_config": layout | ({"modules_to_not_convert": ["lm_head", *kept]} if kept else {})}
    lost = (not has_three_values(files[one.file].path, one) for one in list_rounded_layers(tensors))
    precision = {PRECISION_KEY: "fp16"} if config["model_type"] == "bitnet" and any(lost) else {}
    return precision | ({ACTIVATIONS_KEY: "int8"} if rounds else {})


def _describe_tokenizer(folder: Path) -> str:
    found = digest_files(folder)
    return f"{found['tokenizer']} {found['chat template']}"


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _compute_digest(places: Sequence[Path]) -> str:
    """Return the sha256 of all parts; it is computed once in a process while they stay as they are."""
    began_ns = time.time_ns()
    states = tuple((str(p.absolute()), s.st_size, s.st_mtime_ns, s.st_ino) for p in places for s in [p.stat()])
    if states in _digests:
        return _digests[states]
    found = hash_files(places, {})
    if all(state[2] < began_ns - MIN_UNCHANGED_NS for state in states):
        _digests[states] = found
    return found


@cache
def _digest_code() -> str:
    """Return the digest of the code that makes views, and of the versions of the libraries that it uses."""
    from importlib.metadata import version

    found = hashlib.sha256(f"{version('transformers')} {version('tokenizers')}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()
