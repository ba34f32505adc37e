/* Linear layers over quantized activations: exact integer sums, then scale, bias and residual in one pass. */
#include "kernel.h"
#include <string.h>

enum { BLOCK_BYTES = 128 << 10 }; /* of activations, which a core keeps in its second-level cache */

typedef struct {
    const part_t *parts;
    int count;
    const rows_t *x;
    float *y;        /* [tokens][y_stride], the parts side by side */
    int64_t y_stride;
    int add;         /* 1: y += the product (a residual), 0: y = */
    int64_t panels, chunk, next;
} job_t;

/* Scaled sums -> y, with the bias and the residual. */
static inline void store(const part_t *part, int64_t first, int count, float *product, float *y, int add) {
    if (part->bias)
        for (int n = 0; n < count; n++) product[n] += part->bias[first + n];
    if (add)
        for (int n = 0; n < count; n++) y[n] += product[n];
    else
        memcpy(y, product, (size_t)count * sizeof *y);
}

/* int32 sums -> float y. Formula and order as in CodesLinear, so that both give the same bits. */
CLONES static void finish(const part_t *part, const rows_t *x, int64_t token, int64_t first, int count,
                          const int32_t *sums, float *y, int add) {
    const int32_t excess = part->kind ? 128 * x->sums[token] : x->sums[token];
    const float step = x->steps[token], *scales = part->scales;
    float product[PANEL];
    if (scales)
        for (int n = 0; n < count; n++) product[n] = (float)(sums[n] - excess) * (step * scales[first + n]);
    else
        for (int n = 0; n < count; n++) product[n] = (float)(sums[n] - excess) * (step * part->scale);
    store(part, first, count, product, y, add);
}

/* The same for a whole panel of `rows` tokens: its bounds are constants, and its floats stay in registers. */
CLONES static void finish_whole(const part_t *part, const rows_t *x, int64_t token, int rows, int64_t first,
                                const int32_t *sums, float *y, int64_t y_stride, int add) {
    const int32_t times = part->kind ? 128 : 1;
    const float *scales = part->scales ? (const float *)part->scales + first : NULL;
    const float *bias = part->bias ? part->bias + first : NULL;
    for (int m = 0; m < rows; m++, sums += PANEL, y += y_stride) {
        const int32_t excess = times * x->sums[token + m];
        const float step = x->steps[token + m], unit = step * part->scale;
        float product[PANEL];
        for (int n = 0; n < PANEL; n++) product[n] = (float)(sums[n] - excess) * (scales ? step * scales[n] : unit);
        for (int n = 0; bias && n < PANEL; n++) product[n] += bias[n];
        for (int n = 0; n < PANEL; n++) y[n] = add ? y[n] + product[n] : product[n];
    }
}

static int at_most(int64_t value, int limit) { return value < limit ? (int)value : limit; }

/* One panel of a part for tokens [t, end). Few tokens or many, the codes are unpacked in registers: 12 rows of
 * activations share the work, and writing bytes to cache and reading them back took longer. */
static void one_panel(const job_t *job, const part_t *part, const uint8_t *panel, int64_t first, int64_t t, int64_t end,
                      float *y) {
    const path_t *path = current_path();
    const dots_fn *dots = part->kind ? path->bytes : path->dots;
    const wide_fn wide = part->kind ? path->wide_bytes : path->wide;
    const int most = part->kind ? path->most_rows_bytes : path->most_rows, count = at_most(part->rows - first, PANEL);
    const rows_t *x = job->x;
    const int64_t steps = (x->columns + STEP - 1) / STEP;
    int32_t sums[MOST_WIDE_ROWS * PANEL];
    while (t < end) {
        const int is_wide = path->most_wide && end - t > most, m = at_most(end - t, is_wide ? path->most_wide : most);
        const int8_t *q = x->q + t * x->stride;
        if (is_wide)
            wide(panel, steps, q, x->stride, m, sums);
        else
            dots[m - 1](panel, steps, q, x->stride, sums);
        if (count == PANEL)
            finish_whole(part, x, t, m, first, sums, y + t * job->y_stride, job->y_stride, job->add);
        else
            for (int i = 0; i < m; i++)
                finish(part, x, t + i, first, count, sums + i * PANEL, y + (t + i) * job->y_stride, job->add);
        t += m;
    }
}

/* The same with a scale per group: products come back scaled, one for each digit of each token. */
static void one_group_panel(const job_t *job, const part_t *part, const uint8_t *panel, int64_t p, int64_t t,
                            int64_t end, float *y) {
    const rows_t *x = job->x;
    const int64_t steps = x->group / STEP, groups = x->columns / x->group, first = p * PANEL, digits = x->digits;
    const int most = current_path()->most_rows, count = at_most(part->rows - first, PANEL);
    const float *scales = expand_scales(part->scales, part->kind, p, groups);
    float products[MOST_ROWS * PANEL], sum[PANEL];
    for (int64_t row = t * digits; row < end * digits;) {
        const int m = at_most(end * digits - row, most);
        const group_rows_t rows = {x->q + row * x->stride, x->stride, x->steps + row * groups, x->sums + row * groups};
        current_path()->group_dots[m - 1](panel, steps, groups, &rows, scales, products);
        for (int i = 0; i < m; i++, row++) {
            if (row % digits == 0)
                memcpy(sum, products + i * PANEL, sizeof sum);
            else
                for (int n = 0; n < PANEL; n++) sum[n] += products[i * PANEL + n];
            if (row % digits == digits - 1)
                store(part, first, count, sum, y + row / digits * job->y_stride, job->add);
        }
    }
}

/* Panels [panel, end) of one part whose first output column is `column`: a block of tokens stays in cache for all. */
static void panels(const job_t *job, const part_t *part, int64_t panel, int64_t end, int64_t column) {
    const int64_t steps = (job->x->columns + STEP - 1) / STEP, size = steps * STEP_BYTES * (part->kind == 1 ? 4 : 1);
    const int64_t width = job->x->stride * job->x->digits;
    const int64_t unit = current_path()->most_wide ? current_path()->most_wide : MOST_ROWS;
    const int64_t fitting = BLOCK_BYTES / width / unit * unit, block = fitting > unit ? fitting : unit;
    for (int64_t t = 0; t < job->x->tokens; t += block)
        for (int64_t p = panel; p < end; p++) {
            const int64_t until = t + block < job->x->tokens ? t + block : job->x->tokens;
            float *y = job->y + column + p * PANEL;
            if (part->kind > 1)
                one_group_panel(job, part, part->codes + p * size, p, t, until, y);
            else
                one_panel(job, part, part->codes + p * size, p * PANEL, t, until, y);
        }
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

/* Chunks are handed out as threads get free, so that a core that others use holds nobody up. Small products stay on
 * the calling thread: waking another costs more. */
API void bb_linear(const part_t *parts, int count, const rows_t *x, float *y, int64_t y_stride, int add, int threads) {
    enum { CHUNKS_PER_THREAD = 6, SMALL = 1 << 19 };
    job_t job = {.parts = parts, .count = count, .x = x, .y = y, .y_stride = y_stride, .add = add};
    for (int p = 0; p < count; p++) job.panels += panels_of(parts + p);
    if (job.panels * PANEL * x->columns * x->tokens < SMALL) threads = 1;
    const int64_t share = threads > 1 ? job.panels / (threads * CHUNKS_PER_THREAD) : job.panels;
    job.chunk = share < 1 ? 1 : share;
    in_parallel(work, &job, threads);
}

API int64_t bb_part_size(void) { return sizeof(part_t); } /* Python mirrors it: structs.py */
API int64_t bb_rows_pointers_size(void) { return sizeof(rows_t); } /* Python mirrors it: structs.py */
