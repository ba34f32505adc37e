/* The dot products on 64-bit ARM: with the dot-product extension (ARMv8.2 and later, Apple M1 and later), and with that
 * for matrices of int8 (ARMv8.6, Apple M2, Neoverse V1 and N2, and later). */
#if defined(__aarch64__)
#include "kernel.h"
#include "processor.h"
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
const path_t neon_path = {"neon-dotprod", NEON_DOTPROD, 4, neon_dots_all, 1, portable_bytes, neon_groups_all, 0, NULL, NULL};

#if defined(HAS_I8MM)
#if defined(__clang__)
#define TARGET_I8MM __attribute__((target("dotprod,i8mm")))
#else
#define TARGET_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
/* One instruction multiplies 2 rows of a panel by 2 rows of activations, 8 columns of each. Half a panel at a time: its
 * sums with 8 rows of activations fill 16 registers. */
enum { HALF = 8, PAIRS = HALF / 2, MOST_I8MM_ROWS = 8 };

typedef struct {
    uint8x16_t first[2], last[2]; /* of 4 rows of a panel: columns 0 ... 7 and 8 ... 15 of rows 0 and 1, of 2 and 3 */
} operands_t;

/* Four vectors [4 rows][4 columns] -> rows side by side, 8 columns of each. */
TARGET_I8MM INLINE operands_t side_by_side(uint8x16_t c0, uint8x16_t c1, uint8x16_t c2, uint8x16_t c3) {
    const uint32x4_t a = vreinterpretq_u32_u8(c0), b = vreinterpretq_u32_u8(c1);
    const uint32x4_t c = vreinterpretq_u32_u8(c2), d = vreinterpretq_u32_u8(c3);
    return (operands_t){{vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip1q_u32(c, d))},
                        {vreinterpretq_u8_u32(vzip2q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(c, d))}};
}

/* 4 rows of a panel and 16 columns, of 2-bit codes or of bytes as they are. */
TARGET_I8MM INLINE operands_t i8mm_operands(const uint8_t *from, const int bytes) {
    if (bytes)
        return side_by_side(vld1q_u8(from), vld1q_u8(from + 64), vld1q_u8(from + 128), vld1q_u8(from + 192));
    const uint8x16_t mask = vdupq_n_u8(3), packed = vld1q_u8(from);
    return side_by_side(vandq_u8(packed, mask), vandq_u8(vshrq_n_u8(packed, 2), mask),
                        vandq_u8(vshrq_n_u8(packed, 4), mask), vshrq_n_u8(packed, 6));
}

/* Adds 16 columns of half a panel: sums[pair of activation rows][pair of panel rows]. */
TARGET_I8MM INLINE void i8mm_step(const uint8_t *from, const int8_t *q, int64_t stride, int32x4_t sums[4][PAIRS],
                                  const int rows, const int bytes) {
    int8x16_t first[4], last[4];
    for (int m = 0; m < rows; m += 2) {
        const int64x2_t even = vreinterpretq_s64_s8(vld1q_s8(q + m * stride));
        const int64x2_t odd = m + 1 < rows ? vreinterpretq_s64_s8(vld1q_s8(q + (m + 1) * stride)) : vdupq_n_s64(0);
        first[m / 2] = vreinterpretq_s8_s64(vzip1q_s64(even, odd));
        last[m / 2] = vreinterpretq_s8_s64(vzip2q_s64(even, odd));
    }
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        const operands_t w = i8mm_operands(from + 16 * g, bytes);
#pragma GCC unroll 4
        for (int m = 0; m < (rows + 1) / 2; m++) {
            sums[m][2 * g] = vusmmlaq_s32(sums[m][2 * g], w.first[0], first[m]);
            sums[m][2 * g] = vusmmlaq_s32(sums[m][2 * g], w.first[1], last[m]);
            sums[m][2 * g + 1] = vusmmlaq_s32(sums[m][2 * g + 1], w.last[0], first[m]);
            sums[m][2 * g + 1] = vusmmlaq_s32(sums[m][2 * g + 1], w.last[1], last[m]);
        }
    }
}

/* Sums [2 panel rows][2 activation rows] of two pairs -> 4 panel rows of one activation row. */
TARGET_I8MM INLINE int32x4_t of_row(int32x4_t two, int32x4_t next_two, int odd) {
    return odd ? vuzp2q_s32(two, next_two) : vuzp1q_s32(two, next_two);
}

TARGET_I8MM INLINE void i8mm_sums(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,
                                  const int rows, const int bytes) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *from = codes + 32 * half;
        int32x4_t sums[4][PAIRS];
        for (int m = 0; m < (rows + 1) / 2; m++)
            for (int p = 0; p < PAIRS; p++) sums[m][p] = vdupq_n_s32(0);
        for (int64_t s = 0; s < steps; s++, from += bytes ? 4 * STEP_BYTES : STEP_BYTES) {
            __builtin_prefetch(from + 2048);
            i8mm_step(from, q + s * STEP, stride, sums, rows, bytes);
        }
        for (int m = 0; m < rows; m++)
            for (int g = 0; g < 2; g++)
                vst1q_s32(out + m * PANEL + HALF * half + 4 * g,
                          of_row(sums[m / 2][2 * g], sums[m / 2][2 * g + 1], m % 2));
    }
}

TARGET_I8MM INLINE void i8mm_groups(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                                    const float *scales, float *out, const int rows) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *from = codes + 32 * half;
        const int8_t *q = x->q;
        float32x4_t y[MOST_I8MM_ROWS][2];
        for (int m = 0; m < rows; m++) y[m][0] = y[m][1] = vdupq_n_f32(0.0f);
        for (int64_t g = 0; g < groups; g++) {
            int32x4_t sums[4][PAIRS];
            for (int m = 0; m < (rows + 1) / 2; m++)
                for (int p = 0; p < PAIRS; p++) sums[m][p] = vdupq_n_s32(0);
            for (int64_t s = 0; s < steps; s++, from += STEP_BYTES, q += STEP) {
                __builtin_prefetch(from + 2048);
                i8mm_step(from, q, x->stride, sums, rows, 0);
            }
            for (int m = 0; m < rows; m++)
                for (int r = 0; r < 2; r++) {
                    const int32x4_t excess = vdupq_n_s32(x->sums[m * groups + g]);
                    const int32x4_t sum = of_row(sums[m / 2][2 * r], sums[m / 2][2 * r + 1], m % 2);
                    const float32x4_t wide = vld1q_f32(scales + g * PANEL + HALF * half + 4 * r);
                    const float32x4_t scale = vmulq_n_f32(wide, x->steps[m * groups + g]);
                    y[m][r] = vaddq_f32(y[m][r], vmulq_f32(vcvtq_f32_s32(vsubq_s32(sum, excess)), scale));
                }
        }
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < 2; r++) vst1q_f32(out + m * PANEL + HALF * half + 4 * r, y[m][r]);
    }
}
#define F(M)                                                                                                        \
    TARGET_I8MM static void i8mm_dots##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) {     \
        i8mm_sums(c, s, q, d, o, M, 0);                                                                             \
    }                                                                                                               \
    TARGET_I8MM static void i8mm_bytes##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) {    \
        i8mm_sums(c, s, q, d, o, M, 1);                                                                             \
    }                                                                                                               \
    TARGET_I8MM static void i8mm_groups##M(const uint8_t *c, int64_t s, int64_t g, const group_rows_t *x,           \
                                           const float *w, float *o) {                                              \
        i8mm_groups(c, s, g, x, w, o, M);                                                                           \
    }
EACH8(F)
#undef F
#define F(M) i8mm_dots##M,
static const dots_fn i8mm_dots_all[] = {EACH8(F)};
#undef F
#define F(M) i8mm_bytes##M,
static const dots_fn i8mm_bytes_all[] = {EACH8(F)};
#undef F
#define F(M) i8mm_groups##M,
static const group_dots_fn i8mm_groups_all[] = {EACH8(F)};
#undef F
const path_t i8mm_path = {"neon-i8mm",     NEON_I8MM,       MOST_I8MM_ROWS, i8mm_dots_all, MOST_I8MM_ROWS,
                          i8mm_bytes_all, i8mm_groups_all, 0,              NULL,          NULL};
#endif
#endif
