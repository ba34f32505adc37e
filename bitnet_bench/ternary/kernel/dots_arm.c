/* The dot products on 64-bit ARM with the dot-product extension (ARMv8.2 and later, Apple M1 and later). */
#if defined(__aarch64__)
#include "kernel.h"
#include "dots.h"
#include <arm_neon.h>

#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod"))) /* GCC inlines vdotq into nothing less */
#endif

TARGET INLINE void neon_dots(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,
                             const int rows) {
    const uint8x16_t mask = vdupq_n_u8(3);
    int32x4_t sums[4][4];
    for (int m = 0; m < rows; m++)
        for (int g = 0; g < 4; g++) sums[m][g] = vdupq_n_s32(0);
    for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES) {
        __builtin_prefetch(codes + 2048);
        int8x16_t x[4];
        for (int m = 0; m < rows; m++) x[m] = vld1q_s8(q + m * stride + s * STEP);
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) { /* 4 rows of the panel */
            const uint8x16_t packed = vld1q_u8(codes + 16 * g);
            const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(packed, mask));
            const int8x16_t c1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), mask));
            const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), mask));
            const int8x16_t c3 = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
#pragma GCC unroll 4
            for (int m = 0; m < rows; m++) {
                sums[m][g] = vdotq_laneq_s32(sums[m][g], c0, x[m], 0);
                sums[m][g] = vdotq_laneq_s32(sums[m][g], c1, x[m], 1);
                sums[m][g] = vdotq_laneq_s32(sums[m][g], c2, x[m], 2);
                sums[m][g] = vdotq_laneq_s32(sums[m][g], c3, x[m], 3);
            }
        }
    }
    for (int m = 0; m < rows; m++)
        for (int g = 0; g < 4; g++) vst1q_s32(out + m * PANEL + 4 * g, sums[m][g]);
}
#define F(M)                                                                                                \
    TARGET static void neon_dots##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) { \
        neon_dots(c, s, q, d, o, M);                                                                        \
    }
EACH4(F)
#undef F

/* With a scale per group: sums begin at what the codes' offset of 1 adds, and become floats at the end of each group. */
TARGET INLINE void neon_groups(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                               const float *scales, float *out, const int rows) {
    const uint8x16_t mask = vdupq_n_u8(3);
    float32x4_t y[4][4];
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < 4; r++) y[m][r] = vdupq_n_f32(0.0f);
    for (int64_t g = 0; g < groups; g++) {
        int32x4_t sums[4][4];
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < 4; r++) sums[m][r] = vdupq_n_s32(-x->sums[m * groups + g]);
        for (int64_t s = g * steps; s < (g + 1) * steps; s++, codes += STEP_BYTES) {
            __builtin_prefetch(codes + 2048);
            int8x16_t q[4];
            for (int m = 0; m < rows; m++) q[m] = vld1q_s8(x->q + m * x->stride + s * STEP);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) { /* 4 rows of the panel */
                const uint8x16_t packed = vld1q_u8(codes + 16 * r);
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(packed, mask));
                const int8x16_t c1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), mask));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), mask));
                const int8x16_t c3 = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
#pragma GCC unroll 4
                for (int m = 0; m < rows; m++) {
                    sums[m][r] = vdotq_laneq_s32(sums[m][r], c0, q[m], 0);
                    sums[m][r] = vdotq_laneq_s32(sums[m][r], c1, q[m], 1);
                    sums[m][r] = vdotq_laneq_s32(sums[m][r], c2, q[m], 2);
                    sums[m][r] = vdotq_laneq_s32(sums[m][r], c3, q[m], 3);
                }
            }
        }
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < 4; r++) {
                const float32x4_t scale = vmulq_n_f32(vld1q_f32(scales + g * PANEL + 4 * r), x->steps[m * groups + g]);
                y[m][r] = vaddq_f32(y[m][r], vmulq_f32(vcvtq_f32_s32(sums[m][r]), scale));
            }
    }
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < 4; r++) vst1q_f32(out + m * PANEL + 4 * r, y[m][r]);
}
#define F(M)                                                                                                        \
    TARGET static void neon_groups##M(const uint8_t *c, int64_t s, int64_t g, const group_rows_t *x, const float *w, \
                                      float *o) {                                                                   \
        neon_groups(c, s, g, x, w, o, M);                                                                           \
    }
EACH4(F)
#undef F
static const group_dots_fn neon_groups_all[] = {neon_groups1, neon_groups2, neon_groups3, neon_groups4};
static const dots_fn neon_dots_all[] = {neon_dots1, neon_dots2, neon_dots3, neon_dots4};
const path_t neon_path = {"neon-dotprod", 4, neon_dots_all, 1, portable_bytes, neon_groups_all};
#endif
