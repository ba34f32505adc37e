"""Attention of prompts shares keys among many queries, and gives each the numbers that it has alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitnet_bench.backends.ternary.engine import Cache
from bitnet_bench.ternary import kernel

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
FEW_QUERIES, MANY_QUERIES = 8, 24
"""Queries of a tile, at most: the kernel has loops for both."""
SHAPES = [
    (40, 8, 2, 32, None, 0),
    (37, 6, 1, 80, None, 3),
    (26, 3, 3, 16, None, 0),
    (50, 16, 2, 48, 20, 0),
    (29, 20, 5, 128, 7, 130),
]
"""Tokens, query heads, key-value heads, dimension, window, positions before them."""


class Attention:
    """A random layer of attention: what the kernel reads, and its definition in float64."""

    def __init__(self, tokens: int, heads: int, kv_heads: int, dimension: int, window: int | None, past: int) -> None:
        random = torch.Generator().manual_seed(tokens)
        self.heads, self.window, self.past = (heads, kv_heads, dimension), window, past
        self.qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dimension, generator=random)
        self.before = torch.randn(2, kv_heads, past, dimension, generator=random)
        self.slots, self.positions = torch.zeros(tokens, dtype=torch.int32), torch.arange(past, past + tokens).int()

    def run(self, queries: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the kernel's outputs [T, heads d] with tiles of so many queries, without rotation."""
        heads, kv_heads, d = self.heads
        positions = self.past + len(self.qkv)
        cache, qkv = Cache(1, 1, kv_heads, d, positions, dtype), self.qkv.clone()
        out = torch.empty(len(self.qkv), heads * d)
        blocks = torch.zeros(kv_heads, cache.capacity, d)
        blocks[:, : self.past] = self.before[0]
        cache.keys[0][0] = blocks.view(kv_heads, -1, 16, d).transpose(2, 3).reshape(kv_heads, -1)
        cache.values[0][0].view(kv_heads, -1, d)[:, : self.past] = self.before[1]
        angles = torch.ones(positions, d // 2), torch.zeros(positions, d // 2)
        per_tile = max(h for h in range(1, min(heads // kv_heads, 8) + 1) if heads // kv_heads % h == 0)
        where = self.slots, self.positions, torch.empty(len(qkv), 2, dtype=torch.int32)
        function, arguments = kernel.attention_call(
            qkv,
            out,
            where,
            (cache.keys[0], cache.values[0], cache.capacity),
            angles,
            (None, None, 0.0),
            self.heads,
            window=self.window,
            heads_per_tile=per_tile,
            queries=queries,
        )
        function(*arguments)
        return out

    def define(self) -> Tensor:
        """Return the outputs in float64."""
        heads, kv_heads, d = self.heads
        q, k, v = self.qkv.double().split([heads * d, kv_heads * d, kv_heads * d], dim=1)
        keys, values = (
            torch.cat([old.double(), new.view(-1, kv_heads, d).transpose(0, 1)], dim=1)
            for old, new in zip(self.before, (k, v), strict=True)
        )
        repeated = heads // kv_heads
        q = q.view(-1, heads, d).transpose(0, 1)
        keys, values = keys.repeat_interleave(repeated, 0), values.repeat_interleave(repeated, 0)
        distance = self.positions[:, None] - torch.arange(keys.shape[1])
        seen = (distance >= 0) & (distance < (self.window or keys.shape[1]))
        scores = (q @ keys.transpose(1, 2) * d**-0.5).masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_many_queries_of_a_tile_get_the_bits_of_few(width: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """At every width of vectors, of both kinds of caches, and with tiles that are not full."""
    attention = Attention(*shape)
    assert torch.equal(attention.run(MANY_QUERIES, dtype), attention.run(FEW_QUERIES, dtype))


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_of_prompts_is_its_definition(width: int, shape: tuple[int, ...]) -> None:
    """To the precision of float32, windows and earlier positions included."""
    attention = Attention(*shape)
    torch.testing.assert_close(attention.run(MANY_QUERIES), attention.define().float(), rtol=1e-5, atol=1e-5)
