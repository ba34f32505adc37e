"""The safetensors writer against the safetensors library."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from bitnet_bench.checkpoints.former_names import translate_name
from bitnet_bench.checkpoints.shards import Shards
from bitnet_bench.checkpoints.streaming import CACHE_LINE_BYTES, DTYPE_NAMES, PAGE_BYTES, PlannedTensor, write_shards

DTYPES = list(DTYPE_NAMES)
tensors_planned = st.dictionaries(
    # a name that other projects use is read by that of transformers, which tests/checkpoints is about
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and translate_name(name) == name),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=3).map(tuple)),
    max_size=8,
)


def nothing(done: int, total: int, note: str = "") -> None:
    """Show no progress."""


def values(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    random = torch.Generator().manual_seed(len(name))
    return torch.randint(0, 2, shape, generator=random).to(dtype)


def plan(tensors: dict[str, Any]) -> list[PlannedTensor]:
    return [PlannedTensor(n, d, s, lambda n=n, d=d, s=s: values(n, d, s)) for n, (d, s) in tensors.items()]


def begins(file: Path) -> dict[str, int]:
    """Return where in *file* every tensor begins."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    header.pop("__metadata__")
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}


@given(tensors=tensors_planned, shard_bytes=st.integers(1, 2000))
def test_the_library_reads_what_was_written(tensors: dict[str, Any], shard_bytes: int) -> None:
    """Any tensors, in shards of any size, come back as they were; metadata too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digests = write_shards(folder, plan(tensors), {"note": "값"}, shard_bytes, nothing)
        found = {}
        for file in digests:
            with safe_open(folder / file, framework="pt") as handle:
                assert handle.metadata() == {"format": "pt", "note": "값"}
                found |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        assert found.keys() == tensors.keys()
        for key, (dtype, shape) in tensors.items():
            assert found[key].dtype == dtype
            assert torch.equal(found[key], values(key, dtype, shape))
        if tensors:
            assert Shards(folder).headers.keys() == tensors.keys()


@given(tensors=tensors_planned)
def test_every_tensor_is_aligned(tensors: dict[str, Any]) -> None:
    """Data begins on a page, tensors of whole cache lines on a cache line, the others on an element of their own."""
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), plan(tensors), {}, 10**9, nothing)
        places = begins(Path(name) / "model.safetensors")
        assert min(places.values(), default=PAGE_BYTES) % PAGE_BYTES == 0
        for planned in plan(tensors):
            aligned_to = planned.dtype.itemsize if planned.bytes % CACHE_LINE_BYTES else CACHE_LINE_BYTES
            assert places[planned.name] % aligned_to == 0


def test_codes_come_before_other_whole_lines(tmp_path: Path) -> None:
    """8-bit tensors stand first, so that the codes of a file lie together."""
    tensors = {"a": (torch.float32, (64,)), "b": (torch.uint8, (2, 64)), "c": (torch.float32, (1,))}
    write_shards(tmp_path, plan(tensors), {}, 10**9, nothing)
    places = begins(tmp_path / "model.safetensors")
    assert sorted(places, key=places.__getitem__) == ["b", "a", "c"]


def test_shards_stay_below_their_size_and_are_indexed(tmp_path: Path) -> None:
    """A tensor that does not fit begins a new file; only one that is larger than a shard is alone and larger."""
    tensors = {
        "a": (torch.uint8, (60,)),
        "b": (torch.uint8, (50,)),
        "c": (torch.uint8, (50,)),
        "d": (torch.uint8, (200,)),
    }
    digests = write_shards(tmp_path, plan(tensors), {}, 100, nothing)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert list(digests) == files
    assert index["weight_map"] == {"a": files[0], "b": files[1], "c": files[1], "d": files[2]}
    assert index["metadata"] == {"total_size": 360}


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    """The sha256 that is noted while writing is that of the finished file."""
    digests = write_shards(tmp_path, plan({"a": (torch.bfloat16, (7, 5)), "b": (torch.uint8, (64,))}), {}, 70, nothing)
    assert len(digests) == 2
    for name, digest in digests.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    """When a tensor is made, the one before it is gone: a model larger than memory can be written."""
    alive: list[weakref.ref[np.ndarray]] = []

    def make() -> Tensor:
        assert not any(reference() is not None for reference in alive)
        memory = np.zeros(1000, dtype=np.float32)
        alive.append(weakref.ref(memory))
        return torch.from_numpy(memory)

    seen: list[tuple[int, int]] = []
    write_shards(
        tmp_path,
        [PlannedTensor(f"t{i}", torch.float32, (1000,), make) for i in range(5)],
        {},
        9000,
        lambda done, total, note="": seen.append((done, total)),
    )
    assert len(alive) == 5
    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_tensor_other_than_planned_is_our_bug(tmp_path: Path) -> None:
    """A tensor of another shape or dtype than the header says is never written."""
    with pytest.raises(AssertionError, match="a is not as planned"):
        write_shards(tmp_path, [PlannedTensor("a", torch.float32, (3,), lambda: torch.zeros(4))], {}, 100, nothing)
