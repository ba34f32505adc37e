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

#define TEMPLATE "head.h"
#include "widths.h"

static void head_work(void *argument) {
    head_job_t *job = argument;
    const head_fn rows = OF_WIDTH(heads)[job->dtype - 1];
    enum { CHUNK = 256 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;)
        rows(job, n, n + CHUNK < job->rows ? n + CHUNK : job->rows);
}

/* y = x @ table.T, products and sums in float32. */
API void bb_head(head_job_t *job, int threads) {
    job->next = 0;
    in_parallel(head_work, job, threads);
}

API int64_t bb_head_size(void) { return sizeof(head_job_t); } /* Python mirrors it: structs.py */
