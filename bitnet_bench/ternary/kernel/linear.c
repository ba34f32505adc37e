/* Linear layers over quantized activations: exact integer sums, then scale, bias and residual in one pass. */
#include "kernel.h"
#include <string.h>

/* Rows of one layer; several that read the same activations (q, k, v; gate, up) are one call. */
typedef struct {
    const uint8_t *codes; /* [panels][steps][64] ternary, or [panels][K / 4][64] bytes of int8 + 128 */
    const float *bias;    /* [rows] or NULL */
    const float *scales;  /* [rows], or NULL: `scale` for all */
    float scale;
    int32_t bytes; /* 0: ternary codes, 1: int8 */
    int64_t rows;
} part_t;

/* Activations of `tokens` rows, quantized by bb_quantize: q [tokens][stride] int8 filled with 0 up to the stride. */
typedef struct {
    const int8_t *q;
    const float *steps; /* [tokens] what one unit of q is worth */
    const int32_t *sums; /* [tokens] sum of q */
    int64_t tokens, columns, stride;
} rows_t;

typedef struct {
    const part_t *parts;
    int count;
    const rows_t *x;
    float *y;        /* [tokens][y_stride], the parts side by side */
    int64_t y_stride;
    int add;         /* 1: y += the product (a residual), 0: y = */
    int64_t panels, chunk, next;
} job_t;

/* int32 sums -> float y. Formula and order as in CodesLinear, so that both give the same bits. */
CLONES static void finish(const part_t *part, const rows_t *x, int64_t token, int64_t first, int count,
                          const int32_t *sums, float *y, int add) {
    const int32_t excess = part->bytes ? 128 * x->sums[token] : x->sums[token];
    const float step = x->steps[token];
    float product[2 * PANEL];
    if (part->scales)
        for (int n = 0; n < count; n++) product[n] = (float)(sums[n] - excess) * (step * part->scales[first + n]);
    else
        for (int n = 0; n < count; n++) product[n] = (float)(sums[n] - excess) * (step * part->scale);
    if (part->bias)
        for (int n = 0; n < count; n++) product[n] += part->bias[first + n];
    if (add)
        for (int n = 0; n < count; n++) y[n] += product[n];
    else
        memcpy(y, product, (size_t)count * sizeof *y);
}

static int at_most(int64_t value, int limit) { return value < limit ? (int)value : limit; }

/* One or two panels of a part, for all tokens, from bytes: unpacked into this thread's cache, or stored as bytes. */
static void tiled(const job_t *job, const part_t *part, const path_t *path, const uint8_t *bytes, int64_t steps,
                  int64_t panel, int64_t end, int64_t column) {
    int32_t sums[12 * 2 * PANEL];
    const int64_t first = panel * PANEL, last = end * PANEL < part->rows ? end * PANEL : part->rows;
    for (int64_t t = 0; t < job->x->tokens;) {
        const int m = at_most(job->x->tokens - t, path->tile_rows);
        path->tiles[m - 1](bytes, steps, job->x->q + t * job->x->stride, job->x->stride, sums);
        for (int i = 0; i < m; i++, t++)
            finish(part, job->x, t, first, at_most(last - first, 2 * PANEL), sums + i * 2 * PANEL,
                   job->y + t * job->y_stride + column + first, job->add);
    }
}

static void direct(const job_t *job, const part_t *part, const path_t *path, int64_t steps, int64_t panel,
                   int64_t column) {
    int32_t sums[12 * PANEL];
    const int64_t first = panel * PANEL;
    const uint8_t *codes = part->codes + panel * steps * STEP_BYTES;
    for (int64_t t = 0; t < job->x->tokens;) {
        const int m = at_most(job->x->tokens - t, path->most_rows);
        path->dots[m - 1](codes, steps, job->x->q + t * job->x->stride, job->x->stride, sums);
        for (int i = 0; i < m; i++, t++)
            finish(part, job->x, t, first, at_most(part->rows - first, PANEL), sums + i * PANEL,
                   job->y + t * job->y_stride + column + first, job->add);
    }
}

/* Panels [panel, end) of one part whose first output column is `column`. */
static void panels(const job_t *job, const part_t *part, int64_t panel, int64_t end, int64_t column) {
    const path_t *path = current_path();
    const int64_t steps = (job->x->columns + STEP - 1) / STEP, bytes_of_panel = steps * 4 * STEP_BYTES;
    if (part->bytes) {
        if (!path->tiles) path = &portable_path;
        for (; panel < end; panel += 2)
            tiled(job, part, path, part->codes + panel * bytes_of_panel, steps, panel, end, column);
    } else if (path->unpack && job->x->tokens > path->most_rows) {
        uint8_t *bytes = scratch(2 * (size_t)bytes_of_panel);
        for (; panel < end; panel += 2) {
            path->unpack(part->codes + panel * steps * STEP_BYTES, steps, bytes);
            if (panel + 1 < end)
                path->unpack(part->codes + (panel + 1) * steps * STEP_BYTES, steps, bytes + bytes_of_panel);
            tiled(job, part, path, bytes, steps, panel, end, column);
        }
    } else
        for (; panel < end; panel++) direct(job, part, path, steps, panel, column);
}

static int64_t panels_of(const part_t *part) { return (part->rows + PANEL - 1) / PANEL; }

static void work(void *argument) {
    job_t *job = argument;
    for (;;) {
        int64_t from = __atomic_fetch_add(&job->next, job->chunk, __ATOMIC_RELAXED);
        int64_t to = from + job->chunk < job->panels ? from + job->chunk : job->panels, base = 0, column = 0;
        if (from >= to) return;
        for (int p = 0; p < job->count; p++) {
            const int64_t n = panels_of(job->parts + p);
            const int64_t first = from > base ? from - base : 0, last = to - base < n ? to - base : n;
            if (first < last) panels(job, job->parts + p, first, last, column);
            base += n;
            column += job->parts[p].rows;
        }
    }
}

/* y[t] = q[t] @ codes.T * (step[t] * scale) + bias for every part, or y[t] += that.
 *
 * Chunks are handed out as threads get free, so that a core that others use holds nobody up; they are even in number,
 * as two panels are worked on together. Small products stay on the calling thread: waking another costs more. */
API void bb_linear(const part_t *parts, int count, const rows_t *x, float *y, int64_t y_stride, int add, int threads) {
    enum { CHUNKS_PER_THREAD = 6, SMALL = 1 << 19 };
    job_t job = {.parts = parts, .count = count, .x = x, .y = y, .y_stride = y_stride, .add = add};
    for (int p = 0; p < count; p++) job.panels += panels_of(parts + p);
    if (job.panels * PANEL * x->columns * x->tokens < SMALL) threads = 1;
    const int64_t share = threads > 1 ? job.panels / (threads * CHUNKS_PER_THREAD) : job.panels;
    job.chunk = share < 2 ? 2 : (share + 1) & ~(int64_t)1;
    in_parallel(work, &job, threads);
}
