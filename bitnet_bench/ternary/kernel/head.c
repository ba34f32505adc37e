/* A head in the dtype it is stored in: for few tokens as fast as the memory gives the table, for more in tiles. */
#include "kernel.h"

#define TEMPLATE "head.h"
#include "widths.h"

enum {
    FEW_TOKENS = 4,   /* that are read one by one */
    MOST_TOKENS = 48, /* of a pass over the table: they stay in the second-level cache */
};

head_fn find_head(int32_t dtype) { return OF_WIDTH(heads)[dtype - 1]; }

static void few_work(void *argument) {
    head_job_t *job = argument;
    const head_fn rows = find_head(job->dtype);
    enum { CHUNK = 256 };
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;)
        rows(job, n, n + CHUNK < job->rows ? n + CHUNK : job->rows);
}

static void many_work(void *argument) { OF_WIDTH(many_tokens)(argument); }

/* y = x @ table.T, products and sums in float32: a logit's bits depend on its own row and token alone. */
API void bb_head(const head_job_t *job, int threads) {
    for (int64_t t = 0; t < job->tokens; t += MOST_TOKENS) {
        head_job_t some = *job;
        some.x += t * job->columns;
        some.y += t * job->rows;
        some.tokens = job->tokens - t < MOST_TOKENS ? job->tokens - t : MOST_TOKENS;
        some.next = 0;
        in_parallel(some.tokens > FEW_TOKENS ? many_work : few_work, &some, threads);
    }
}

API int64_t bb_head_size(void) { return sizeof(head_job_t); } /* Python mirrors it: structs.py */
