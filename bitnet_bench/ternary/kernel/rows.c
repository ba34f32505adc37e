/* What happens to rows of activations between the matrix products: norms, gates, int8 quantization, rotation.
 *
 * All of it in float32. Rows are independent, so results do not depend on the batch or on the threads. */
#include "vectors.h"
#include <math.h>

enum activation { NONE, SILU, RELU_SQUARED };

/* How a row of `columns` floats becomes int8: an activation gate, an RMS norm, both or neither come first. */
typedef struct {
    const float *x; /* [tokens][x_stride]; with a gate the second half of 2 x columns is multiplied by act(first half) */
    int64_t x_stride, tokens, columns;
    const float *norm; /* [columns] weight of an RMS norm, NULL for ones */
    float epsilon;
    int32_t normed, activation;
    int8_t *q;          /* [tokens][stride] */
    float *steps;       /* [tokens] */
    int32_t *sums;      /* [tokens] */
    float *y;           /* [tokens][columns], or NULL: the row as it is before quantization */
    int64_t stride;
    int64_t next;
} rows_job_t;

CLONES static void gate(const float *x, int64_t columns, int activation, float *out) {
    const float *up = x + columns;
    if (activation == RELU_SQUARED) {
        for (int64_t i = 0; i < columns; i++) {
            const float r = x[i] > 0.0f ? x[i] : x[i] * 0.0f; /* keeps NaN, as torch's relu does */
            out[i] = r * r * up[i];
        }
        return;
    }
    int64_t i = 0;
    for (; i + 16 <= columns; i += 16) {
        const v16 g = load16(x + i);
        store16(out + i, g / (1.0f + exp16(-g)) * load16(up + i));
    }
    for (; i < columns; i++) out[i] = x[i] / (1.0f + expf(-x[i])) * up[i];
}

CLONES static void rms_norm(const float *x, int64_t columns, const float *weight, float epsilon, float *out) {
    v16 squares = all16(0.0f);
    float rest = 0.0f;
    int64_t i = 0;
    for (; i + 16 <= columns; i += 16) squares += load16(x + i) * load16(x + i);
    for (; i < columns; i++) rest += x[i] * x[i];
    const float scale = 1.0f / sqrtf((total16(squares) + rest) / (float)columns + epsilon);
    if (weight)
        for (i = 0; i < columns; i++) out[i] = weight[i] * (x[i] * scale);
    else
        for (i = 0; i < columns; i++) out[i] = x[i] * scale;
}

/* q = clip(round(x * 127 / max(absmax, 1e-5)), -128, 127), half to even; sums of q; the step absmax / 127.
 *
 * The largest magnitude is found among the bits: NaN is larger than all numbers there, so that a NaN in a row makes
 * its step NaN and is seen in every output instead of being lost in an integer. */
CLONES static void quantize(const float *x, int64_t columns, int64_t stride, int8_t *q, float *step, int32_t *sum) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, half to even */
    int32_t largest_bits = 0, magic_bits, total = 0;
    for (int64_t i = 0; i < columns; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    float largest;
    memcpy(&largest, &largest_bits, 4);
    memcpy(&magic_bits, &magic, 4);
    if (largest < 1e-5f) largest = 1e-5f;
    const float scale = 1.0f / largest * 127.0f; /* two roundings: torch divides a number by a tensor so */
    for (int64_t i = 0; i < columns; i++) {
        const float product = x[i] * scale, shifted = product + magic;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        q[i] = (int8_t)(bits - magic_bits);
        total += q[i];
    }
    memset(q + columns, 0, (size_t)(stride - columns));
    *step = largest / 127.0f;
    *sum = total;
}

static void rows_work(void *argument) {
    rows_job_t *job = argument;
    float *buffer = scratch((size_t)job->columns * sizeof(float));
    for (int64_t t; (t = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tokens;) {
        const float *x = job->x + t * job->x_stride;
        if (job->activation) {
            gate(x, job->columns, job->activation, buffer);
            x = buffer;
        }
        if (job->normed) {
            rms_norm(x, job->columns, job->norm, job->epsilon, buffer);
            x = buffer;
        }
        if (job->y) memcpy(job->y + t * job->columns, x, (size_t)job->columns * sizeof(float));
        if (job->q)
            quantize(x, job->columns, job->stride, job->q + t * job->stride, job->steps + t, job->sums + t);
    }
}

/* Quantize rows for bb_linear, after a gate and a norm where the job has them. */
API void bb_rows(rows_job_t *job, int threads) {
    job->next = 0;
    in_parallel(rows_work, job, job->tokens > 4 ? threads : 1);
}

/* ---- a head for few rows: as fast as the memory gives the table, in the dtype it is stored in ---- */

enum table { BFLOAT16 = 1, FLOAT16, FLOAT32 };

typedef struct {
    const void *table; /* [rows][columns] */
    const float *x;    /* [tokens][columns] */
    float *y;          /* [tokens][rows] */
    int64_t rows, columns, tokens, next;
    int32_t dtype;
} head_job_t;

typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));

INLINE v16 weights16(const void *table, int64_t i, const int dtype) {
    if (dtype == FLOAT32) return load16((const float *)table + i);
    u16x16 narrow;
    memcpy(&narrow, (const uint16_t *)table + i, sizeof narrow);
    const u32x16 bits = __builtin_convertvector(narrow, u32x16);
    if (dtype == BFLOAT16) return (v16)(bits << 16);
    /* float16: exponent and fraction moved into place, and 2^112 for the other bias; exact for subnormals too */
    const v16 magnitude = (v16)((bits & 0x7fff) << 13) * 0x1p112f;
    return (v16)((u32x16)magnitude | (bits & 0x8000) << 16);
}

/* Columns are a multiple of 16: the caller sees to that. Two rows at a time hide the latency of the sums. */
INLINE void head_rows(const head_job_t *job, int64_t from, int64_t to, const int dtype) {
    const int width = dtype == FLOAT32 ? 4 : 2;
    for (int64_t n = from; n < to; n++) {
        const char *w = (const char *)job->table + n * job->columns * width;
        for (int64_t t = 0; t < job->tokens; t++) {
            const float *x = job->x + t * job->columns;
            v16 sums[4] = {all16(0.0f), all16(0.0f), all16(0.0f), all16(0.0f)};
            int64_t i = 0;
            for (; i + 64 <= job->columns; i += 64) {
                __builtin_prefetch(w + i * width + 4096);
                __builtin_prefetch(w + i * width + 4096 + 64);
#pragma GCC unroll 4
                for (int a = 0; a < 4; a++) sums[a] += weights16(w, i + 16 * a, dtype) * load16(x + i + 16 * a);
            }
            for (; i < job->columns; i += 16) sums[0] += weights16(w, i, dtype) * load16(x + i);
            job->y[t * job->rows + n] = total16((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
    }
}

CLONES static void head_bfloat16(const head_job_t *j, int64_t from, int64_t to) { head_rows(j, from, to, BFLOAT16); }
CLONES static void head_float16(const head_job_t *j, int64_t from, int64_t to) { head_rows(j, from, to, FLOAT16); }
CLONES static void head_float32(const head_job_t *j, int64_t from, int64_t to) { head_rows(j, from, to, FLOAT32); }

static void head_work(void *argument) {
    head_job_t *job = argument;
    enum { CHUNK = 256 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;) {
        const int64_t to = n + CHUNK < job->rows ? n + CHUNK : job->rows;
        (job->dtype == BFLOAT16 ? head_bfloat16 : job->dtype == FLOAT16 ? head_float16 : head_float32)(job, n, to);
    }
}

/* y = x @ table.T, products and sums in float32. */
API void bb_head(head_job_t *job, int threads) {
    job->next = 0;
    in_parallel(head_work, job, threads);
}
