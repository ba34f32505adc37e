/* A head for few rows: as fast as the memory gives the table, in the dtype it is stored in. */
#include "kernel.h"

#define TEMPLATE "head.h"
#include "widths.h"

head_fn find_head(int32_t dtype) { return OF_WIDTH(heads)[dtype - 1]; }

static void head_work(void *argument) {
    head_job_t *job = argument;
    const head_fn rows = find_head(job->dtype);
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
