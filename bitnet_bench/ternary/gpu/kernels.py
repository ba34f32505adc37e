"""Triton kernels of a ternary model on a GPU: quantized rows, products with 2-bit codes, rotary keys, attention.

Activations are rows [T, K]. Products read int8 rows and codes in the layout of `bitnet_bench.ternary.gpu.layout`, and
sum exactly in int32. Norms, quantization, rotation and the softmax are computed in float32.

Parameters have no annotations except `tl.constexpr`: Triton evaluates annotations when it compiles a kernel, and an
`Any` there is a NameError (the interpreter does not notice). Kernels of one forward pass overlap on GPUs with PDL
(programmatic dependent launch, sm_90): each allows the next one early to start, and waits for the previous one before
it first reads that one's output. Weights are loaded before that.
"""

import triton
import triton.language as tl

ROUNDING = tl.constexpr(12582912.0)
"""Constant 1.5 * 2^23; adding it to a float32 rounds it to an integer, half to even."""
SMALLEST_SCALE = tl.constexpr(1e-5)
FIELD = tl.constexpr(64)
"""Bytes of a block of codes: field j of byte p holds column 64 j + p of its 256 columns."""


@triton.jit
def _start(PDL: tl.constexpr):
    """Allow the next kernel to start."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(PDL: tl.constexpr):
    """Wait for the previous kernel."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _dot4(fields, q, total, ASM: tl.constexpr):
    """Return total + the sum over the four bytes of unsigned *fields* times signed *q*, int32 each."""
    if ASM:
        # dp4a takes operands of either sign; Triton has no operator for it
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [fields, q, total], dtype=tl.int32, is_pure=True, pack=1
        )
    for b in tl.static_range(4):
        total += ((fields >> (8 * b)) & 3) * ((q << (24 - 8 * b)) >> 24)
    return total


@triton.jit
def _unpack(packed, J: tl.constexpr, ASM: tl.constexpr):
    """Return field *J* of uint8 *packed*, code + 1, as int8."""
    if ASM:
        # four bytes at once: Triton would shift each separately
        if J == 0:
            return tl.inline_asm_elementwise(
                "and.b32 $0, $1, 0x03030303;", "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4
            )
        if J == 1:
            return tl.inline_asm_elementwise(
                "{.reg .b32 t; shr.b32 t, $1, 2; and.b32 $0, t, 0x03030303;}",
                "=r,r",
                [packed],
                dtype=tl.int8,
                is_pure=True,
                pack=4,
            )
        if J == 2:
            return tl.inline_asm_elementwise(
                "{.reg .b32 t; shr.b32 t, $1, 4; and.b32 $0, t, 0x03030303;}",
                "=r,r",
                [packed],
                dtype=tl.int8,
                is_pure=True,
                pack=4,
            )
        return tl.inline_asm_elementwise(
            "{.reg .b32 t; shr.b32 t, $1, 6; and.b32 $0, t, 0x03030303;}",
            "=r,r",
            [packed],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    return ((packed >> (2 * J)) & 3).to(tl.int8)


@triton.jit
def _gate(row, up, GATE: tl.constexpr):
    """Return SiLU (GATE 1) or squared ReLU (2) of *row*, times *up*."""
    if GATE == 1:
        return tl.div_rn(row, 1.0 + tl.exp(-row)) * up
    positive = tl.where(row > 0, row, row * 0.0)  # keeps NaN
    return positive * positive * up


@triton.jit
def _round_row(row, inside):
    """Return *row* in 127ths of its largest magnitude, rounded to int32, and that magnitude."""
    # as integers, the bits of NaN are larger than those of all numbers, so a NaN in a row makes its step NaN
    bits = row.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    largest = tl.max(bits, 0).to(tl.float32, bitcast=True)
    largest = tl.where(largest < SMALLEST_SCALE, SMALLEST_SCALE, largest)
    scale = tl.div_rn(1.0, largest) * 127.0  # two roundings, as torch divides a number by a tensor
    product = tl.where(inside, row * scale, 0.0)
    product = tl.where(product == product, product, 0.0)  # q of a NaN; the step is NaN then
    return ((product + ROUNDING) - ROUNDING).to(tl.int32), largest


@triton.jit
def quantize_rows(
    x,
    x_stride,
    norm,
    epsilon,
    q,
    steps,
    sums,
    y,
    COLUMNS: tl.constexpr,
    FILLED: tl.constexpr,
    BLOCK: tl.constexpr,
    GATE: tl.constexpr,
    NORMED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    QUANTIZED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Turn row t of *x* into int8 q [T, FILLED], float32 steps [T] and int32 sums of q [T]; padding becomes 0.

    GATE 1 (SiLU) or 2 (squared ReLU): x is [T, 2 K], and act(first half) * second half is computed first. NORMED: an
    RMS norm follows, with a weight [K] if WEIGHTED. QUANTIZED false: the row is written to y [T, K] instead.
    """
    _start(PDL)
    t = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = k < COLUMNS
    weight = tl.full((BLOCK,), 1.0, tl.float32)
    if WEIGHTED:
        weight = tl.load(norm + k, mask=inside, other=0.0)
    _wait(PDL)
    row = tl.load(x + t * x_stride + k, mask=inside, other=0.0).to(tl.float32)
    if GATE:
        up = tl.load(x + t * x_stride + COLUMNS + k, mask=inside, other=0.0).to(tl.float32)
        row = _gate(row, up, GATE)
    if NORMED:
        mean = tl.div_rn(tl.sum(row * row, 0), COLUMNS * 1.0)
        row = row * tl.div_rn(1.0, tl.sqrt_rn(mean + epsilon))
        if WEIGHTED:
            row = weight * row
    if QUANTIZED:
        rounded, largest = _round_row(row, inside)
        tl.store(q + t * FILLED + k, rounded.to(tl.int8), mask=k < FILLED)
        tl.store(steps + t, tl.div_rn(largest, 127.0))
        tl.store(sums + t, tl.sum(rounded, 0))
    else:
        tl.store(y + t * COLUMNS + k, row.to(y.dtype.element_ty), mask=inside)


@triton.jit
def multiply_few(
    q,
    steps,
    sums,
    codes,
    scales,
    bias,
    y,
    rows,
    WORDS: tl.constexpr,
    BLOCK_WORDS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    ADD: tl.constexpr,
    BIASED: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    """Write y[t, n] = (sum over k of q[t, k] codes[n, k]) * steps[t] scales[n] + bias[n], or add it to y, for few t.

    Grid: (row blocks, T). q and codes are read as int32 words; a row of codes is one load.
    """
    _start(PDL)
    n = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    t = tl.program_id(1)
    i = tl.arange(0, BLOCK_WORDS)
    known = (n < rows)[:, None] & (i < WORDS)[None, :]
    fields = tl.load(codes + n[:, None].to(tl.int64) * WORDS + i[None, :], mask=known, other=0)
    scale = tl.load(scales + n, mask=n < rows, other=0.0)
    _wait(PDL)
    at = (i // 16) * 64 + i % 16
    step, of_q = tl.load(steps + t), tl.load(sums + t)
    total = tl.zeros((BLOCK_ROWS, BLOCK_WORDS), tl.int32)
    for j in tl.static_range(4):
        words = tl.load(q + t * (4 * WORDS) + (at + 16 * j)[None, :], mask=(i < WORDS)[None, :], other=0)
        part = (fields >> (2 * j)) & 0x03030303
        total = _dot4(part, tl.broadcast_to(words, (BLOCK_ROWS, BLOCK_WORDS)), total, ASM)
    value = (tl.sum(total, 1) - of_q).to(tl.float32) * (step * scale)
    if BIASED:
        value += tl.load(bias + n, mask=n < rows, other=0.0)
    out = y + t.to(tl.int64) * rows + n
    if ADD:
        value += tl.load(out, mask=n < rows, other=0.0).to(tl.float32)
    tl.store(out, value.to(y.dtype.element_ty), mask=n < rows)


@triton.jit
def _choose_tile(rows, tokens, BLOCK_ROWS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, GROUP: tl.constexpr):
    """Return the rows and the tokens of this program; tiles traverse GROUP row blocks before the next tokens."""
    row_blocks, token_blocks = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(tokens, BLOCK_TOKENS)
    pid = tl.program_id(0)
    in_group = GROUP * token_blocks
    first = (pid // in_group) * GROUP
    size = min(row_blocks - first, GROUP)
    n = (first + (pid % in_group) % size) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return n, ((pid % in_group) // size) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)


@triton.jit(do_not_specialize=["tokens", "blocks"])
def multiply_many(
    q,
    steps,
    sums,
    codes,
    scales,
    bias,
    y,
    tokens,
    rows,
    blocks,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    ADD: tl.constexpr,
    BIASED: tl.constexpr,
    ASM: tl.constexpr,
    PDL: tl.constexpr,
):
    """Compute `multiply_few` for many tokens on int8 tensor cores; codes are the left operand, unpacked in registers.

    q is int8 [T, 256 blocks], codes uint8 [N, 64 blocks]. Grid: one program per tile, in groups of GROUP row blocks, so
    that neighbours share activations and codes in the L2 cache.
    """
    _start(PDL)
    n, t = _choose_tile(rows, tokens, BLOCK_ROWS, BLOCK_TOKENS, GROUP)
    p = tl.arange(0, FIELD)
    left = codes + tl.where(n < rows, n, 0).to(tl.int64)[:, None] * (blocks * 64) + p[None, :]
    right = q + tl.where(t < tokens, t, 0).to(tl.int64)[None, :] * (blocks * 256) + p[:, None]
    _wait(PDL)
    total = tl.zeros((BLOCK_ROWS, BLOCK_TOKENS), tl.int32)
    for _ in range(blocks):
        packed = tl.load(left)
        for j in tl.static_range(4):
            total = tl.dot(_unpack(packed, j, ASM), tl.load(right + 64 * j), total, out_dtype=tl.int32)
        left += 64
        right += 256
    exact = total - tl.load(sums + t, mask=t < tokens, other=0)[None, :]
    step = tl.load(steps + t, mask=t < tokens, other=0.0)[None, :]
    value = exact.to(tl.float32) * (step * tl.load(scales + n, mask=n < rows, other=0.0)[:, None])
    if BIASED:
        value += tl.load(bias + n, mask=n < rows, other=0.0)[:, None]
    out = y + t.to(tl.int64)[None, :] * rows + n[:, None]
    inside = (n < rows)[:, None] & (t < tokens)[None, :]
    if ADD:
        value += tl.load(out, mask=inside, other=0.0).to(tl.float32)
    tl.store(out, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _load_rotated(
    heads,
    norm,
    cosines,
    sines,
    angle,
    epsilon,
    known,
    i,
    HALF: tl.constexpr,
    NORMED: tl.constexpr,
):
    """Return heads [R, 2 HALF] at the pointers *heads* [R, 1], after an RMS norm if NORMED, rotated, in float32.

    Element i is rotated with its partner, half a head away: y[i] = x[i] cos[i mod HALF] -+ x[partner] sin[i mod HALF].
    *angle* [R, 1] are the offsets of the positions in the tables.
    """
    partner = tl.where(i < HALF, i + HALF, i - HALF)[None, :]
    x = tl.load(heads + i[None, :], mask=known, other=0.0).to(tl.float32)
    other = tl.load(heads + partner, mask=known, other=0.0).to(tl.float32)
    if NORMED:
        scale = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(tl.sum(x * x, 1), 2.0 * HALF) + epsilon))[:, None]
        inside = i < 2 * HALF
        x *= scale * tl.load(norm + i, mask=inside, other=0.0)[None, :]
        other *= scale * tl.load(norm + tl.where(i < HALF, i + HALF, i - HALF), mask=inside, other=0.0)[None, :]
    at = angle + (i % HALF)[None, :]
    cosine, sine = tl.load(cosines + at, mask=known, other=0.0), tl.load(sines + at, mask=known, other=0.0)
    return x * cosine + tl.where(i < HALF, -other, other) * sine


@triton.jit
def _append(
    row,
    at,
    position,
    keys,
    values,
    cosines,
    sines,
    norm,
    epsilon,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
):
    """Store the rotated key from row + KEY and the value from row + VALUE at *at* of the cache."""
    i = tl.arange(0, BLOCK)
    known = (i < 2 * HALF)[None, :]
    here = tl.zeros((1, 1), tl.int32)
    key = _load_rotated(row + KEY + here, norm, cosines, sines, position * HALF + here, epsilon, known, i, HALF, NORMED)
    tl.store(keys + at + i[None, :], key.to(keys.dtype.element_ty), mask=known)
    tl.store(values + at + i[None, :], tl.load(row + VALUE + i[None, :], mask=known, other=0.0), mask=known)


@triton.jit
def append_keys(
    qkv,
    slots,
    positions,
    keys,
    values,
    cosines,
    sines,
    key_norm,
    epsilon,
    capacity,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Rotate the keys of qkv [T, (HEADS + 2 KV_HEADS) * 2 HALF] and store keys and values in the cache.

    The cache is [slots, KV_HEADS, capacity, 2 HALF]; cosines and sines are float32 [positions, HALF]. Grid:
    (T, KV_HEADS).
    """
    _start(PDL)
    D: tl.constexpr = 2 * HALF
    t, head = tl.program_id(0), tl.program_id(1)
    slot, position = tl.load(slots + t).to(tl.int64), tl.load(positions + t)
    _wait(PDL)
    row = qkv + t.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * D) + head * D
    at = ((slot * KV_HEADS + head) * capacity + position) * D
    KEY: tl.constexpr = HEADS * D
    VALUE: tl.constexpr = (HEADS + KV_HEADS) * D
    _append(row, at, position, keys, values, cosines, sines, key_norm, epsilon, KEY, VALUE, HALF, BLOCK, NORMED)


@triton.jit
def _attend_keys(
    query, keys, values, base, begin, until, end, position, scale, i, D: tl.constexpr, BLOCK_KEYS: tl.constexpr
):
    """Return (largest score, sum of weights, weighted values) of each row of *query* [R, B] over a part of the keys.

    The part is *begin* to *until* of the *end* written keys at *base* of the cache; row r sees keys up to
    *position*[r]. Scores are in log2.
    """
    top = tl.full((query.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((query.shape[0],), tl.float32)
    sums = tl.zeros((query.shape[0], query.shape[1]), tl.float32)
    factor = scale * 1.4426950408889634  # log2(e)
    for at in range(begin, until, BLOCK_KEYS):
        k = at + tl.arange(0, BLOCK_KEYS)
        written = (k < end)[:, None] & (i < D)[None, :]
        at_keys = base + k[:, None] * D + i[None, :]
        key = tl.load(keys + at_keys, mask=written, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="tf32x3") * factor
        scores = tl.where(k[None, :] <= position[:, None], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        # a row that has seen no key so far, such as one beyond the tile, has a maximum of -inf
        base_line = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base_line[:, None])
        shrink = tl.exp2(top - base_line)
        total = total * shrink + tl.sum(weights, 1)
        value = tl.load(values + at_keys, mask=written, other=0.0)
        sums = tl.dot(weights.to(values.dtype.element_ty), value, sums * shrink[:, None], input_precision="tf32x3")
        top = higher
    return top, total, sums


@triton.jit
def _merge_splits(
    top, total, sums, parts, arrived, group, split, SPLITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store the sums of this program in *parts*; return (sum of weights, weighted values) of all programs, complete
    only for the last to arrive, and whether this program is that one.
    """
    r, i = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    STRIDE: tl.constexpr = ROWS * (BLOCK + 2)
    mine = parts + (group * SPLITS + split) * STRIDE
    tl.store(mine + r[:, None] * BLOCK + i[None, :], sums)
    tl.store(mine + ROWS * BLOCK + r, top)
    tl.store(mine + ROWS * (BLOCK + 1) + r, total)
    tl.debug_barrier()
    last = tl.atomic_add(arrived + group, 1, sem="acq_rel") == SPLITS - 1
    if last:
        tl.debug_barrier()
        tl.store(arrived + group, 0)
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        sums = tl.zeros((ROWS, BLOCK), tl.float32)
        for other in tl.static_range(SPLITS):
            part = parts + (group * SPLITS + other) * STRIDE
            # other programs' sums are in the L2 cache, but this one's L1 may hold older values
            its_top = tl.load(part + ROWS * BLOCK + r, cache_modifier=".cg")
            its_total = tl.load(part + ROWS * (BLOCK + 1) + r, cache_modifier=".cg")
            its_sums = tl.load(part + r[:, None] * BLOCK + i[None, :], cache_modifier=".cg")
            higher = tl.maximum(top, its_top)
            base_line = tl.where(higher == float("-inf"), 0.0, higher)
            shrink, grow = tl.exp2(top - base_line), tl.exp2(its_top - base_line)
            total = total * shrink + its_total * grow
            sums = sums * shrink[:, None] + its_sums * grow[:, None]
            top = higher
    return total, sums, last


# fmt: off
@triton.jit
def attend(
    qkv, out, slots, positions, tiles, keys, values, cosines, sines, query_norm, key_norm, parts, arrived,
    epsilon, scale, capacity,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, SPLITS: tl.constexpr, NORMED: tl.constexpr, APPENDS: tl.constexpr, PDL: tl.constexpr,
):
    # fmt: on
    """Rotate queries and attend causally to a slot of the cache: qkv -> out [T, HEADS * 2 HALF].

    A tile, int32 [2] of (first token, tokens), is a run of tokens of one slot; its tokens and the HEADS / KV_HEADS
    query heads that share keys are the ROWS rows of the products. APPENDS: a tile is one token, whose key and value
    are stored first. Grid: (tiles, KV_HEADS, SPLITS). Flash attention (arXiv:2205.14135) with float32 scores and sums.

    With SPLITS > 1 each program reads some of the keys and stores its sums in *parts*, float32 [tiles, KV_HEADS,
    SPLITS, ROWS, BLOCK + 2]; the last to arrive (*arrived*, int32 [tiles, KV_HEADS], 0 before and after) merges them.
    """
    _start(PDL)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    D: tl.constexpr = 2 * HALF
    WIDTH: tl.constexpr = (HEADS + 2 * KV_HEADS) * D
    tile, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, count = tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)
    slot, start = tl.load(slots + first).to(tl.int64), tl.load(positions + first)
    r, i = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    token, head = r // GROUP, kv * GROUP + r % GROUP
    known = (token < count)[:, None] & (i < D)[None, :]
    base, end = (slot * KV_HEADS + kv) * capacity * D, start + count
    share = tl.cdiv(tl.cdiv(end, SPLITS), BLOCK_KEYS) * BLOCK_KEYS
    _wait(PDL)
    if APPENDS:
        if split == start // share:  # the program that will read it
            row, to = qkv + first.to(tl.int64) * WIDTH + kv * D, base + start * D
            KEY: tl.constexpr = HEADS * D
            VALUE: tl.constexpr = (HEADS + KV_HEADS) * D
            _append(row, to, start, keys, values, cosines, sines, key_norm, epsilon, KEY, VALUE, HALF, BLOCK, NORMED)
            tl.debug_barrier()  # the loop reads what was just stored
    place = qkv + ((first + token).to(tl.int64) * WIDTH + head * D)[:, None]
    angle = ((start + token) * HALF)[:, None]
    query = _load_rotated(place, query_norm, cosines, sines, angle, epsilon, known, i, HALF, NORMED)
    query = query.to(keys.dtype.element_ty)
    begin, until, at = split * share, min(end, (split + 1) * share), start + token
    top, total, sums = _attend_keys(query, keys, values, base, begin, until, end, at, scale, i, D, BLOCK_KEYS)
    last = True
    if SPLITS > 1:
        group = tile * KV_HEADS + kv
        total, sums, last = _merge_splits(top, total, sums, parts, arrived, group, split, SPLITS, ROWS, BLOCK)
    if last:
        target = out + (first + token).to(tl.int64)[:, None] * (HEADS * D) + (head * D)[:, None] + i[None, :]
        result = tl.div_rn(sums, tl.broadcast_to(total[:, None], (ROWS, BLOCK)))
        tl.store(target, result.to(out.dtype.element_ty), mask=known)
