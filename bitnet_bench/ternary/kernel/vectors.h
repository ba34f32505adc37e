/* Vectors of VECTOR floats in the compiler's own notation. Included once for each width that a file uses: a vector that
 * is wider than the registers goes through memory at every step. */
#include "kernel.h"
#include "dots.h"
#include <string.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define V(name) PASTE(name, VECTOR) /* vec8, load8, ... */

typedef float V(vec) __attribute__((vector_size(4 * VECTOR)));
typedef int32_t V(ints) __attribute__((vector_size(4 * VECTOR)));

INLINE V(vec) V(load)(const float *p) {
    V(vec) v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void V(store)(float *p, V(vec) v) { memcpy(p, &v, sizeof v); }
INLINE V(vec) V(all)(float x) { return x - (V(vec)){0}; }

/* e^x to about 2 ulp, 0 below -87: x = n ln 2 + r, a polynomial for e^r (Cephes expf), and n into the exponent. */
INLINE V(vec) V(exp)(V(vec) x) {
    const V(vec) low = V(all)(-87.3f), high = V(all)(88.3f), magic = V(all)(12582912.0f);
    const V(ints) under = x < low, over = x > high;
    x = (V(vec))(((V(ints))x & ~under & ~over) | ((V(ints))low & under) | ((V(ints))high & over));
    const V(vec) shifted = x * 1.44269504f + magic, n = shifted - magic;
    const V(vec) r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    V(vec) p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const V(ints) exponent = ((V(ints))shifted - (V(ints))magic + 127) << 23;
    return (V(vec))((V(ints))(p * (V(vec))exponent) & ~under);
}

#if VECTOR == 16
#define FROM(w) w, w + 1, w + 2, w + 3, w + 4, w + 5, w + 6, w + 7, w + 8, w + 9, w + 10, w + 11, w + 12, w + 13, w + 14, w + 15
#elif VECTOR == 8
#define FROM(w) w, w + 1, w + 2, w + 3, w + 4, w + 5, w + 6, w + 7
#else
#define FROM(w) w, w + 1, w + 2, w + 3
#endif
#ifdef __clang__
#define TURNED(v, w) __builtin_shufflevector(v, v, FROM(w))
#else
#define TURNED(v, w) __builtin_shuffle(v, (V(ints)){FROM(w)}) /* indices wrap around */
#endif

/* The sum of 16 lanes in 16 / VECTOR vectors, which are overwritten: lane i and i + 8, then i + 4, i + 2 and i + 1. */
INLINE float V(total)(V(vec) *parts) {
    for (int count = 8 / VECTOR; count; count /= 2)
        for (int k = 0; k < count; k++) parts[k] += parts[k + count];
    V(vec) sum = parts[0];
#if VECTOR == 16
    sum += TURNED(sum, 8);
#endif
#if VECTOR >= 8
    sum += TURNED(sum, 4);
#endif
    sum += TURNED(sum, 2);
    sum += TURNED(sum, 1);
    return sum[0];
}
#undef TURNED
#undef FROM
