"""Find the safetensors files of a checkpoint folder, and read them tensor by tensor."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench.checkpoints.former_names import translate_name
from bitnet_bench.errors import BenchError
from bitnet_bench.files import is_file
from bitnet_bench.json_files import read_json_object

if TYPE_CHECKING:
    from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"
FLOAT_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
GET_AGAIN_HINT = "Get the checkpoint again."
SAFETENSORS_DTYPE = re.compile(r"(BF|F|I|U|C)\d+(_E\w+)?|BOOL")
"""Names of dtypes in safetensors; others, such as Q4_K, are types of ggml, which are decoded."""
DAMAGED_HINT = "The file is damaged or cut off; get it again."


@dataclass(frozen=True)
class TensorHeader:
    """The header of one tensor; *dtype* as safetensors (U8, F16, BF16, F32) or ggml (Q4_K) names it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int | None = None
    """Size on disk, if the dtype does not show it."""
    stored_name: str | None = None
    """Name in the file, if it is another."""

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def float_dtype(self) -> str | None:
        """Name in torch of the dtype in which its values are read; None if they are not floats."""
        if self.dtype in FLOAT_DTYPES:
            return FLOAT_DTYPES[self.dtype]
        return None if SAFETENSORS_DTYPE.fullmatch(self.dtype) else "float32"

    @property
    def bytes(self) -> int:
        """Size on disk."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        bits = re.search(r"\d+", self.dtype)  # BOOL has none
        return self.elements * (int(bits.group()) if bits else 8) // 8


class Shards:
    """The tensors of a checkpoint folder by name. No file stays open, and no tensor is kept."""

    def __init__(self, folder: Path) -> None:
        self.files = find_weight_files(folder)

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """The header of every tensor, by name; BenchError if two files hold the same name."""
        found: dict[str, TensorHeader] = {}
        for file in self.files:
            with _open_shard(file) as handle:
                for stored in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                    part, name = handle.get_slice(stored), translate_name(stored)
                    if name in found:
                        raise BenchError(f"{name} is in {found[name].file} and in {file}.", "Remove the stale file.")
                    shape = tuple(part.get_shape())
                    found[name] = TensorHeader(file, part.get_dtype(), shape, stored_name=stored)
        return found

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The metadata of the first file."""
        with _open_shard(self.files[0]) as handle:
            return handle.metadata() or {}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as stored, mapped from disk: its pages are read when touched and freed with it."""
        header = self.headers[name]
        with _open_shard(header.file) as handle:
            found: Tensor = handle.get_tensor(header.stored_name or name)
        return found

    def rows(self, name: str, count: int) -> Tensor:
        """Return the first *count* rows of a tensor."""
        return self.tensor(name)[:count]

    def count_zeros(self, name: str) -> int | None:
        """Return how many codes of the packed tensor *name* are 0, if that is faster than reading its panels."""
        return None

    def find_non_finite(self) -> str | None:
        """Return the name of a float tensor that holds NaN or infinity, or None."""
        import torch

        for name, header in self.headers.items():
            if header.dtype in FLOAT_DTYPES and header.elements:
                lowest, highest = torch.aminmax(self.tensor(name))  # NaN if any value is NaN
                if not bool(lowest.isfinite() & highest.isfinite()):
                    return name
        return None

    def compute_digest(self, noted: dict[str, str]) -> str:
        """Return the digest of all files; BenchError if that of one differs from the one *noted* under its name."""
        return hash_files(self.files, noted)

    def count_types(self) -> dict[str, int]:
        """Return the bytes by tensor type of a GGUF file; {} for safetensors, whose dtypes say it."""
        return {}

    def locate_tensor(self, name: str) -> str:
        """Return "NAME in FILE" for the tensor *name*, for messages."""
        return f"{name} in {self.headers[name].file}"


def open_shards(folder: Path) -> Shards:
    """Return the tensors of a checkpoint folder, or of the GGUF file that *folder* is a view of."""
    from bitnet_bench.checkpoints.gguf.gguf_shards import INDEX_NAME, GgufShards

    return GgufShards(folder) if (folder / INDEX_NAME).is_file() else Shards(folder)


def hash_files(files: Sequence[Path], noted: dict[str, str]) -> str:
    """Return the sha256 of all *files*; BenchError if that of one differs from the one *noted* under its name."""
    whole = hashlib.sha256()
    for file in files:
        own = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                whole.update(block)
                if noted:
                    own.update(block)
        if noted and noted.get(file.name) != own.hexdigest():
            raise BenchError(f"{file} does not have the sha256 that config.json notes for it.", DAMAGED_HINT)
    return whole.hexdigest()


def find_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in name order; BenchError if there are none or one is missing."""
    index = folder / INDEX_FILE
    files = _read_index(folder, index) if index.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        missing = [f.name for f in files if not is_file(f)]
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise BenchError(f"{folder} cannot be read: {error.strerror}.", GET_AGAIN_HINT) from error
    if missing:
        raise BenchError(f"{folder} lacks {missing[0]}, which its index names.", "Download the checkpoint again.")
    if files:
        return files
    if any(folder.glob("*.bin")):
        raise BenchError(
            f"{folder} has only pickled weights (*.bin), which can run code when opened.",
            "Convert it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(OUT) writes safetensors.",
        )
    raise BenchError(f"{folder} has no *.safetensors file.", "Give the folder that holds the weights.")


def _read_index(folder: Path, index: Path) -> list[Path]:
    places = read_json_object(index, GET_AGAIN_HINT).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) and name for name in places.values()):
        raise BenchError(f"{index} is no index: its `weight_map` must give a file for each tensor.", GET_AGAIN_HINT)
    names = sorted(set(places.values()))
    if any(Path(name).name != name for name in names):
        raise BenchError(f"{index} names a file outside its folder.", "Do not use this checkpoint.")
    return [folder / name for name in names]


@contextmanager
def _open_shard(file: Path) -> Iterator[Any]:
    """Open a safetensors file; BenchError names it if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise BenchError(f"{file} cannot be read as safetensors: {error}.", DAMAGED_HINT) from error


def iterate_blocks(tensor: Tensor, elements: int = 1 << 22) -> Iterator[Tensor]:
    """Yield *tensor* in flat pieces of at most *elements*, which keeps intermediate results small."""
    flat = tensor.flatten()
    for begin in range(0, flat.numel(), elements):
        yield flat[begin : begin + elements]
