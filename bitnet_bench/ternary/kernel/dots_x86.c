/* The dot products on x86: AVX512-VNNI, 256-bit VNNI in both encodings, AVX2. */
#if defined(__x86_64__)
#include "kernel.h"
#include "processor.h"
#include "dots.h"
#include <immintrin.h>

#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define TARGET_AVXVNNI __attribute__((target("avx2,avxvnni")))
#define TARGET_AVX2 __attribute__((target("avx2")))
#define AS_WRITTEN(v) __asm__("" : "+x"(v)) /* no reordering of sums into a tree, whose parts do not fit the registers */
#define AHEAD 4096 /* bytes of prefetch: one page */

INLINE int32_t four(const int8_t *q) { return *(const int32_t *)__builtin_assume_aligned(q, 4); }

/* ---- AVX512-VNNI ---- */

/* Straight from the 2-bit codes: for few rows the memory is the limit. With one accumulator a row the dot products
 * would wait for each other (4 cycles each), so few rows get several. */
TARGET_AVX512 INLINE void avx512_dots(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride,
                                      int32_t *out, const int rows) {
    const int apart = rows == 1 ? 4 : rows < 4 ? 2 : 1;
    const __m512i mask = _mm512_set1_epi8(3);
    __m512i sums[12][4];
    for (int m = 0; m < rows; m++)
        for (int a = 0; a < apart; a++) sums[m][a] = _mm512_setzero_si512();
    for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES) {
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
        const __m512i packed = _mm512_loadu_si512(codes);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i fields = _mm512_and_si512(_mm512_srli_epi16(packed, 2 * j), mask);
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++) {
                const __m512i x = _mm512_set1_epi32(four(q + m * stride + s * STEP + 4 * j));
                sums[m][j % apart] = _mm512_dpbusd_epi32(sums[m][j % apart], fields, x);
            }
        }
    }
    for (int m = 0; m < rows; m++) {
        __m512i sum = sums[m][0];
        for (int a = 1; a < apart; a++) sum = _mm512_add_epi32(sum, sums[m][a]);
        _mm512_storeu_si512(out + m * PANEL, sum);
    }
}
#define F(M)                                                                                                      \
    TARGET_AVX512 static void avx512_dots##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) { \
        avx512_dots(c, s, q, d, o, M);                                                                            \
    }
EACH12(F)
#undef F

/* From bytes as they are. */
TARGET_AVX512 INLINE void avx512_bytes(const uint8_t *bytes, int64_t steps, const int8_t *q, int64_t stride,
                                       int32_t *out, const int rows) {
    const int apart = rows < 4 ? 4 : 1;
    __m512i sums[12][4];
    for (int m = 0; m < rows; m++)
        for (int a = 0; a < apart; a++) sums[m][a] = _mm512_setzero_si512();
    for (int64_t s = 0; s < steps; s++, bytes += 4 * STEP_BYTES) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)bytes + j * STEP_BYTES + AHEAD, _MM_HINT_T0);
            const __m512i values = _mm512_loadu_si512(bytes + j * STEP_BYTES);
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++) {
                const __m512i x = _mm512_set1_epi32(four(q + m * stride + s * STEP + 4 * j));
                sums[m][j % apart] = _mm512_dpbusd_epi32(sums[m][j % apart], values, x);
            }
        }
    }
    for (int m = 0; m < rows; m++) {
        __m512i sum = sums[m][0];
        for (int a = 1; a < apart; a++) sum = _mm512_add_epi32(sum, sums[m][a]);
        _mm512_storeu_si512(out + m * PANEL, sum);
    }
}
#define F(M)                                                                                                       \
    TARGET_AVX512 static void avx512_bytes##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) { \
        avx512_bytes(c, s, q, d, o, M);                                                                            \
    }
EACH12(F)
#undef F

/* With a scale per group. Sums begin at what the codes' offset of 1 adds, and become floats at the end of each group. */
TARGET_AVX512 INLINE void avx512_groups(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                                        const float *scales, float *out, const int rows) {
    const int apart = rows == 1 ? 4 : rows < 4 ? 2 : 1;
    const __m512i mask = _mm512_set1_epi8(3);
    __m512 y[12];
    for (int m = 0; m < rows; m++) y[m] = _mm512_setzero_ps();
    const int8_t *q = x->q;
    for (int64_t g = 0; g < groups; g++) {
        __m512i sums[12][4];
        for (int m = 0; m < rows; m++) {
            sums[m][0] = _mm512_set1_epi32(-x->sums[m * groups + g]);
            for (int a = 1; a < apart; a++) sums[m][a] = _mm512_setzero_si512();
        }
        for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES, q += STEP) {
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            const __m512i packed = _mm512_loadu_si512(codes);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m512i fields = _mm512_and_si512(_mm512_srli_epi16(packed, 2 * j), mask);
#pragma GCC unroll 12
                for (int m = 0; m < rows; m++) {
                    const __m512i four_q = _mm512_set1_epi32(four(q + m * x->stride + 4 * j));
                    sums[m][j % apart] = _mm512_dpbusd_epi32(sums[m][j % apart], fields, four_q);
                }
            }
        }
        const __m512 scale = _mm512_loadu_ps(scales + g * PANEL);
        for (int m = 0; m < rows; m++) {
            __m512i sum = sums[m][0];
            for (int a = 1; a < apart; a++) sum = _mm512_add_epi32(sum, sums[m][a]);
            const __m512 unit = _mm512_mul_ps(scale, _mm512_set1_ps(x->steps[m * groups + g]));
            y[m] = _mm512_add_ps(y[m], _mm512_mul_ps(_mm512_cvtepi32_ps(sum), unit));
        }
    }
    for (int m = 0; m < rows; m++) _mm512_storeu_ps(out + m * PANEL, y[m]);
}
#define GROUPS(NAME, TARGET, M)                                                                                       \
    TARGET static void NAME##M(const uint8_t *c, int64_t s, int64_t g, const group_rows_t *x, const float *w, float *o) { \
        NAME(c, s, g, x, w, o, M);                                                                                    \
    }
#define F(M) GROUPS(avx512_groups, TARGET_AVX512, M)
EACH12(F)
#undef F

#define F(M) avx512_groups##M,
const group_dots_fn avx512_groups_all[] = {EACH12(F)};
#undef F
#define F(M) avx512_dots##M,
const dots_fn avx512_dots_all[] = {EACH12(F)};
#undef F
#define F(M) avx512_bytes##M,
const dots_fn avx512_bytes_all[] = {EACH12(F)};
#undef F
const path_t avx512_path = {"avx512-vnni",    AVX512_VNNI,       12, avx512_dots_all, 12,
                            avx512_bytes_all, avx512_groups_all, 0,  NULL,            NULL};

/* ---- 256-bit VNNI: the same loop in the AVX512VL and in the AVX-VNNI encoding ---- */

#define DOTS_256(NAME, TARGET, DPBUSD)                                                                              \
    TARGET INLINE void NAME(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,     \
                            const int rows) {                                                                       \
        const __m256i mask = _mm256_set1_epi8(3);                                                                   \
        __m256i sums[4][2];                                                                                         \
        for (int m = 0; m < rows; m++) sums[m][0] = sums[m][1] = _mm256_setzero_si256();                            \
        for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES) {                                                  \
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);                                                 \
            const __m256i low = _mm256_loadu_si256((const __m256i *)codes);                                         \
            const __m256i high = _mm256_loadu_si256((const __m256i *)(codes + 32));                                 \
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {                                                   \
                const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * j), mask);                            \
                const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, 2 * j), mask);                           \
                _Pragma("GCC unroll 4") for (int m = 0; m < rows; m++) {                                            \
                    const __m256i x = _mm256_set1_epi32(four(q + m * stride + s * STEP + 4 * j));                   \
                    sums[m][0] = DPBUSD(sums[m][0], a, x);                                                          \
                    sums[m][1] = DPBUSD(sums[m][1], b, x);                                                          \
                }                                                                                                   \
            }                                                                                                       \
        }                                                                                                           \
        for (int m = 0; m < rows; m++)                                                                              \
            for (int h = 0; h < 2; h++) _mm256_storeu_si256((__m256i *)(out + m * PANEL + 8 * h), sums[m][h]);      \
    }

/* From bytes as they are. */
#define BYTES_256(NAME, TARGET, DPBUSD)                                                                             \
    TARGET INLINE void NAME(const uint8_t *bytes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,     \
                            const int rows) {                                                                       \
        __m256i sums[4][2];                                                                                         \
        for (int m = 0; m < rows; m++) sums[m][0] = sums[m][1] = _mm256_setzero_si256();                            \
        for (int64_t k = 0; k < 4 * steps; k++, bytes += STEP_BYTES) {                                              \
            _mm_prefetch((const char *)bytes + AHEAD, _MM_HINT_T0);                                                 \
            const __m256i a = _mm256_loadu_si256((const __m256i *)bytes);                                           \
            const __m256i b = _mm256_loadu_si256((const __m256i *)(bytes + 32));                                    \
            _Pragma("GCC unroll 4") for (int m = 0; m < rows; m++) {                                                \
                const __m256i x = _mm256_set1_epi32(four(q + m * stride + 4 * k));                                  \
                sums[m][0] = DPBUSD(sums[m][0], a, x);                                                              \
                sums[m][1] = DPBUSD(sums[m][1], b, x);                                                              \
            }                                                                                                       \
        }                                                                                                           \
        for (int m = 0; m < rows; m++)                                                                              \
            for (int h = 0; h < 2; h++) _mm256_storeu_si256((__m256i *)(out + m * PANEL + 8 * h), sums[m][h]);      \
    }

#define FLOATS_256(SUMS, SCALES, STEP_SIZE) \
    _mm256_mul_ps(_mm256_cvtepi32_ps(SUMS), _mm256_mul_ps(_mm256_loadu_ps(SCALES), _mm256_set1_ps(STEP_SIZE)))

#define GROUPS_256(NAME, TARGET, DPBUSD)                                                                              \
    TARGET INLINE void NAME(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,               \
                            const float *scales, float *out, const int rows) {                                        \
        const __m256i mask = _mm256_set1_epi8(3);                                                                     \
        const int8_t *q = x->q;                                                                                       \
        __m256 y[4][2];                                                                                               \
        for (int m = 0; m < rows; m++) y[m][0] = y[m][1] = _mm256_setzero_ps();                                       \
        for (int64_t g = 0; g < groups; g++) {                                                                        \
            __m256i sums[4][2];                                                                                       \
            for (int m = 0; m < rows; m++) sums[m][0] = sums[m][1] = _mm256_set1_epi32(-x->sums[m * groups + g]);     \
            for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES, q += STEP) {                                     \
                _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);                                               \
                const __m256i low = _mm256_loadu_si256((const __m256i *)codes);                                       \
                const __m256i high = _mm256_loadu_si256((const __m256i *)(codes + 32));                               \
                _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {                                                 \
                    const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * j), mask);                          \
                    const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, 2 * j), mask);                         \
                    _Pragma("GCC unroll 4") for (int m = 0; m < rows; m++) {                                          \
                        const __m256i four_q = _mm256_set1_epi32(four(q + m * x->stride + 4 * j));                    \
                        sums[m][0] = DPBUSD(sums[m][0], a, four_q);                                                   \
                        sums[m][1] = DPBUSD(sums[m][1], b, four_q);                                                   \
                    }                                                                                                 \
                }                                                                                                     \
            }                                                                                                         \
            for (int m = 0; m < rows; m++)                                                                            \
                for (int h = 0; h < 2; h++)                                                                           \
                    y[m][h] = _mm256_add_ps(y[m][h], FLOATS_256(sums[m][h], scales + g * PANEL + 8 * h,               \
                                                                x->steps[m * groups + g]));                           \
        }                                                                                                             \
        for (int m = 0; m < rows; m++)                                                                                \
            for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + m * PANEL + 8 * h, y[m][h]);                           \
    }

/* ---- AVX2: products of bytes are summed in 16 bits (|pair| <= 2 * 2 * 128), 32 of them before they could wrap ---- */

/* The 32-bit sums stay in memory: with them in registers too, the pairs would not fit and go there at every step. */
TARGET_AVX2 INLINE void avx2_dots(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,
                                  const int rows) {
    enum { STEPS_IN_16_BITS = 8 };
    const __m256i mask = _mm256_set1_epi8(3);
    __m256i *sums = (__m256i *)out;
    for (int i = 0; i < 2 * rows; i++) _mm256_storeu_si256(sums + i, _mm256_setzero_si256());
    for (int64_t s = 0; s < steps;) {
        const int64_t end = s + STEPS_IN_16_BITS < steps ? s + STEPS_IN_16_BITS : steps;
        __m256i pairs[4][2];
        for (int m = 0; m < rows; m++) pairs[m][0] = pairs[m][1] = _mm256_setzero_si256();
        for (; s < end; s++, codes += STEP_BYTES) {
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            const __m256i low = _mm256_loadu_si256((const __m256i *)codes);
            const __m256i high = _mm256_loadu_si256((const __m256i *)(codes + 32));
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * j), mask);
                const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, 2 * j), mask);
#pragma GCC unroll 4
                for (int m = 0; m < rows; m++) {
                    const __m256i x = _mm256_set1_epi32(four(q + m * stride + s * STEP + 4 * j));
                    pairs[m][0] = _mm256_add_epi16(pairs[m][0], _mm256_maddubs_epi16(a, x));
                    pairs[m][1] = _mm256_add_epi16(pairs[m][1], _mm256_maddubs_epi16(b, x));
                    AS_WRITTEN(pairs[m][0]);
                    AS_WRITTEN(pairs[m][1]);
                }
            }
        }
        const __m256i ones = _mm256_set1_epi16(1);
        for (int i = 0; i < 2 * rows; i++) {
            const __m256i wide = _mm256_madd_epi16(pairs[i / 2][i % 2], ones);
            _mm256_storeu_si256(sums + i, _mm256_add_epi32(_mm256_loadu_si256(sums + i), wide));
        }
    }
}

/* With a scale per group, which is as long as the sums fit 16 bits. */
TARGET_AVX2 INLINE void avx2_groups(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                                    const float *scales, float *out, const int rows) {
    const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    const int8_t *q = x->q;
    for (int i = 0; i < 2 * rows; i++) _mm256_storeu_ps(out + 8 * i, _mm256_setzero_ps());
    for (int64_t g = 0; g < groups; g++) {
        __m256i pairs[4][2];
        for (int m = 0; m < rows; m++) pairs[m][0] = pairs[m][1] = _mm256_setzero_si256();
        for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES, q += STEP) {
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            const __m256i low = _mm256_loadu_si256((const __m256i *)codes);
            const __m256i high = _mm256_loadu_si256((const __m256i *)(codes + 32));
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * j), mask);
                const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, 2 * j), mask);
#pragma GCC unroll 4
                for (int m = 0; m < rows; m++) {
                    const __m256i four_q = _mm256_set1_epi32(four(q + m * x->stride + 4 * j));
                    pairs[m][0] = _mm256_add_epi16(pairs[m][0], _mm256_maddubs_epi16(a, four_q));
                    pairs[m][1] = _mm256_add_epi16(pairs[m][1], _mm256_maddubs_epi16(b, four_q));
                    AS_WRITTEN(pairs[m][0]);
                    AS_WRITTEN(pairs[m][1]);
                }
            }
        }
        for (int i = 0; i < 2 * rows; i++) {
            const __m256i excess = _mm256_set1_epi32(x->sums[i / 2 * groups + g]);
            const __m256i sums = _mm256_sub_epi32(_mm256_madd_epi16(pairs[i / 2][i % 2], ones), excess);
            const __m256 more = FLOATS_256(sums, scales + g * PANEL + 8 * (i % 2), x->steps[i / 2 * groups + g]);
            _mm256_storeu_ps(out + 8 * i, _mm256_add_ps(_mm256_loadu_ps(out + 8 * i), more));
        }
    }
}

#define ONE_256(NAME, TARGET, M)                                                                          \
    TARGET static void NAME##M(const uint8_t *c, int64_t s, const int8_t *q, int64_t d, int32_t *o) { \
        NAME(c, s, q, d, o, M);                                                                       \
    }
#define TABLES_256(NAME)                                                                               \
    static const dots_fn NAME##_dots_all[] = {NAME##_dots1, NAME##_dots2, NAME##_dots3, NAME##_dots4}; \
    static const group_dots_fn NAME##_groups_all[] = {NAME##_groups1, NAME##_groups2, NAME##_groups3, NAME##_groups4};

#define F(M) ONE_256(avx2_dots, TARGET_AVX2, M) GROUPS(avx2_groups, TARGET_AVX2, M)
EACH4(F)
#undef F
TABLES_256(avx2)
const path_t avx2_path = {"avx2", AVX2, 4, avx2_dots_all, 1, portable_bytes, avx2_groups_all, 0, NULL, NULL};

#define VNNI_256(NAME, TARGET, DPBUSD)            \
    DOTS_256(NAME##_dots, TARGET, DPBUSD)         \
    BYTES_256(NAME##_bytes, TARGET, DPBUSD)       \
    GROUPS_256(NAME##_groups, TARGET, DPBUSD)
#define PATH_256(VARIABLE, NAME, NEEDS, OF)                                                                \
    TABLES_256(OF)                                                                                         \
    static const dots_fn OF##_bytes_all[] = {OF##_bytes1, OF##_bytes2, OF##_bytes3, OF##_bytes4};          \
    const path_t VARIABLE = {NAME, NEEDS, 4, OF##_dots_all, 4, OF##_bytes_all, OF##_groups_all, 0, NULL, NULL};

VNNI_256(vnni256, TARGET_AVX512, _mm256_dpbusd_epi32)
#define F(M)                                 \
    ONE_256(vnni256_dots, TARGET_AVX512, M)  \
    ONE_256(vnni256_bytes, TARGET_AVX512, M) \
    GROUPS(vnni256_groups, TARGET_AVX512, M)
EACH4(F)
#undef F
PATH_256(vnni256_path, "avx512-vnni-256", AVX512_VNNI, vnni256)

#if defined(HAS_AVXVNNI)
VNNI_256(avxvnni, TARGET_AVXVNNI, _mm256_dpbusd_avx_epi32)
#define F(M)                                  \
    ONE_256(avxvnni_dots, TARGET_AVXVNNI, M)  \
    ONE_256(avxvnni_bytes, TARGET_AVXVNNI, M) \
    GROUPS(avxvnni_groups, TARGET_AVXVNNI, M)
EACH4(F)
#undef F
PATH_256(avxvnni_path, "avx-vnni", AVX_VNNI, avxvnni)
#endif
#endif
