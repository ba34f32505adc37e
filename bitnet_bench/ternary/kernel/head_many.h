/* Rows of a head for many tokens: a few rows are widened once, and tiles of tokens meet them in registers. A logit has the
 * 64 sums of head.h, term by term and in its order, so which of the two computes it changes no bit. Included by head.h.
 *
 * Sum number i of the 64 takes columns i, i + 64 and so on, and what is left in 16s goes to the first 16. Columns are laid
 * out for VECTOR sums at a time, a `lane`, so that a step of the innermost loop reads a vector of each row and token. */

#if VECTOR == 16
#define TILE_ROWS 4
#define EACH_TILE(F) EACH4(F) F(5) F(6) /* tokens; 24 sums of 32 registers */
enum { V(TILE_TOKENS) = 6 };
#else
#define TILE_ROWS 2
#define EACH_TILE(F) EACH4(F) /* 8 sums of 16 registers */
enum { V(TILE_TOKENS) = 4 };
#endif
#define LANES (64 / VECTOR)
#define TAIL_LANES (16 / VECTOR) /* lanes of the first 16 sums */

/* Rows [from, from + count) of `table` as floats [lane][step][count][VECTOR]; the last one stands for rows beyond it. */
INLINE void V(lay_out)(const void *table, int64_t columns, int64_t from, int64_t count, int64_t last, float *out,
                       const int dtype) {
    const int64_t whole = columns / 64, tail = columns % 64 / 16, step = count * VECTOR;
    for (int64_t r = 0; r < count; r++, out += VECTOR) {
        const int64_t i = (from + r < last ? from + r : last) * columns;
        for (int64_t s = 0; s < whole + tail; s++)
            for (int lane = 0; lane < (s < whole ? LANES : TAIL_LANES); lane++) {
                const int64_t tails = tail * (lane < TAIL_LANES ? lane : TAIL_LANES);
                const int64_t column = (s < whole ? 64 * s : 64 * whole + 16 * (s - whole)) + VECTOR * lane;
                V(store)(out + (lane * whole + tails + s) * step, V(weights)(table, i + column, dtype));
            }
    }
}

static void V(widen_rows)(const head_job_t *job, int64_t row, float *out) {
    if (job->dtype == BFLOAT16)
        V(lay_out)(job->table, job->columns, row, TILE_ROWS, job->rows - 1, out, BFLOAT16);
    else if (job->dtype == FLOAT16)
        V(lay_out)(job->table, job->columns, row, TILE_ROWS, job->rows - 1, out, FLOAT16);
    else
        V(lay_out)(job->table, job->columns, row, TILE_ROWS, job->rows - 1, out, FLOAT32);
}

/* sums[row][token][64] of one lane. */
INLINE void V(lane_sums)(const float *w, const float *x, int64_t steps, float *sums, const int tokens) {
    V(vec) sum[TILE_ROWS][V(TILE_TOKENS)];
    for (int r = 0; r < TILE_ROWS; r++)
        for (int t = 0; t < tokens; t++) sum[r][t] = V(all)(0.0f);
    for (int64_t s = 0; s < steps; s++, w += TILE_ROWS * VECTOR, x += tokens * VECTOR) {
        V(vec) weights[TILE_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < TILE_ROWS; r++) weights[r] = V(load)(w + r * VECTOR);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            const V(vec) one = V(load)(x + t * VECTOR);
#pragma GCC unroll 4
            for (int r = 0; r < TILE_ROWS; r++) sum[r][t] += weights[r] * one;
        }
    }
    for (int r = 0; r < TILE_ROWS; r++)
        for (int t = 0; t < tokens; t++) V(store)(sums + (r * tokens + t) * 64, sum[r][t]);
}

/* Logits of TILE_ROWS rows from `row` on for tokens [token, token + tokens). */
INLINE void V(multiply_tile)(const head_job_t *job, int64_t row, int64_t token, const float *w, const float *x,
                             const int tokens) {
    float sums[TILE_ROWS * V(TILE_TOKENS) * 64];
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t steps = job->columns / 64 + (lane < TAIL_LANES ? job->columns % 64 / 16 : 0);
        V(lane_sums)(w, x, steps, sums + VECTOR * lane, tokens);
        w += steps * TILE_ROWS * VECTOR;
        x += steps * tokens * VECTOR;
    }
    for (int r = 0; r < TILE_ROWS && row + r < job->rows; r++)
        for (int t = 0; t < tokens; t++) {
            V(vec) parts[LANES];
            for (int a = 0; a < LANES; a++) parts[a] = V(load)(sums + (r * tokens + t) * 64 + VECTOR * a);
            job->y[(token + t) * job->rows + row + r] = V(logit)(parts);
        }
}

/* Rows of the head that other threads leave, in chunks. */
static void V(many_tokens)(head_job_t *job) {
    enum { CHUNK = 64 };
    const int64_t columns = job->columns, tiles = (job->tokens + V(TILE_TOKENS) - 1) / V(TILE_TOKENS);
    float *x = scratch((size_t)((job->tokens + TILE_ROWS) * columns) * sizeof(float)), *w = x + job->tokens * columns;
#define START(i) (job->tokens * (i) / tiles) /* the first token of a tile */
    for (int64_t i = 0; i < tiles; i++)
        V(lay_out)(job->x, columns, START(i), START(i + 1) - START(i), job->tokens, x + START(i) * columns, FLOAT32);
    for (int64_t n; (n = __atomic_fetch_add(&job->next, CHUNK, __ATOMIC_RELAXED)) < job->rows;)
        for (int64_t row = n; row < n + CHUNK && row < job->rows; row += TILE_ROWS) {
            V(widen_rows)(job, row, w);
            for (int64_t i = 0; i < tiles; i++)
                switch (START(i + 1) - START(i)) {
#define F(T) case T: V(multiply_tile)(job, row, START(i), w, x + START(i) * columns, T); break;
                    EACH_TILE(F)
#undef F
                }
        }
#undef START
}
#undef TAIL_LANES
#undef LANES
#undef EACH_TILE
#undef TILE_ROWS
