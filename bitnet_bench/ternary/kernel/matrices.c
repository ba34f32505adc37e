/* What a training step does to whole matrices besides products, in one pass each. Rows are independent. */
#include "kernel.h"
#include <string.h>

enum kind { TERNARIZE = 1, SCALE_SUMS, SCALE_CODES };

typedef struct {
    const void *x;       /* [rows][columns]: float weights, int32 sums or int8 values */
    void *y;             /* [rows][columns]: int8 codes, or floats; sums may become floats in place */
    const float *scales; /* [rows], or NULL for ones */
    float scale;         /* of all rows */
    int32_t kind;
    int64_t rows, columns, next;
} matrix_job_t;

/* codes = clip(round(w / gamma), -1, 1): half goes to even, which is 0. */
CLONES static void ternarize(const float *w, int64_t columns, float gamma, int8_t *codes) {
    for (int64_t i = 0; i < columns; i++) {
        const float ratio = w[i] / gamma;
        codes[i] = (int8_t)((ratio > 0.5f) - (ratio < -0.5f));
    }
}

CLONES static void scale_sums(const int32_t *sums, int64_t columns, float scale, float *y) {
    for (int64_t i = 0; i < columns; i++) {
        const float product = (float)sums[i] * scale;
        memcpy(y + i, &product, 4); /* y may be the sums themselves */
    }
}

CLONES static void scale_codes(const int8_t *codes, int64_t columns, float scale, float *y) {
    for (int64_t i = 0; i < columns; i++) y[i] = (float)codes[i] * scale;
}

static void matrix_work(void *argument) {
    matrix_job_t *job = argument;
    enum { CHUNK = 16 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;) {
        for (int64_t r = n; r < job->rows && r < n + CHUNK; r++) {
            const int64_t at = r * job->columns;
            const float scale = job->scales ? job->scales[r] * job->scale : job->scale;
            if (job->kind == TERNARIZE)
                ternarize((const float *)job->x + at, job->columns, scale, (int8_t *)job->y + at);
            else if (job->kind == SCALE_SUMS)
                scale_sums((const int32_t *)job->x + at, job->columns, scale, (float *)job->y + at);
            else
                scale_codes((const int8_t *)job->x + at, job->columns, scale, (float *)job->y + at);
        }
    }
}

API void bb_matrix(matrix_job_t *job, int threads) {
    job->next = 0;
    in_parallel(matrix_work, job, threads);
}

API int64_t bb_matrix_size(void) { return sizeof(matrix_job_t); } /* Python mirrors it: structs.py */
