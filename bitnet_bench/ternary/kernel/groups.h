/* Products of a panel with a scale per group and float activations, in vectors of VECTOR floats: lanes are rows of the
 * panel, so that the order of every sum is the same at any width. Included once for each width. */
#include "vectors.h"

/* x + code * a for the 2-bit codes in the lowest bits of each lane. The product is x, -x or 0: a fused sum has the same
 * bits as one that is not. */
#if VECTOR == 16 && defined(WIDER_VECTORS)
#define LANES(bits) ((vec16)_mm512_permutevar_ps(_mm512_set4_ps(0.0f, 1.0f, 0.0f, -1.0f), (__m512i)(bits)))
#define ADD_PRODUCT(sum, w, a) ((vec16)_mm512_fmadd_ps((__m512)(w), _mm512_set1_ps(a), (__m512)(sum)))
#elif VECTOR == 8 && defined(WIDER_VECTORS)
#define LANES(bits) ((vec8)_mm256_permutevar_ps(_mm256_setr_ps(-1, 0, 1, 0, -1, 0, 1, 0), (__m256i)(bits)))
#define ADD_PRODUCT(sum, w, a) ((vec8)_mm256_fmadd_ps((__m256)(w), _mm256_set1_ps(a), (__m256)(sum)))
#else
#define LANES(bits) (__builtin_convertvector(((bits)&3) - 1, V(vec)))
#define ADD_PRODUCT(sum, w, a) ((sum) + (w) * (a))
#endif

INLINE void V(float_groups)(const uint8_t *codes, int64_t steps, int64_t groups, const float *x, int64_t stride,
                            const float *scales, float *out, const int rows) {
    for (int part = 0; part < 16 / VECTOR; part++) {
        const uint8_t *at = codes + part * 4 * VECTOR;
        const float *a = x;
        V(vec) y[4];
        for (int m = 0; m < rows; m++) y[m] = V(all)(0.0f);
        for (int64_t g = 0; g < groups; g++) {
            V(vec) sums[4][4];
            for (int m = 0; m < rows; m++)
                for (int i = 0; i < 4; i++) sums[m][i] = V(all)(0.0f);
            for (int64_t s = 0; s < steps; s++, at += STEP_BYTES, a += STEP) {
                __builtin_prefetch(at + 4096);
                V(ints) packed;
                memcpy(&packed, at, sizeof packed);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        const V(vec) w = LANES(packed >> (8 * i + 2 * j));
#pragma GCC unroll 4
                        for (int m = 0; m < rows; m++)
                            sums[m][i] = ADD_PRODUCT(sums[m][i], w, a[m * stride + 4 * j + i]);
                    }
            }
            const V(vec) scale = V(load)(scales + g * PANEL + part * VECTOR);
            for (int m = 0; m < rows; m++)
                y[m] += ((sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3])) * scale;
        }
        for (int m = 0; m < rows; m++) V(store)(out + m * PANEL + part * VECTOR, y[m]);
    }
}

#define ONE(W, M) PASTE(PASTE(floats, W), _##M)
#define F(M)                                                                                                       \
    static void ONE(VECTOR, M)(const uint8_t *codes, int64_t steps, int64_t groups, const float *x, int64_t stride, \
                               const float *scales, float *out) {                                                  \
        V(float_groups)(codes, steps, groups, x, stride, scales, out, M);                                          \
    }
EACH4(F)
#undef F
static const float_fn V(float_rows)[] = {ONE(VECTOR, 1), ONE(VECTOR, 2), ONE(VECTOR, 3), ONE(VECTOR, 4)};
#undef ONE
#undef LANES
#undef ADD_PRODUCT
#undef VECTOR
