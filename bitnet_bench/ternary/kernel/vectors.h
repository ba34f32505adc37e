/* Vectors of 16 floats in the compiler's own notation: one register with AVX-512, two with AVX2, four with NEON. */
#pragma once
#include "kernel.h"
#include "dots.h"
#include <string.h>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

INLINE v16 load16(const float *p) {
    v16 v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store16(float *p, v16 v) { memcpy(p, &v, sizeof v); }
INLINE v16 all16(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

/* The sum of the 16 lanes, always in the same order. */
INLINE float total16(v16 v) {
    float lanes[16];
    store16(lanes, v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

/* e^x to about 2 ulp, 0 below -87: x = n ln 2 + r, a polynomial for e^r (Cephes expf), and n into the exponent. */
INLINE v16 exp16(v16 x) {
    const v16 low = all16(-87.3f), high = all16(88.3f), magic = all16(12582912.0f);
    const i16 under = x < low, over = x > high;
    x = (v16)(((i16)x & ~under & ~over) | ((i16)low & under) | ((i16)high & over));
    const v16 shifted = x * 1.44269504f + magic, n = shifted - magic;
    const v16 r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const i16 exponent = ((i16)shifted - (i16)magic + 127) << 23;
    return (v16)((i16)(p * (v16)exponent) & ~under);
}
