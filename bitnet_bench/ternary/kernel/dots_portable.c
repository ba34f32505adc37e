/* The dot products in plain C: for every machine, and what the others are tested against besides torch. */
#include "kernel.h"
#include <string.h>

CLONES static void dots1(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out) {
    int32_t sums[PANEL] = {0};
    (void)stride;
    for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES, q += STEP)
        for (int j = 0; j < 4; j++)
            for (int n = 0; n < PANEL; n++)
                for (int i = 0; i < 4; i++) sums[n] += (codes[4 * n + i] >> 2 * j & 3) * q[4 * j + i];
    memcpy(out, sums, sizeof sums);
}

/* Bytes as they are: int8 + 128 of a quantized head. */
CLONES static void bytes1(const uint8_t *bytes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out) {
    int32_t sums[PANEL] = {0};
    (void)stride;
    for (int64_t k = 0; k < 4 * steps; k++, bytes += STEP_BYTES)
        for (int n = 0; n < PANEL; n++)
            for (int i = 0; i < 4; i++) sums[n] += bytes[4 * n + i] * q[4 * k + i];
    memcpy(out, sums, sizeof sums);
}

CLONES static void groups1(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                           const float *scales, float *out) {
    float y[PANEL] = {0};
    for (int64_t g = 0; g < groups; g++) {
        int32_t sums[PANEL];
        dots1(codes + g * steps * STEP_BYTES, steps, x->q + g * steps * STEP, 0, sums);
        for (int n = 0; n < PANEL; n++)
            y[n] += (float)(sums[n] - x->sums[g]) * (scales[g * PANEL + n] * x->steps[g]);
    }
    memcpy(out, y, sizeof y);
}

const dots_fn portable_dots[] = {dots1};
const dots_fn portable_bytes[] = {bytes1};
const group_dots_fn portable_groups[] = {groups1};
const path_t portable_path = {"portable", 0, 1, portable_dots, 1, portable_bytes, portable_groups, 0, NULL, NULL};
