"""Attention at decoding is exact over long contexts on any number of threads, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.ternary.inference import open_session
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import RuntimeOptions
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
DIMENSION = 48


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    kernel.use_width(next(width for width in kernel.VECTOR_WIDTHS if kernel.use_width(width)))


def fill(keys: Tensor, values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Return a cache in the kernel's layout of keys and values [slots, kv heads, positions, d] and room for more."""
    slots, heads, positions, d = keys.shape
    capacity = positions // 16 * 16 + 16
    room = torch.zeros(slots, heads, capacity - positions, d)
    blocks = torch.cat([keys, room], 2).view(slots, heads, -1, 16, d).transpose(3, 4)
    return (
        blocks.reshape(slots, heads, -1).to(dtype).contiguous(),
        torch.cat([values, room], 2).reshape(slots, heads, -1).to(dtype).contiguous(),
        capacity,
    )


def attend(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    *,
    dtype: torch.dtype,
    per_tile: int,
    window: int | None = None,
) -> Tensor:
    """Append one token to every slot and return what it attends to [slots, heads, d], without rotation."""
    slots, kv_heads, positions, d = keys.shape
    cache = fill(keys, values, dtype)
    out, rows = torch.empty(slots, heads * d), qkv.clone()
    count = torch.arange(slots, dtype=torch.int32)
    where = count, torch.full_like(count, positions), torch.empty(slots, 2, dtype=torch.int32)
    angles = torch.ones(cache[2], d // 2), torch.zeros(cache[2], d // 2)
    function, arguments = kernel.attention_call(
        rows,
        out,
        where,
        cache,
        angles,
        (None, None, 1e-6),
        (heads, kv_heads, d),
        window=window,
        heads_per_tile=per_tile,
    )
    function(*arguments)
    return out.view(slots, heads, d)


def attend_by_definition(qkv: Tensor, keys: Tensor, values: Tensor, heads: int, window: int | None) -> Tensor:
    """Compute softmax(q k / sqrt(d)) v in float64."""
    slots, kv_heads, _, d = keys.shape
    queries, key, value = qkv.double().view(slots, -1, d).split([heads, kv_heads, kv_heads], 1)
    keys, values = (
        torch.cat([past.double(), new[:, :, None]], 2)[:, :, -(window or 0) :].repeat_interleave(heads // kv_heads, 1)
        for past, new in ((keys, key), (values, value))
    )
    shares = torch.softmax(torch.einsum("shd,shpd->shp", queries, keys) * d**-0.5, -1)
    return torch.einsum("shp,shpd->shd", shares, values)


def draw(slots: int, heads: int, kv_heads: int, positions: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(positions + heads)
    shape = slots, kv_heads, positions, DIMENSION
    return (
        torch.randn(slots, (heads + 2 * kv_heads) * DIMENSION, generator=generator),
        torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(("slots", "heads", "kv_heads"), [(1, 4, 1), (1, 6, 6), (2, 10, 2), (9, 4, 2)])
@pytest.mark.parametrize("positions", [5, 255, 1031])
def test_a_token_attends_as_defined_whoever_computes_it(
    slots: int, heads: int, kv_heads: int, positions: int, window: int | None, dtype: torch.dtype
) -> None:
    """Near float64 on what the cache holds, and the same bits on one thread and on five."""
    qkv, keys, values = draw(slots, heads, kv_heads, positions)
    if dtype == torch.bfloat16:  # what is rounded already is kept as it is, and float32 is then the same computation
        qkv, keys, values = (t.to(dtype).float() for t in (qkv, keys, values))
    expected = attend_by_definition(qkv, keys, values, heads, window)
    found = []
    for threads in (1, 5):
        torch.set_num_threads(threads)
        found.append(attend(qkv, keys, values, heads, dtype=dtype, per_tile=heads // kv_heads, window=window))
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0], found[1])
    same = attend(qkv, keys, values, heads, dtype=torch.float32, per_tile=1, window=window)
    assert torch.equal(found[0], same)


@pytest.mark.parametrize("width", kernel.VECTOR_WIDTHS)
def test_keys_and_values_are_rounded_half_to_even(width: int) -> None:
    """At every width of vectors: the bits of float32 on keys and values that torch has rounded."""
    if not kernel.use_width(width):
        pytest.skip(f"no vectors of {width} floats here")
    qkv, keys, values = draw(1, 4, 2, 300)
    qkv[0, -1], qkv[0, -2] = 1 + 2**-8, 1 + 3 * 2**-8  # half-way between two numbers of bfloat16
    narrow = attend(qkv, keys, values, 4, dtype=torch.bfloat16, per_tile=2)
    rounded = qkv.clone()
    rounded[:, 4 * DIMENSION :] = qkv[:, 4 * DIMENSION :].bfloat16().float()
    wide = attend(rounded, keys.bfloat16().float(), values.bfloat16().float(), 4, dtype=torch.float32, per_tile=2)
    assert torch.equal(narrow, wide)
    assert not torch.equal(narrow, attend(qkv, keys, values, 4, dtype=torch.float32, per_tile=2))


@pytest.mark.usefixtures("on_the_cpu")
def test_narrow_keys_and_values_are_asked_for_and_measured(stored_as: Any) -> None:
    """Half of the bytes, another arithmetic, and what it changes in the description that a record keeps."""
    source = inspect_folder(stored_as("qwen3", "packed"))
    with open_session(source, "ternary", "stored") as session:
        plain = next(iter(session.loglikelihood([([5, 6, 7], [8])])))[0][1][0]
        bytes_of_a_token, arithmetic = session.footprint()[1], session.arithmetic
    with open_session(source, "ternary", "stored", kv_cache="bf16") as session:
        narrow = next(iter(session.loglikelihood([([5, 6, 7], [8])])))[0][1][0]
        assert session.cache_difference in (session.describe_runtime() or "")  # type: ignore[attr-defined]
        assert session.footprint()[1] == bytes_of_a_token // 2
        assert session.arithmetic != arithmetic
    assert narrow != plain
    assert narrow == pytest.approx(plain, abs=0.1)


def test_a_backend_that_would_ignore_narrow_keys_and_values_refuses_them() -> None:
    """A record never names an option that nobody heeded."""
    from bitnet_bench.plugins import load_plugin

    with pytest.raises(BenchError, match="keeps keys and values in the dtype of the model"):
        load_plugin("backends", "hf").configured(RuntimeOptions(kv_cache="bf16"))


@pytest.mark.usefixtures("on_the_cpu")
def test_decoding_with_narrow_keys_and_values_agrees_with_scoring(stored_as: Any, tmp_path: Path) -> None:
    """What is appended token by token is what a prompt appends at once."""
    source = inspect_folder(stored_as("qwen3", "packed"))
    with open_session(source, "ternary", "stored", kv_cache="bf16") as session, torch.inference_mode():
        prompt = tuple(range(3, 40))
        state = session.prefill([prompt])
        for _ in range(6):
            prompt = (*prompt, int(state.tokens[0]))
            state = session.decode(state, 1)
            assert int(session.prefill([prompt]).tokens[0]) == int(state.tokens[0])
