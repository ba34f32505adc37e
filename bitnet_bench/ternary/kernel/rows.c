/* What happens to rows of activations between the matrix products: norms, gates, int8 quantization, rotation.
 *
 * All of it in float32. Rows are independent, so results do not depend on the batch or on the threads. */
#define VECTOR 16
#include "vectors.h"
#include <math.h>

#define TWICE_ROOT_2_PI 1.5957691216f /* 2 sqrt(2 / pi) */

CLONES_OF_16 static void gate(const float *x, int64_t columns, int activation, float *out) {
    const float *up = x + columns;
    if (activation == RELU_SQUARED) {
        for (int64_t i = 0; i < columns; i++) {
            const float r = x[i] > 0.0f ? x[i] : x[i] * 0.0f; /* keeps NaN, as torch's relu does */
            out[i] = r * r * up[i];
        }
        return;
    }
    int64_t i = 0;
    if (activation == GELU_TANH) { /* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)) */
        for (; i + 16 <= columns; i += 16) {
            const vec16 g = load16(x + i), u = g * (1.0f + 0.044715f * (g * g)) * TWICE_ROOT_2_PI;
            store16(out + i, g / (1.0f + exp16(-u)) * load16(up + i));
        }
        for (; i < columns; i++)
            out[i] = x[i] / (1.0f + expf(-(x[i] * (1.0f + 0.044715f * (x[i] * x[i])) * TWICE_ROOT_2_PI))) * up[i];
        return;
    }
    for (; i + 16 <= columns; i += 16) {
        const vec16 g = load16(x + i);
        store16(out + i, g / (1.0f + exp16(-g)) * load16(up + i));
    }
    for (; i < columns; i++) out[i] = x[i] / (1.0f + expf(-x[i])) * up[i];
}

CLONES_OF_16 static void rms_norm(const float *x, int64_t columns, const float *weight, float epsilon, float *out) {
    vec16 squares = all16(0.0f);
    float rest = 0.0f;
    int64_t i = 0;
    for (; i + 16 <= columns; i += 16) squares += load16(x + i) * load16(x + i);
    for (; i < columns; i++) rest += x[i] * x[i];
    const float scale = 1.0f / sqrtf((total16(&squares) + rest) / (float)columns + epsilon);
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

/* x = q0 s + q1 s / 128 + q2 s / 128^2 up to 2^-21 of the largest |x|: three int8 digits of a group, s the least power of
 * two with |x| <= 127 s. All but the last rounding is exact. Digit d is `next_q` after the one before. */
CLONES static void split_digits(const float *x, int64_t columns, int64_t next_q, int64_t next_step, int8_t *q,
                                float *steps, int32_t *sums) {
    enum { DIGITS = 3 };
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, half to even */
    int32_t largest_bits = 0, magic_bits;
    for (int64_t i = 0; i < columns; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    float largest, unit;
    memcpy(&largest, &largest_bits, 4);
    memcpy(&magic_bits, &magic, 4);
    if (largest < 1e-30f) largest = 1e-30f;
    memcpy(&largest_bits, &largest, 4);
    const int32_t unit_bits = largest_bits & 0x7f800000; /* the power of two at or below */
    memcpy(&unit, &unit_bits, 4);
    unit *= 0.015625f;
    if (largest > 127.0f * unit) unit *= 2.0f;
    if (largest_bits >= 0x7f800000) unit = largest - largest; /* NaN: to be seen in every output */
    float inverse[DIGITS], worth[DIGITS];
    int32_t totals[DIGITS] = {0};
    for (int d = 0; d < DIGITS; d++) {
        worth[d] = d ? worth[d - 1] * 0.0078125f : unit;
        inverse[d] = 1.0f / worth[d];
    }
    for (int64_t i = 0; i < columns; i++) {
        float rest = x[i];
        for (int d = 0; d < DIGITS; d++) {
            const float scaled = rest * inverse[d], shifted = scaled + magic;
            int32_t bits;
            memcpy(&bits, &shifted, 4);
            const int8_t digit = (int8_t)(bits - magic_bits);
            q[d * next_q + i] = digit;
            totals[d] += digit;
            rest -= (float)digit * worth[d];
        }
    }
    for (int d = 0; d < DIGITS; d++) {
        steps[d * next_step] = worth[d];
        sums[d * next_step] = totals[d];
    }
}

static void quantize_groups(const rows_job_t *job, const float *x, int64_t t) {
    const int64_t size = job->group, groups = job->columns / size, row = t * job->digits;
    int8_t *q = job->q + row * job->stride;
    float *steps = job->steps + row * groups;
    int32_t *sums = job->sums + row * groups;
    for (int64_t g = 0; g < groups; g++)
        if (job->digits == 1)
            quantize(x + g * size, size, size, q + g * size, steps + g, sums + g);
        else
            split_digits(x + g * size, size, job->stride, groups, q + g * size, steps + g, sums + g);
    for (int d = 0; d < job->digits; d++)
        memset(q + d * job->stride + job->columns, 0, (size_t)(job->stride - job->columns));
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
        if (job->y && job->add)
            for (int64_t i = 0; i < job->columns; i++) job->y[t * job->columns + i] += x[i];
        else if (job->y)
            memcpy(job->y + t * job->columns, x, (size_t)job->columns * sizeof(float));
        if (job->q && !job->group)
            quantize(x, job->columns, job->stride, job->q + t * job->stride, job->steps + t, job->sums + t);
        else if (job->q)
            quantize_groups(job, x, t);
    }
}

API void bb_rows(rows_job_t *job, int threads) {
    job->next = 0;
    in_parallel(rows_work, job, job->tokens > 4 ? threads : 1);
}

API int64_t bb_rows_size(void) { return sizeof(rows_job_t); } /* Python mirrors it: structs.py */
