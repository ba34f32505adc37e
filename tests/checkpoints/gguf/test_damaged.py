"""GGUF files that are cut off, changed or lie about their sizes: one short sentence, and no memory for it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bitnet_bench.checkpoints.gguf.gguf_file import MAX_HEADER_VALUES, GgufFile
from bitnet_bench.errors import BenchError

U32, STRING, ARRAY, U64 = 4, 8, 9, 10


def text(value: str | bytes, length: int | None = None) -> bytes:
    """Return a text of GGUF, which may lie about its length."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def field(name: str, kind: int, value: bytes) -> bytes:
    """Return a field of the header."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str = "a", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    """Return the entry of a tensor."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    *entries: bytes, fields: tuple[bytes, ...] = (), tensors: int | None = None, count: int | None = None
) -> bytes:
    """Return a file of *entries* and *fields*, whose counts may lie, and 64 bytes of data."""
    counts = len(entries) if tensors is None else tensors, len(fields) if count is None else count
    head = struct.pack("<4sIQQ", b"GGUF", 3, *counts) + b"".join((*fields, *entries))
    return head + b"\0" * (-len(head) % 32 + 64)


WHOLE = gguf(tensor(), fields=(field("general.architecture", STRING, text("llama")),))


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(WHOLE)
    file = GgufFile(tmp_path / "a.gguf")
    assert file.architecture == "llama"
    assert file.values("a").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 64, 5))
def test_a_file_that_is_cut_off_anywhere_is_a_sentence(length: int, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(WHOLE[:length])
    with pytest.raises(BenchError, match=r"a\.gguf is (a damaged|no) GGUF file"):
        GgufFile(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gguf(tensor(), tensors=2**40), "it cannot hold the 1,099,511,627,776 values"),
        (gguf(tensor(), count=2**40), "cannot hold"),
        (gguf(tensor(), fields=(field("a", ARRAY, struct.pack("<IQ", U32, 2**40)),)), "cannot hold"),
        (gguf(tensor(), fields=(field("a", ARRAY, struct.pack("<IQ", STRING, 2**40)),)), "cannot hold"),
        (gguf(tensor(), fields=(field("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9),)), "of the type 9"),
        (gguf(tensor(), fields=(field("a", 77, b""),)), "of the type 77"),
        (gguf(tensor(), fields=(text("a", 2**40),)), "has 1,099,511,627,776 bytes"),
        (gguf(tensor(), fields=(text("a", 2**20),)), "ends within its header"),
        (gguf(tensor(), fields=(text(b"\xff"),)), "not UTF-8"),
        (gguf(tensor(), fields=(field("general.alignment", U32, struct.pack("<I", 0)),)), "alignment is 0"),
        (gguf(tensor(), fields=(field("general.alignment", STRING, text("x" * 9999)),)), "alignment is xxx"),
        (gguf(tensor(), fields=(field("general.alignment", U64, struct.pack("<Q", 2**63)),)), "alignment is 92233"),
        (gguf(tensor(offset=2**63)), "ends before its tensor a does"),
        (gguf(tensor(shape=(2**40,))), "ends before its tensor a does"),
        (gguf(tensor(shape=(2**32, 2**32))), "ends before its tensor a does"),  # 2^64 bytes are 0 in 64 bits
        (gguf(tensor(shape=())), "has the shape []"),
        (gguf(tensor(shape=(1,) * 9)), "9 dimensions"),
        (gguf(tensor(shape=(5,), kind=8)), "has the shape [5], which Q8_0 cannot have"),
        (gguf(tensor(kind=99)), "is of ggml type 99"),
        (gguf(tensor("x" * 5000, kind=99)), "is of ggml type 99"),
        (gguf(tensor(), tensor()), "the tensor a twice"),
        (struct.pack("<4sIQQ", b"GGUF", 9, 0, 0), "version 2 or 3"),
        (b"", "damaged"),
    ],
)
def test_a_file_that_lies_is_a_short_sentence(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(BenchError) as raised:
        GgufFile(tmp_path / "a.gguf")
    assert words in raised.value.problem
    assert str(tmp_path / "a.gguf") in raised.value.problem
    assert len(str(raised.value)) < 500


def test_the_counts_of_a_header_are_added_up(tmp_path: Path) -> None:
    """Many arrays that fit the file one by one would still take all memory."""
    half = MAX_HEADER_VALUES // 2 + 1
    array = field("a", ARRAY, struct.pack("<IQ", 0, half) + b"\0" * half)
    (tmp_path / "a.gguf").write_bytes(gguf(tensor(), fields=(array, array)))
    with pytest.raises(BenchError, match="cannot hold"):
        GgufFile(tmp_path / "a.gguf")


def test_a_file_that_shrinks_after_it_was_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(WHOLE)
    file = GgufFile(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(WHOLE[:-60])
    with pytest.raises(BenchError, match="has become shorter"):
        file.values("a")


def test_an_architecture_that_is_no_text_is_unknown(tmp_path: Path) -> None:
    """The message held all 12 MB of a list."""
    listed = field("general.architecture", ARRAY, struct.pack("<IQ", 0, 4000) + b"\1" * 4000)
    (tmp_path / "a.gguf").write_bytes(gguf(tensor(), fields=(listed,)))
    assert GgufFile(tmp_path / "a.gguf").architecture == "unknown"
