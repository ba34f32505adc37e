/* A head for few rows: as fast as the memory gives the table, in the dtype it is stored in. */
#include "kernel.h"

enum table { BFLOAT16 = 1, FLOAT16, FLOAT32 };

typedef struct {
    const void *table; /* [rows][columns] */
    const float *x;    /* [tokens][columns] */
    float *y;          /* [tokens][rows] */
    int64_t rows, columns, tokens, next;
    int32_t dtype;
} head_job_t;

typedef void (*head_fn)(const head_job_t *job, int64_t from, int64_t to);

#if defined(WIDER_VECTORS)
#pragma GCC push_options
#pragma GCC target("avx512f")
#define VECTOR 16
#include "head.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2")
#define VECTOR 8
#include "head.h"
#pragma GCC pop_options
#endif
#define VECTOR 4
#include "head.h"

static head_fn head_rows(int dtype) {
#if defined(WIDER_VECTORS)
    if (vector_width() == 16) return heads16[dtype - 1];
    if (vector_width() == 8) return heads8[dtype - 1];
#endif
    return heads4[dtype - 1];
}

static void head_work(void *argument) {
    head_job_t *job = argument;
    const head_fn rows = head_rows(job->dtype);
    enum { CHUNK = 256 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;)
        rows(job, n, n + CHUNK < job->rows ? n + CHUNK : job->rows);
}

/* y = x @ table.T, products and sums in float32. */
API void bb_head(head_job_t *job, int threads) {
    job->next = 0;
    in_parallel(head_work, job, threads);
}
