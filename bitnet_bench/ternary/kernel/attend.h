/* Exact softmax attention of a tile in vectors of VECTOR floats: attend8_1 ... attend8_8 for 1 to 8 queries. Included
 * once for each width. Every sum runs over the dimensions or positions in order, whoever shares a tile. */
#include "vectors.h"

#define PARTS (16 / VECTOR) /* vectors of a block of 16 positions */

/* Scores of `rows` queries [dimension][rows] against `units` vectors of positions from p on: enough sums that none waits
 * for another. */
INLINE void V(unit_scores)(const float *queries, const float *keys, int64_t p, int d, float scale, float *scores,
                           int64_t width, const int rows, const int units) {
    V(vec) sums[8][4];
    const float *from[4];
    for (int u = 0; u < units; u++) {
        from[u] = keys + (p + u * VECTOR) / 16 * 16 * d + (p + u * VECTOR) % 16;
        for (int r = 0; r < rows; r++) sums[r][u] = V(all)(0.0f);
    }
    for (int i = 0; i < d; i++)
#pragma GCC unroll 4
        for (int u = 0; u < units; u++) {
            const V(vec) key = V(load)(from[u] + 16 * i);
            if (rows <= 4) __builtin_prefetch(from[u] + 16 * (i + (units + PARTS - 1) / PARTS * d)); /* memory is the limit */
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][u] += queries[i * rows + r] * key;
        }
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < units; u++) V(store)(scores + r * width + p + u * VECTOR, sums[r][u] * scale);
}

/* Scores [rows][width] -> shares of the values [width][rows], not yet divided by the sums that are returned. */
INLINE void V(soften)(float *scores, int64_t width, const int32_t *starts, const int32_t *limits, float *shares,
                      float *totals, const int rows) {
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * width;
        for (int64_t p = 0; p < starts[r]; p++) row[p] = -INFINITY;
        for (int64_t p = limits[r]; p < width; p++) row[p] = -INFINITY;
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
                for (int i = 0; i < VECTOR; i++) shares[(p + k * VECTOR + i) * rows + r] = e[i];
            }
        totals[r] = V(total)(total);
    }
}

/* `vectors` x VECTOR dimensions of the outputs of all rows. */
INLINE void V(weighted)(const float *shares, const float *values, int d, int64_t count, const float *totals,
                        float *const *outs, int first, const int rows, const int vectors) {
    V(vec) sums[8][8];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = V(all)(0.0f);
    for (int64_t p = 0; p < count; p++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            const V(vec) value = V(load)(values + p * d + first + VECTOR * v);
            if (rows <= 4) __builtin_prefetch(values + (p + 16) * d + first + VECTOR * v);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][v] += shares[p * rows + r] * value;
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) V(store)(outs[r] + first + VECTOR * v, sums[r][v] / totals[r]);
}

/* In two passes: all scores of a tile first, then their exponentials times the values. Of 32 registers the sums take 16
 * at most, of 16 they take 8. */
INLINE void V(attend_rows)(const attention_t *job, const float *const *heads, const int32_t *starts,
                           const int32_t *limits, const float *keys, const float *values, float *const *outs,
                           float *scores, const int rows) {
    const int d = job->dimension, units = rows > 4 ? 1 : rows > 2 || VECTOR == 16 ? 2 : 4;
    const int vectors = (rows > 4 ? 2 : rows > 2 || VECTOR == 16 ? 4 : 8) / (VECTOR == 16 ? 1 : 2);
    float queries[8 * MOST_DIMENSIONS], totals[8];
    int32_t longest = 0;
    for (int r = 0; r < rows; r++) {
        longest = limits[r] > longest ? limits[r] : longest;
        for (int i = 0; i < d; i++) queries[i * rows + r] = heads[r][i];
    }
    const int64_t width = (longest + 15) / 16 * 16;
    int64_t p = 0;
    for (; p + VECTOR * units <= width; p += VECTOR * units)
        V(unit_scores)(queries, keys, p, d, job->scale, scores, width, rows, units);
    for (; p < width; p += VECTOR) V(unit_scores)(queries, keys, p, d, job->scale, scores, width, rows, 1);
    float *shares = scores + rows * width;
    V(soften)(scores, width, starts, limits, shares, totals, rows);
    int first = 0;
    for (; first + VECTOR * vectors <= d; first += VECTOR * vectors)
        V(weighted)(shares, values, d, longest, totals, outs, first, rows, vectors);
    for (; first < d; first += VECTOR) V(weighted)(shares, values, d, longest, totals, outs, first, rows, 1);
}

#define ATTEND(W, M) PASTE(PASTE(attend, W), _##M)
#define F(M)                                                                                                         \
    static void ATTEND(VECTOR, M)(const attention_t *j, const float *const *q, const int32_t *b, const int32_t *l,   \
                                  const float *k, const float *v, float *const *o, float *s) {                       \
        V(attend_rows)(j, q, b, l, k, v, o, s, M);                                                                   \
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
