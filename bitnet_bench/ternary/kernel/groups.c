/* Ternary weights with a scale per row and group of inputs: their scales, and rows of an embedding. */
#include "kernel.h"
#include <string.h>

/* float16 -> float: exponent and fraction moved into place, and 2^112 for the other bias; exact for subnormals too. */
CLONES static void widen(const uint16_t *half, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)(half[i] & 0x7fff) << 13;
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        out[i] = half[i] >> 15 ? -(magnitude * 0x1p112f) : magnitude * 0x1p112f;
    }
}

/* Scales of a panel as floats [groups][16]; good until this thread's next call. */
const float *expand_scales(const void *scales, int32_t dtype, int64_t panel, int64_t groups) {
    const int64_t count = groups * PANEL;
    if (dtype == SCALES_FLOAT32) return (const float *)scales + panel * count;
    float *wide = scratch((size_t)count * sizeof(float));
    widen((const uint16_t *)scales + panel * count, count, wide);
    return wide;
}

typedef struct {
    const uint8_t *codes; /* [panels][columns / 16][64] */
    const void *scales;   /* [panels][columns / group][16] */
    const int64_t *ids;   /* [tokens] */
    float *y;             /* [tokens][columns] */
    int64_t tokens, columns, group;
    int32_t dtype;
} lookup_t;

/* y = rows `ids` of an embedding, t * s. */
API void bb_lookup(const lookup_t *job) {
    const int64_t steps = job->columns / STEP, groups = job->columns / job->group;
    for (int64_t t = 0; t < job->tokens; t++) {
        const int64_t panel = job->ids[t] / PANEL, n = job->ids[t] % PANEL;
        const uint8_t *codes = job->codes + panel * steps * STEP_BYTES + 4 * n;
        const float *scales = expand_scales(job->scales, job->dtype, panel, groups);
        float *y = job->y + t * job->columns;
        for (int64_t s = 0; s < steps; s++, codes += STEP_BYTES, y += STEP) {
            const float scale = scales[s * STEP / job->group * PANEL + n];
            for (int j = 0; j < 4; j++)
                for (int i = 0; i < 4; i++) y[4 * j + i] = (float)((codes[i] >> 2 * j & 3) - 1) * scale;
        }
    }
}

API int64_t bb_lookup_size(void) { return sizeof(lookup_t); } /* Python mirrors it: structs.py */
