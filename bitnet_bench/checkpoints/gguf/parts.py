"""Open a GGUF file, or all parts of one that was split."""

from __future__ import annotations

import re
from pathlib import Path

from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile, TensorEntry
from bitnet_bench.errors import BenchError

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""Name of a part, as llama.cpp's `llama_split_path` writes it."""
MAX_PARTS = 10_000
GET_AGAIN_HINT = "Get the file again."


def is_gguf(path: Path) -> bool:
    """Return whether *path* is a file that is named, or begins, as GGUF."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def list_part_names(name: str) -> list[str]:
    """Return the names of all parts of the split file that *name* is a part of, or only *name*."""
    found = PART.fullmatch(name)
    if found is None or not 0 < int(found[3]) <= MAX_PARTS:
        return [name]
    return [f"{found[1]}-{number:05d}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def open_parts(path: Path) -> list[GgufFile]:
    """Return the opened parts of the GGUF file *path*, in order; BenchError names those that are missing."""
    places = [path.with_name(name) for name in list_part_names(path.name)]
    missing = [place.name for place in places if not place.is_file()]
    if missing and len(places) > 1:
        raise BenchError(
            f"{path} is one of {len(places)} parts, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not in {path.parent}.",
            "Put all parts into one folder.",
        )
    files = [GgufFile(place) for place in places]
    noted = files[0].fields.get("split.count", 0)
    if noted > 1 and noted != len(files):
        raise BenchError(
            f"{path} is one of {noted} parts, and its name does not say which.",
            f"Name the parts as they were published, such as NAME-00001-of-{noted:05d}.gguf.",
        )
    counted = sum(len(file.tensors) for file in files)
    if noted > 1 and files[0].fields.get("split.tensors.count", counted) != counted:
        raise BenchError(f"The parts of {path} do not hold all of its tensors.", GET_AGAIN_HINT)
    return files


def list_tensors(files: list[GgufFile]) -> dict[str, tuple[int, TensorEntry]]:
    """Return (number of the part, place in it) of every tensor by name; BenchError if two parts hold the same name."""
    found: dict[str, tuple[int, TensorEntry]] = {}
    for number, file in enumerate(files):
        for name, entry in file.tensors.items():
            if name in found:
                raise BenchError(f"{name} is in {files[found[name][0]].path} and in {file.path}.", GET_AGAIN_HINT)
            found[name] = number, entry
    return found
