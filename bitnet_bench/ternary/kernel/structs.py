"""Mirror the structs of kernel.h in ctypes: the same fields in the same order."""

from __future__ import annotations

from ctypes import Structure, c_double, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p


class Part(Structure):
    """One layer of a product: its codes, scales and bias."""

    _fields_ = (
        ("codes", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("scale", c_float),
        ("kind", c_int32),
        ("rows", c_int64),
    )


class RowsPointers(Structure):
    """Quantized activations."""

    _fields_ = (
        ("q", c_void_p),
        ("steps", c_void_p),
        ("sums", c_void_p),
        ("tokens", c_int64),
        ("columns", c_int64),
        ("stride", c_int64),
        ("group", c_int64),
        ("digits", c_int64),
    )


class RowsJob(Structure):
    """A quantization of rows, with the activation and the norm before it."""

    _fields_ = (
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("tokens", c_int64),
        ("columns", c_int64),
        ("norm", c_void_p),
        ("epsilon", c_float),
        ("normed", c_int32),
        ("activation", c_int32),
        ("add", c_int32),
        ("q", c_void_p),
        ("steps", c_void_p),
        ("sums", c_void_p),
        ("y", c_void_p),
        ("stride", c_int64),
        ("group", c_int64),
        ("digits", c_int64),
        ("next", c_int64),
    )


class Attention(Structure):
    """A pass of attention over the cache, with the rotation before it."""

    _fields_ = (
        ("qkv", c_void_p),
        ("stride", c_int64),
        ("tokens", c_int64),
        ("slots", c_void_p),
        ("positions", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("capacity", c_int64),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("dimension", c_int32),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("epsilon", c_float),
        ("scale", c_float),
        ("out", c_void_p),
        ("next", c_int64),
        ("window", c_int32),
        ("narrow", c_int32),
        ("heads_per_tile", c_int32),
        ("most_queries", c_int32),
        ("tiles", c_void_p),
        ("tile_count", c_int64),
    )


class NormPointers(Structure):
    """An RMS norm of rows, or that there is none."""

    _fields_ = (("weight", c_void_p), ("epsilon", c_float), ("exists", c_int32))


class LayerPointers(Structure):
    """A transformer block."""

    _fields_ = (
        *((name, NormPointers) for name in ("input", "attended", "attention_out", "mlp", "gated", "mlp_out")),
        *((name, c_void_p) for name in ("qkv", "out", "gate_up", "down", "query_norm", "key_norm")),
        ("window", c_int32),
        ("angles", c_int32),
    )


class Model(Structure):
    """The layers of a model and what they share."""

    _fields_ = (
        ("layers", c_void_p),
        *((name, c_int64) for name in ("count", "hidden", "intermediate")),
        *((name, c_int32) for name in ("heads", "kv_heads", "dimension", "activation")),
        ("epsilon", c_float),
        ("scale", c_float),
        ("inner", NormPointers),
        ("final", NormPointers),
    )


MOST_ANGLES = 3
"""Tables of rotary positions of a model."""


class Pass(Structure):
    """A forward pass: tokens, their cache, and buffers."""

    _fields_ = (
        *((name, c_void_p) for name in ("model", "hidden", "slots", "positions")),
        ("tokens", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer_bytes", c_int64),
        ("capacity", c_int64),
        ("narrow", c_int32),
        ("mlp_tokens", c_int32),
        ("cosines", c_void_p * MOST_ANGLES),
        ("sines", c_void_p * MOST_ANGLES),
        *((name, c_void_p) for name in ("between", "qkv", "attended", "gate_up", "tiles")),
        *((name, RowsPointers) for name in ("wide", "headed", "gated")),
    )


class Head(Structure):
    """A product with the table of the output head."""

    _fields_ = (
        ("table", c_void_p),
        ("x", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("tokens", c_int64),
        ("next", c_int64),
        ("dtype", c_int32),
    )


class HeadCopy(Structure):
    """A pass that makes an int8 copy of a head, with bounds of its errors."""

    _fields_ = (
        ("table", c_void_p),
        ("bytes", c_void_p),
        ("scales", c_void_p),
        ("errors", c_void_p),
        ("norms", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("next", c_int64),
        ("dtype", c_int32),
    )


class GreedyToken(Structure):
    """What the kernel knows of a token whose largest logit it looks for."""

    _fields_ = (
        *((name, c_double) for name in ("unit", "size", "rest", "of_error", "of_norm", "slack", "lower")),
        ("row", c_int64),
        ("high_sum", c_int32),
        ("low_sum", c_int32),
    )


class Greedy(Structure):
    """A choice of the largest logit by an int8 copy of the head."""

    _fields_ = (
        ("head", Head),
        *((name, c_void_p) for name in ("bytes", "scales", "errors", "norms", "digits", "candidates")),
        ("ids", c_void_p),
        ("counts", c_void_p),
        ("largest_norm", c_double),
        ("stride", c_int64),
        ("known", c_void_p),
        ("count", c_int64),
        ("token", c_int64),
        ("locked", c_int32),
    )


class Lookup(Structure):
    """Rows of a ternary embedding with a scale per group."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("ids", c_void_p),
        ("y", c_void_p),
        ("tokens", c_int64),
        ("columns", c_int64),
        ("group", c_int64),
        ("dtype", c_int32),
    )


class CodeCount(Structure):
    """A comparison of codes with earlier ones, and of masters with the rounding boundaries."""

    _fields_ = (
        ("masters", c_void_p),
        ("codes", c_void_p),
        ("last", c_void_p),
        ("low", c_float),
        ("high", c_float),
        ("count", c_int64),
        ("next", c_int64),
        ("flips", c_int64),
        ("zeros", c_int64),
        ("near", c_int64),
    )


class Matrix(Structure):
    """A pass over a matrix: ternarize, or scale sums or codes."""

    _fields_ = (
        ("x", c_void_p),
        ("y", c_void_p),
        ("scales", c_void_p),
        ("scale", c_float),
        ("kind", c_int32),
        ("rows", c_int64),
        ("columns", c_int64),
        ("next", c_int64),
    )


class Processor(Structure):
    """What a processor says of itself."""

    _fields_ = (
        ("leaf1_ecx", c_uint32),
        ("leaf7_ebx", c_uint32),
        ("leaf7_ecx", c_uint32),
        ("leaf7_edx", c_uint32),
        ("leaf7_1_eax", c_uint32),
        ("tiles_permitted", c_uint32),
        ("xcr0", c_uint64),
        ("hwcap", c_uint64),
        ("hwcap2", c_uint64),
    )
