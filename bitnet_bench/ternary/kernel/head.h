/* Rows of a head in vectors of VECTOR floats. Included once for each width. The sums are the same 64 at any width, and are
 * added up in the same order. */
#include "vectors.h"

typedef uint16_t V(narrow) __attribute__((vector_size(2 * VECTOR)));
typedef uint32_t V(bits) __attribute__((vector_size(4 * VECTOR)));

INLINE V(vec) V(weights)(const void *table, int64_t i, const int dtype) {
    if (dtype == FLOAT32) return V(load)((const float *)table + i);
    V(narrow) narrow;
    memcpy(&narrow, (const uint16_t *)table + i, sizeof narrow);
    const V(bits) bits = __builtin_convertvector(narrow, V(bits));
    if (dtype == BFLOAT16) return (V(vec))(bits << 16);
    /* float16: exponent and fraction moved into place, and 2^112 for the other bias; exact for subnormals too */
    const V(vec) magnitude = (V(vec))((bits & 0x7fff) << 13) * 0x1p112f;
    return (V(vec))((V(bits))magnitude | (bits & 0x8000) << 16);
}

/* A logit from its 64 sums, which are overwritten. */
INLINE float V(logit)(V(vec) *sums) {
    enum { PARTS = 16 / VECTOR };
    for (int a = 0; a < PARTS; a++)
        sums[a] = (sums[a] + sums[a + PARTS]) + (sums[a + 2 * PARTS] + sums[a + 3 * PARTS]);
    return V(total)(sums);
}

/* Columns are a multiple of 16: the caller sees to that. */
INLINE void V(head_rows)(const head_job_t *job, int64_t from, int64_t to, const int dtype) {
    enum { PARTS = 16 / VECTOR, SUMS = 64 / VECTOR };
    const int width = dtype == FLOAT32 ? 4 : 2;
    for (int64_t n = from; n < to; n++) {
        const char *w = (const char *)job->table + n * job->columns * width;
        for (int64_t t = 0; t < job->tokens; t++) {
            const float *x = job->x + t * job->columns;
            V(vec) sums[SUMS];
            for (int a = 0; a < SUMS; a++) sums[a] = V(all)(0.0f);
            int64_t i = 0;
            for (; i + 64 <= job->columns; i += 64) {
                for (int line = 0; line < 64 * width; line += 64) __builtin_prefetch(w + i * width + 4096 + line);
#pragma GCC unroll 16
                for (int a = 0; a < SUMS; a++)
                    sums[a] += V(weights)(w, i + VECTOR * a, dtype) * V(load)(x + i + VECTOR * a);
            }
            for (; i < job->columns; i += 16)
#pragma GCC unroll 4
                for (int a = 0; a < PARTS; a++)
                    sums[a] += V(weights)(w, i + VECTOR * a, dtype) * V(load)(x + i + VECTOR * a);
            job->y[t * job->rows + n] = V(logit)(sums);
        }
    }
}

#define HEAD(W, DTYPE) PASTE(PASTE(head, W), _##DTYPE)
#define F(DTYPE)                                                                           \
    static void HEAD(VECTOR, DTYPE)(const head_job_t *job, int64_t from, int64_t to) {     \
        V(head_rows)(job, from, to, DTYPE);                                                \
    }
F(BFLOAT16) F(FLOAT16) F(FLOAT32)
#undef F
static const head_fn V(heads)[] = {HEAD(VECTOR, BFLOAT16), HEAD(VECTOR, FLOAT16), HEAD(VECTOR, FLOAT32)};
#undef HEAD
#include "head_many.h"
#undef VECTOR
