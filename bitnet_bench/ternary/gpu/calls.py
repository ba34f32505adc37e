"""Launch the Triton kernels on tensors, with block sizes chosen by shape: quantized rows, products, attention."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from bitnet_bench.ternary.gpu import kernels
from bitnet_bench.ternary.gpu.layout import BLOCK_COLUMNS, FIELD_COLUMNS, count_blocks, interleave_codes
from bitnet_bench.ternary.kernel import Norm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""True if kernels run in Triton's interpreter, which supports neither assembly nor PDL."""
GATES = {"": 0, "silu": 1, "relu2": 2}
FEW_OUTPUTS = 24_000
"""Most outputs for which a product reads the codes once per token, after the first time from the L2 cache."""
WIDE_ROWS = 8192
"""Least rows for which a product fills a GPU with larger blocks."""
MOST_SPLITS = 16
"""Most programs that share the keys of a slot."""
MULTIPLY_FEW_ROWS = 64 if INTERPRETED else 8
"""Rows of a program of `multiply_few`."""
PDL_CAPABILITY = (9, 0)
PDL_TRITON = (3, 5)
"""First version of Triton with working PDL; 3.4 has the operators but cannot compile them."""
SMALLEST_SHARED_BYTES = 99 * 1024
"""Bytes of shared memory that a program has on every GPU since sm_80."""


@cache
def can_overlap_kernels(device: torch.device) -> bool:
    """Return whether kernels on *device* may start before the previous one has ended (PDL)."""
    if INTERPRETED or tuple(map(int, triton.__version__.split(".")[:2])) < PDL_TRITON:
        return False
    return torch.cuda.get_device_capability(device) >= PDL_CAPABILITY


def _launch_options(device: torch.device) -> dict[str, bool]:
    # a fused multiply-add rounds once, so its results would differ from the CPU's
    return {"enable_fp_fusion": False} | ({"launch_pdl": True} if can_overlap_kernels(device) else {})


@dataclass(frozen=True)
class QuantizedRows:
    """Activations as int8: q [T, filled columns], float32 steps [T], and int32 sums of q [T]."""

    q: Tensor
    steps: Tensor
    sums: Tensor
    columns: int

    @classmethod
    def empty(cls, tokens: int, columns: int, device: torch.device) -> QuantizedRows:
        """Return uninitialized buffers for *tokens* rows."""
        return cls(
            torch.empty(tokens, count_blocks(columns) * BLOCK_COLUMNS, dtype=torch.int8, device=device),
            torch.empty(tokens, dtype=torch.float32, device=device),
            torch.empty(tokens, dtype=torch.int32, device=device),
            columns,
        )


def quantize_rows(x: Tensor, out: QuantizedRows, *, norm: Norm | None = None, gate: str = "") -> None:
    """Quantize rows x [T, K] (with a *gate* `silu` or `relu2`: [T, 2 K]) into *out*, after a norm if there is one."""
    _launch_rows(x, out.columns, norm, gate, out, None)


def normalize_rows(x: Tensor, norm: Norm, y: Tensor) -> None:
    """Write the norm of rows x [T, K] into y [T, K], in y's dtype."""
    _launch_rows(x, x.shape[1], norm, "", None, y)


def _launch_rows(
    x: Tensor, columns: int, norm: Norm | None, gate: str, out: QuantizedRows | None, y: Tensor | None
) -> None:
    weight = norm.weight if norm else None
    filled = out.q.shape[1] if out else columns
    block = triton.next_power_of_2(filled)
    kernels.quantize_rows[(len(x),)](
        x,
        x.stride(0),
        weight,
        norm.epsilon if norm else 0.0,
        out.q if out else None,
        out.steps if out else None,
        out.sums if out else None,
        y,
        COLUMNS=columns,
        FILLED=filled,
        BLOCK=block,
        GATE=GATES[gate],
        NORMED=norm is not None,
        WEIGHTED=weight is not None,
        QUANTIZED=out is not None,
        PDL=can_overlap_kernels(x.device),
        num_warps=min(16, max(1, block // 512)),
        **_launch_options(x.device),
    )


class ProductBlocks(NamedTuple):
    """Block sizes of `multiply_many`."""

    rows: int
    tokens: int
    warps: int
    stages: int
    group: int = 8


NARROW_BLOCKS = (
    (15, ProductBlocks(64, 16, 4, 8)),
    (32, ProductBlocks(32, 16, 2, 4)),
    (256, ProductBlocks(64, 32, 4, 4)),
    (512, ProductBlocks(128, 128, 8, 3)),
)
WIDE_BLOCKS = (
    (16, ProductBlocks(64, 16, 4, 8)),
    (32, ProductBlocks(128, 32, 4, 5)),
    (64, ProductBlocks(64, 64, 4, 4)),
    (128, ProductBlocks(128, 64, 4, 4)),
)
LARGE_BLOCKS = ProductBlocks(128, 64, 8, 3)
"""Blocks for more tokens than the tables list; those are the fastest of a sweep on an H200 (docs/performance.md)."""


def choose_blocks(tokens: int, rows: int) -> ProductBlocks:
    """Return the blocks for a product of *tokens* by *rows*."""
    table = WIDE_BLOCKS if rows >= WIDE_ROWS else NARROW_BLOCKS
    return next((blocks for most, blocks in table if tokens <= most), LARGE_BLOCKS)


@cache
def _fit_stages(blocks: ProductBlocks, device: torch.device) -> int:
    """Return how many stages of *blocks*, at most its own, fit into the shared memory of a program on *device*."""
    if INTERPRETED:
        return blocks.stages
    properties = torch.cuda.get_device_properties(device)
    most = int(getattr(properties, "shared_memory_per_block_optin", SMALLEST_SHARED_BYTES))
    return max(1, min(blocks.stages, most // (FIELD_COLUMNS * blocks.rows + BLOCK_COLUMNS * blocks.tokens)))


def is_few_product(tokens: int, rows: int) -> bool:
    """Return whether a product of this size is faster when codes are read once per token, from the L2 cache."""
    return tokens <= 2 or tokens * rows <= FEW_OUTPUTS


class GpuJoinedLayers:
    """Ternary layers that read the same rows, concatenated into one product: q, k and v, or gate and up."""

    def __init__(
        self, parts: Sequence[tuple[Tensor, float, Tensor | None]], columns: int, device: torch.device
    ) -> None:
        """Join *parts* of (int8 codes [N, K], gamma, float32 bias [N] or None)."""
        self.columns = columns
        self.codes = torch.cat([interleave_codes(codes.to(device)) for codes, _, _ in parts])
        self.rows = len(self.codes)
        self.scales = torch.cat([torch.full((len(codes),), gamma, device=device) for codes, gamma, _ in parts])
        biases = [torch.zeros(len(codes)) if bias is None else bias for codes, _, bias in parts]
        self.bias = torch.cat(biases).to(device) if any(bias is not None for _, _, bias in parts) else None

    def multiply(self, x: QuantizedRows, y: Tensor, *, add: bool = False) -> None:
        """Write the product of all rows of *x* into y [T, N], in y's dtype, or add it to y."""
        tokens = len(x.q)
        if not tokens:
            return
        if is_few_product(tokens, self.rows):
            self._multiply_few(x, y, add)
        else:
            self._multiply_many(x, y, add, choose_blocks(tokens, self.rows))

    def _multiply_few(self, x: QuantizedRows, y: Tensor, add: bool) -> None:
        words = self.codes.shape[1] // 4
        block_words = max(128, triton.next_power_of_2(words))
        kernels.multiply_few[(triton.cdiv(self.rows, MULTIPLY_FEW_ROWS), len(x.q))](
            x.q.view(torch.int32),
            x.steps,
            x.sums,
            self.codes.view(torch.int32),
            self.scales,
            self.bias,
            y,
            self.rows,
            WORDS=words,
            BLOCK_WORDS=block_words,
            BLOCK_ROWS=MULTIPLY_FEW_ROWS,
            ADD=add,
            BIASED=self.bias is not None,
            ASM=not INTERPRETED,
            PDL=can_overlap_kernels(y.device),
            num_warps=block_words // 128,  # both operands are then loaded in one layout, 16 bytes per thread
            **_launch_options(y.device),
        )

    def _multiply_many(self, x: QuantizedRows, y: Tensor, add: bool, blocks: ProductBlocks) -> None:
        tokens = len(x.q)
        grid = (triton.cdiv(self.rows, blocks.rows) * triton.cdiv(tokens, blocks.tokens),)
        kernels.multiply_many[grid](
            x.q,
            x.steps,
            x.sums,
            self.codes,
            self.scales,
            self.bias,
            y,
            tokens,
            self.rows,
            count_blocks(self.columns),
            BLOCK_ROWS=blocks.rows,
            BLOCK_TOKENS=blocks.tokens,
            GROUP=blocks.group,
            ADD=add,
            BIASED=self.bias is not None,
            ASM=not INTERPRETED,
            PDL=can_overlap_kernels(y.device),
            num_warps=blocks.warps,
            num_stages=_fit_stages(blocks, y.device),
            **_launch_options(y.device),
        )


class TokenPlacement(NamedTuple):
    """Placement of tokens: int32 slots and positions [T], and tiles [tiles, 2] of (first token, tokens) in a slot."""

    slots: Tensor
    positions: Tensor
    tiles: Tensor
    tokens_per_tile: int


class Heads(NamedTuple):
    """The heads of a layer; norms are float32 [dimension] or None."""

    queries: int
    keys: int
    dimension: int
    query_norm: Tensor | None
    key_norm: Tensor | None
    epsilon: float


class AttentionBlocks(NamedTuple):
    """Block sizes of `attend`: keys at a time, their stages, and the most rows of queries."""

    keys: int
    stages: int
    rows: int = 64


def choose_attention(dimension: int, dtype: torch.dtype, *, decodes: bool) -> AttentionBlocks:
    """Return blocks for heads of this size that fit the memory of every GPU since sm_80 (99 KB per program)."""
    exact = dtype == torch.float32
    if dimension > 256:
        return AttentionBlocks(16 if exact else 32, 1, 16 if exact else 32)
    if dimension > 128:
        return AttentionBlocks(16, 1, 32) if exact else AttentionBlocks(64 if decodes else 32, 2)
    return AttentionBlocks(32, 1, 32) if exact else AttentionBlocks(64, 3 if decodes else 2)


@dataclass(frozen=True)
class Splits:
    """Buffers of the programs that share the keys of a slot: float32 sums, and int32 counters that are zero."""

    count: int
    parts: Tensor | None
    arrived: Tensor | None

    @classmethod
    def empty(cls, slots: int, heads: Heads, device: torch.device) -> Splits:
        """Return buffers for one token in each of *slots* slots, with enough splits to occupy all multiprocessors."""
        programs = slots * heads.keys
        count = 1
        while count < MOST_SPLITS and count * programs < _multiprocessors(device):
            count *= 2
        if count == 1:
            return cls(1, None, None)
        rows = _query_rows(1, heads)
        parts = torch.empty(programs * count * rows * (_head_block(heads) + 2), device=device)
        return cls(count, parts, torch.zeros(programs, dtype=torch.int32, device=device))


NO_SPLITS = Splits(1, None, None)


@cache
def _multiprocessors(device: torch.device) -> int:
    return 8 if INTERPRETED else int(torch.cuda.get_device_properties(device).multi_processor_count)


def _query_rows(tokens: int, heads: Heads) -> int:
    return max(16, int(triton.next_power_of_2(tokens * (heads.queries // heads.keys))))


def _head_block(heads: Heads) -> int:
    return max(16, int(triton.next_power_of_2(heads.dimension)))


def _attention_options(heads: Heads, device: torch.device) -> dict[str, int | bool]:
    """Return the compile options of both attention kernels."""
    return {
        "HEADS": heads.queries,
        "KV_HEADS": heads.keys,
        "HALF": heads.dimension // 2,
        "BLOCK": _head_block(heads),
        "NORMED": heads.query_norm is not None,
        "PDL": can_overlap_kernels(device),
        **_launch_options(device),
        "enable_fp_fusion": True,  # the order of these float sums differs from the CPU's anyway
    }


def _append_keys(
    qkv: Tensor,
    places: TokenPlacement,
    cache: tuple[Tensor, Tensor],
    angles: tuple[Tensor, Tensor],
    heads: Heads,
    options: dict[str, int | bool],
) -> None:
    """Rotate the keys of all tokens, and store keys and values in the cache before any token attends to them."""
    kernels.append_keys[(len(qkv), heads.keys)](
        qkv,
        places.slots,
        places.positions,
        *cache,
        *angles,
        heads.key_norm,
        heads.epsilon,
        cache[0].shape[2],
        num_warps=1,
        **options,
    )


def attend(
    qkv: Tensor,
    out: Tensor,
    places: TokenPlacement,
    cache: tuple[Tensor, Tensor],
    angles: tuple[Tensor, Tensor],
    heads: Heads,
    splits: Splits = NO_SPLITS,
) -> None:
    """Rotate queries and keys, fill the cache and attend: qkv [T, (queries + 2 keys) d] -> out [T, queries d].

    *cache*: keys and values [slots, kv heads, capacity, d]. *angles*: cosines and sines, float32 [positions, d / 2].
    """
    keys, values = cache
    appends = places.tokens_per_tile == 1
    blocks = choose_attention(heads.dimension, keys.dtype, decodes=appends)
    common = _attention_options(heads, qkv.device)
    if not appends:
        _append_keys(qkv, places, cache, angles, heads, common)
    kernels.attend[(len(places.tiles), heads.keys, splits.count)](
        qkv,
        out,
        places.slots,
        places.positions,
        places.tiles,
        keys,
        values,
        *angles,
        heads.query_norm,
        heads.key_norm,
        splits.parts,
        splits.arrived,
        heads.epsilon,
        heads.dimension**-0.5,
        keys.shape[2],
        ROWS=_query_rows(places.tokens_per_tile, heads),
        BLOCK_KEYS=blocks.keys,
        SPLITS=splits.count,
        APPENDS=appends,
        num_warps=4,
        num_stages=blocks.stages,
        **common,
    )


def make_tiles(slots: Tensor, most: int) -> Tensor:
    """Return int32 [tiles, 2]: first token and number of tokens, at most *most*, of runs of one slot in *slots* [T]."""
    counts = torch.unique_consecutive(slots, return_counts=True)[1]
    tiles_of = (counts + most - 1) // most
    run = torch.repeat_interleave(torch.arange(len(counts)), tiles_of)
    number = torch.arange(len(run)) - (tiles_of.cumsum(0) - tiles_of)[run]
    first = (counts.cumsum(0) - counts)[run] + number * most
    return torch.stack([first, (counts[run] - number * most).clamp(max=most)], 1).to(torch.int32)
