"""What a processor says of itself decides which features the kernel uses."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import pytest

from bitnet_bench.ternary import kernel
from bitnet_bench.ternary.kernel.structs import Processor

pytestmark = pytest.mark.skipif(kernel.load_library() is None, reason="the CPU kernel is not built here")
AVX2, AVX_VNNI, AVX512_VNNI, AMX_INT8, NEON_DOTPROD, NEON_I8MM = (1 << i for i in range(6))
OSXSAVE, YMM, ZMM, TILES = 1 << 27, 0x7, 0xE0, 0x60000
AVX2_BIT, AVX512_BITS, VNNI_BIT, TILE_BITS, AVX_VNNI_BIT = 1 << 5, 1 << 16 | 1 << 30 | 1 << 31, 1 << 11, 3 << 24, 1 << 4

HASWELL: dict[str, int] = {"leaf1_ecx": OSXSAVE, "leaf7_ebx": AVX2_BIT, "xcr0": YMM}
ALDER_LAKE = HASWELL | {"leaf7_1_eax": AVX_VNNI_BIT}
ICE_LAKE = HASWELL | {"leaf7_ebx": AVX2_BIT | AVX512_BITS, "leaf7_ecx": VNNI_BIT, "xcr0": YMM | ZMM}
ZEN_5 = ICE_LAKE | {"leaf7_1_eax": AVX_VNNI_BIT}
SAPPHIRE_RAPIDS = ZEN_5 | {"leaf7_edx": TILE_BITS, "xcr0": YMM | ZMM | TILES, "tiles_permitted": 1}


@pytest.mark.parametrize(
    ("processor", "features"),
    [
        ({"leaf7_ebx": AVX2_BIT}, 0),
        (HASWELL, AVX2),
        (ALDER_LAKE, AVX2 | AVX_VNNI),
        (ICE_LAKE, AVX2 | AVX512_VNNI),
        (ZEN_5, AVX2 | AVX_VNNI | AVX512_VNNI),
        (SAPPHIRE_RAPIDS, AVX2 | AVX_VNNI | AVX512_VNNI | AMX_INT8),
        (SAPPHIRE_RAPIDS | {"tiles_permitted": 0}, AVX2 | AVX_VNNI | AVX512_VNNI),
        (SAPPHIRE_RAPIDS | {"xcr0": YMM | ZMM}, AVX2 | AVX_VNNI | AVX512_VNNI),
        (SAPPHIRE_RAPIDS | {"leaf7_edx": 1 << 24}, AVX2 | AVX_VNNI | AVX512_VNNI),
        (SAPPHIRE_RAPIDS | {"xcr0": YMM}, AVX2 | AVX_VNNI),
        (SAPPHIRE_RAPIDS | {"leaf1_ecx": 0}, 0),
        (ICE_LAKE | {"leaf7_ecx": 0}, AVX2),
        ({"hwcap": 1 << 20}, NEON_DOTPROD),
        ({"hwcap": 1 << 20, "hwcap2": 1 << 13}, NEON_DOTPROD | NEON_I8MM),
        ({"hwcap2": 1 << 13}, 0),
        ({"hwcap": ~(1 << 20) & 0xFFFFFFFF}, 0),
    ],
)
def test_features_need_the_processor_and_its_system(processor: dict[str, int], features: int) -> None:
    """Instructions count only if the system keeps their registers, and tiles only if it was asked for them."""
    library: Any = kernel.load_library()
    assert library.bb_features_of(byref(Processor(**processor))) == features
