/* Exact softmax attention of a tile in vectors of VECTOR floats: attend8_1 ... attend8_8 for 1 to 8 queries. Included
 * once for each width. Every sum runs over the dimensions or positions in order, whoever shares a tile, and however the
 * positions (of scores) and the dimensions (of outputs) are split among threads. */
#include "vectors.h"

#define PARTS (16 / VECTOR) /* vectors of a block of 16 positions */

typedef uint16_t V(halves) __attribute__((vector_size(2 * VECTOR)));
typedef uint32_t V(words) __attribute__((vector_size(4 * VECTOR)));

/* Keys or values [i, i + VECTOR) of a cache as floats; `narrow`: stored as bfloat16. */
INLINE V(vec) V(cached)(const void *cache, int64_t i, const int narrow) {
    if (!narrow) return V(load)((const float *)cache + i);
    V(halves) halves;
    memcpy(&halves, (const uint16_t *)cache + i, sizeof halves);
    return (V(vec))(__builtin_convertvector(halves, V(words)) << 16);
}
INLINE void V(fetch)(const void *cache, int64_t i, const int narrow) {
    __builtin_prefetch((const char *)cache + i * (narrow ? 2 : 4));
}

/* Scores of `rows` queries [dimension][rows] against `units` vectors of positions from p on: enough sums that none waits
 * for another. */
INLINE void V(unit_scores)(const float *queries, const void *keys, int64_t p, int d, float scale, float *scores,
                           int64_t width, const int rows, const int units, const int narrow) {
    V(vec) sums[8][4];
    int64_t from[4];
    for (int u = 0; u < units; u++) {
        from[u] = (p + u * VECTOR) / 16 * 16 * d + (p + u * VECTOR) % 16;
        for (int r = 0; r < rows; r++) sums[r][u] = V(all)(0.0f);
    }
    for (int i = 0; i < d; i++)
#pragma GCC unroll 4
        for (int u = 0; u < units; u++) {
            const V(vec) key = V(cached)(keys, from[u] + 16 * i, narrow);
            if (rows <= 4) /* memory is the limit */
                V(fetch)(keys, from[u] + 16 * (i + (units + PARTS - 1) / PARTS * d), narrow);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][u] += queries[i * rows + r] * key;
        }
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < units; u++) V(store)(scores + r * width + p + u * VECTOR, sums[r][u] * scale);
}

/* Scores [rows][width] of the positions [p, end), both multiples of 16. */
INLINE void V(score_rows)(const float *const *heads, const void *keys, int d, float scale, int64_t p, int64_t end,
                          float *scores, int64_t width, const int rows, const int narrow) {
    const int units = rows > 4 ? 1 : rows > 2 || VECTOR == 16 ? 2 : 4;
    float queries[8 * MOST_DIMENSIONS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < d; i++) queries[i * rows + r] = heads[r][i];
    for (; p + VECTOR * units <= end; p += VECTOR * units)
        V(unit_scores)(queries, keys, p, d, scale, scores, width, rows, units, narrow);
    for (; p < end; p += VECTOR) V(unit_scores)(queries, keys, p, d, scale, scores, width, rows, 1, narrow);
}

/* Scores [width] of a query -> its shares of the values, in place, not yet divided by the sum that is returned. */
INLINE float V(soften)(float *row, int64_t width, int32_t start, int32_t limit) {
    for (int64_t p = 0; p < start; p++) row[p] = -INFINITY;
    for (int64_t p = limit; p < width; p++) row[p] = -INFINITY;
    V(vec) most = V(load)(row), total[PARTS];
    for (int64_t p = VECTOR; p < width; p += VECTOR) {
        const V(vec) other = V(load)(row + p);
        const V(ints) larger = other > most;
        most = (V(vec))(((V(ints))other & larger) | ((V(ints))most & ~larger));
    }
    float largest = most[0];
    for (int i = 1; i < VECTOR; i++) largest = most[i] > largest ? most[i] : largest;
    for (int k = 0; k < PARTS; k++) total[k] = V(all)(0.0f);
    for (int64_t p = 0; p < width; p += 16)
        for (int k = 0; k < PARTS; k++) {
            const V(vec) e = V(exp)(V(load)(row + p + k * VECTOR) - largest);
            total[k] += e;
            V(store)(row + p + k * VECTOR, e);
        }
    return V(total)(total);
}

/* `vectors` x VECTOR dimensions of the outputs of all rows, of the positions [p, end): sums go on from the outputs unless
 * p is 0, and are divided by the totals at the last position. */
INLINE void V(weighted)(const float *shares, int64_t width, const void *values, int d, int64_t p, int64_t end,
                        const float *totals, float *const *outs, int first, const int rows, const int vectors,
                        const int narrow) {
    V(vec) sums[8][8];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sums[r][v] = p ? V(load)(outs[r] + first + VECTOR * v) : V(all)(0.0f);
    for (; p < end; p++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            const V(vec) value = V(cached)(values, p * d + first + VECTOR * v, narrow);
            if (rows <= 4) V(fetch)(values, (p + 16) * d + first + VECTOR * v, narrow);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][v] += shares[r * width + p] * value;
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            V(store)(outs[r] + first + VECTOR * v, totals ? sums[r][v] / totals[r] : sums[r][v]);
}

/* Dimensions [first, last) of the outputs. Values are read in blocks of positions, so that the dimensions that do not fit
 * the registers come from a cache line's neighbours soon after. Of 32 registers the sums take 16 at most, of 16 they take 8. */
INLINE void V(weight_rows)(const float *shares, int64_t width, const void *values, int d, int64_t count,
                           const float *totals, float *const *outs, int first, int last, const int rows,
                           const int narrow) {
    enum { BLOCK = 64 };
    const int vectors = (rows > 4 ? 2 : rows > 2 || VECTOR == 16 ? 4 : 8) / (VECTOR == 16 ? 1 : 2);
    for (int64_t p = 0; p < count; p += BLOCK) {
        const int64_t end = p + BLOCK < count ? p + BLOCK : count;
        const float *divisors = end == count ? totals : NULL;
        int at = first;
        for (; at + VECTOR * vectors <= last; at += VECTOR * vectors)
            V(weighted)(shares, width, values, d, p, end, divisors, outs, at, rows, vectors, narrow);
        for (; at < last; at += VECTOR)
            V(weighted)(shares, width, values, d, p, end, divisors, outs, at, rows, 1, narrow);
    }
}

/* One part of the work on a tile: scores of positions, softmax of rows, or dimensions of outputs; ALL: these three. */
INLINE void V(attend_rows)(tile_t *tile, enum phase phase, int64_t from, int64_t to, const int rows,
                           const int narrow) {
    const int all = phase == ALL;
    if (all || phase == SCORES)
        V(score_rows)(tile->queries, tile->keys, tile->dimension, tile->scale, all ? 0 : from, all ? tile->width : to,
                      tile->scores, tile->width, rows, narrow);
    if (all || phase == SOFTMAX)
        for (int64_t r = all ? 0 : from; r < (all ? rows : to); r++)
            tile->totals[r] = V(soften)(tile->scores + r * tile->width, tile->width, tile->starts[r], tile->limits[r]);
    if (all || phase == OUTPUTS)
        V(weight_rows)(tile->scores, tile->width, tile->values, tile->dimension, tile->longest, tile->totals, tile->outs,
                       all ? 0 : (int)from, all ? tile->dimension : (int)to, rows, narrow);
}

#define ATTEND(W, M) PASTE(PASTE(attend, W), _##M)
#define F(M)                                                                                      \
    static void ATTEND(VECTOR, M)(tile_t *tile, enum phase phase, int64_t from, int64_t to) { \
        if (tile->narrow)                                                                         \
            V(attend_rows)(tile, phase, from, to, M, 1);                                          \
        else                                                                                      \
            V(attend_rows)(tile, phase, from, to, M, 0);                                          \
    }
EACH8(F)
#undef F
#define F(M) ATTEND(VECTOR, M),
static const attend_fn V(attend_all)[] = {EACH8(F)};
#undef F
#undef ATTEND
#undef PARTS
#include "attend_many.h"
#undef VECTOR
