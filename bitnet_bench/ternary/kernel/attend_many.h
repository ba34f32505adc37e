/* Exact softmax attention of up to 24 queries that read the same keys, in vectors of VECTOR floats, for prompts: blocks of
 * queries and of two vectors stay in registers, so that each key is loaded once for all of them. Included by attend.h,
 * whose sums these are, term by term and in its order: which of the two serves a query changes no bit. */

#if VECTOR == 16 || defined(__aarch64__)
#define BLOCK 12 /* queries: 24 sums of 32 registers */
#else
#define BLOCK 6 /* 12 of 16 */
#endif
#if defined(__x86_64__)
#define STAY(v) __asm__("" : "+v"(v)) /* one load for both products: a load each would be the limit */
#else
#define STAY(v) ((void)(v))
#endif

/* sums[r][u] += a[r][i] * b[i][u] over `count` steps from element `at` of b, for `rows` rows and two vectors. */
INLINE void V(add_products)(V(vec) sums[BLOCK][2], const float *a, int64_t a_row, const void *b, int64_t at, int64_t b_row,
                            int64_t b_vector, int64_t count, const int rows, const int narrow) {
    for (int64_t i = 0; i < count; i++, at += b_row) {
        const V(vec) first = V(cached)(b, at, narrow), second = V(cached)(b, at + b_vector, narrow);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            V(vec) x = V(all)(a[r * a_row + i]);
            STAY(x);
            sums[r][0] += x * first;
            sums[r][1] += x * second;
        }
    }
}

typedef struct {
    const tile_t *tile;
    const float *queries;
    float *shares, *outs; /* [rows][share_row] scores, then their exponentials; [rows][out_row] */
    int64_t query_row, share_row, out_row;
} V(block_t);

/* Scores of `rows` queries from `row` on against two vectors of positions from p on. */
INLINE void V(block_scores)(const V(block_t) *t, int row, int64_t p, const int rows, const int narrow) {
    const int d = t->tile->dimension;
    V(vec) sums[BLOCK][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = V(all)(0.0f);
    const int64_t next = VECTOR == 16 ? (p + 16 < t->tile->width ? 16 * d : 0) : VECTOR; /* the last block twice */
    V(add_products)(sums, t->queries + row * t->query_row, t->query_row, t->tile->keys, p / 16 * 16 * d + p % 16, 16,
                    next, d, rows, narrow);
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < 2; u++)
            V(store)(t->shares + (row + r) * t->share_row + p + u * VECTOR, sums[r][u] * t->tile->scale);
}

/* Adds values of positions [p, end) to two vectors of the outputs from dimension i on. */
INLINE void V(block_values)(const V(block_t) *t, int row, int i, int64_t p, int64_t end, const int rows,
                            const int narrow) {
    const int d = t->tile->dimension;
    V(vec) sums[BLOCK][2];
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < 2; u++)
            sums[r][u] = p ? V(load)(t->outs + (row + r) * t->out_row + i + u * VECTOR) : V(all)(0.0f);
    const int next = i + VECTOR < d ? VECTOR : 0; /* the last vector twice: there is room behind a row of outputs */
    V(add_products)(sums, t->shares + row * t->share_row + p, t->share_row, t->tile->values, p * d + i, d, next,
                    end - p, rows, narrow);
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < 2; u++) V(store)(t->outs + (row + r) * t->out_row + i + u * VECTOR, sums[r][u]);
}

/* The work of `call` for blocks of queries: as many whole ones as there are, then one of a third or two. */
#define FOR_BLOCKS(count, call)                                     \
    for (int row = 0; row < (count);) {                             \
        const int left = (count) - row;                             \
        if (left > 2 * BLOCK / 3) {                                 \
            enum { ROWS = BLOCK };                                  \
            call;                                                   \
            row += ROWS;                                            \
        } else if (left > BLOCK / 3) {                              \
            enum { ROWS = 2 * BLOCK / 3 };                          \
            call;                                                   \
            row += ROWS;                                            \
        } else {                                                    \
            enum { ROWS = BLOCK / 3 };                              \
            call;                                                   \
            row += ROWS;                                            \
        }                                                           \
    }

INLINE void V(attend_blocks)(tile_t *tile, const int narrow) {
    enum { POSITIONS = 128, GAP = 16 }; /* values of a block are read for all queries; rows lie in different cache sets */
    const int d = tile->dimension, count = tile->rows, filled = (count + BLOCK - 1) / BLOCK * BLOCK;
    const int64_t width = tile->width, longest = tile->longest;
    V(block_t) t = {.tile = tile, .query_row = d + GAP, .out_row = d + GAP, .share_row = width + 2 * GAP};
    float *queries = tile->scores;
    t.queries = queries, t.outs = queries + filled * t.query_row, t.shares = t.outs + filled * t.out_row;
    for (int r = 0; r < count; r++) memcpy(queries + r * t.query_row, tile->queries[r], (size_t)d * sizeof *queries);
    for (int r = count; r < filled; r++) {
        memset(queries + r * t.query_row, 0, (size_t)d * sizeof *queries);
        memset(t.shares + r * t.share_row, 0, (size_t)width * sizeof *t.shares);
    }
    for (int64_t p = 0; p < width; p += 2 * VECTOR) FOR_BLOCKS(count, V(block_scores)(&t, row, p, ROWS, narrow))
    for (int r = 0; r < count; r++)
        tile->totals[r] = V(soften)(t.shares + r * t.share_row, width, tile->starts[r], tile->limits[r]);
    for (int64_t p = 0; p < longest; p += POSITIONS) {
        const int64_t end = p + POSITIONS < longest ? p + POSITIONS : longest;
        FOR_BLOCKS(count, for (int i = 0; i < d; i += 2 * VECTOR) V(block_values)(&t, row, i, p, end, ROWS, narrow))
    }
    for (int r = 0; r < count; r++)
        for (int i = 0; i < d; i += VECTOR)
            V(store)(tile->outs[r] + i, V(load)(t.outs + r * t.out_row + i) / tile->totals[r]);
}

static void V(attend_many)(tile_t *tile) {
    if (tile->narrow)
        V(attend_blocks)(tile, 1);
    else
        V(attend_blocks)(tile, 0);
}
#undef FOR_BLOCKS
#undef STAY
#undef BLOCK
