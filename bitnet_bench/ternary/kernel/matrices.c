/* What a training step does to whole matrices besides products, in one pass each. */
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

/* How ternary codes differ from earlier ones, and how many masters are near a rounding boundary. */
typedef struct {
    const float *masters;
    const int8_t *codes, *last;
    float low, high;      /* magnitudes between which a master is near */
    int64_t count, next;
    int64_t flips, zeros, near; /* what is found is added to these */
} count_job_t;

CLONES static void count_codes(const count_job_t *job, int64_t from, int64_t to, int32_t found[3]) {
    int32_t flips = 0, zeros = 0, near = 0;
    for (int64_t i = from; i < to; i++) {
        const float size = job->masters[i] < 0 ? -job->masters[i] : job->masters[i];
        flips += job->codes[i] != job->last[i];
        zeros += job->codes[i] == 0;
        near += (size > job->low) & (size < job->high);
    }
    found[0] = flips, found[1] = zeros, found[2] = near;
}

static void count_work(void *argument) {
    count_job_t *job = argument;
    enum { CHUNK = 1 << 16 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->count;) {
        int32_t found[3];
        count_codes(job, n, n + CHUNK < job->count ? n + CHUNK : job->count, found);
        __atomic_fetch_add(&job->flips, found[0], __ATOMIC_RELAXED);
        __atomic_fetch_add(&job->zeros, found[1], __ATOMIC_RELAXED);
        __atomic_fetch_add(&job->near, found[2], __ATOMIC_RELAXED);
    }
}

API void bb_count_codes(count_job_t *job, int threads) {
    job->next = 0;
    in_parallel(count_work, job, threads);
}

API int64_t bb_count_codes_size(void) { return sizeof(count_job_t); }
