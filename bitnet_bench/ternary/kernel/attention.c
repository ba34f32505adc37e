/* Rotary positions, the key-value cache, and causal attention over it, in float32.
 *
 * Keys are stored in blocks of 16 positions, [position / 16][dimension][16], so that the scores of 16 positions are one
 * vector; values are stored by position, so that a row of the output is a few vectors. One tile takes up to 8 queries
 * that read the same keys: heads of one group (GQA), then neighbouring tokens. */
#pragma GCC optimize("fp-contract=fast")
#include "vectors.h"
#include <math.h>

enum { MOST_DIMENSIONS = 512 }; /* of a head */

typedef struct {
    float *qkv;              /* [tokens][stride]: query heads, key heads, value heads side by side */
    int64_t stride, tokens;
    const int32_t *slots;    /* [tokens] which sequence of the cache */
    const int32_t *positions; /* [tokens] position within it; a slot's tokens are neighbours, in order */
    float *keys, *values;    /* the cache of this layer: [slots][kv heads][capacity][dimension], capacity % 16 == 0 */
    int64_t capacity;
    int32_t heads, kv_heads, dimension;
    const float *cosines, *sines; /* [positions][dimension / 2] */
    const float *query_norm, *key_norm; /* [dimension] RMS norm of each head before rotation (Qwen3), or NULL */
    float epsilon, scale;
    float *out;              /* [tokens][heads * dimension] */
    int64_t next;
    int32_t heads_per_tile;
    const int32_t *tiles;    /* [count][2] first token, how many */
    int64_t tile_count;
} attention_t;

static void rotate(float *head, const attention_t *job, const float *norm, int32_t position) {
    const int half = job->dimension / 2;
    const float *cosine = job->cosines + (int64_t)position * half, *sine = job->sines + (int64_t)position * half;
    if (norm) {
        float squares = 0.0f;
        for (int i = 0; i < job->dimension; i++) squares += head[i] * head[i];
        const float scale = 1.0f / sqrtf(squares / (float)job->dimension + job->epsilon);
        for (int i = 0; i < job->dimension; i++) head[i] = norm[i] * (head[i] * scale);
    }
    for (int i = 0; i < half; i++) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void rotate_work(void *argument) {
    attention_t *job = argument;
    const int d = job->dimension;
    for (int64_t t; (t = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tokens;) {
        float *row = job->qkv + t * job->stride, *keys = row + (int64_t)job->heads * d;
        const int32_t position = job->positions[t];
        for (int h = 0; h < job->heads; h++) rotate(row + h * d, job, job->query_norm, position);
        for (int h = 0; h < job->kv_heads; h++) {
            const int64_t base = ((int64_t)job->slots[t] * job->kv_heads + h) * job->capacity * d;
            float *block = job->keys + base + (int64_t)(position / 16) * 16 * d + position % 16;
            rotate(keys + h * d, job, job->key_norm, position);
            for (int i = 0; i < d; i++) block[16 * i] = keys[h * d + i];
            memcpy(job->values + base + (int64_t)position * d, keys + (job->kv_heads + h) * d, (size_t)d * sizeof(float));
        }
    }
}

/* Scores of `rows` queries [dimension][rows] against `blocks` x 16 positions: enough sums that none waits for another.
 * Every sum runs over the dimensions in order, so that it does not matter who shares a tile. */
INLINE void block_scores(const float *queries, const float *keys, int d, float scale, float *scores, int64_t width,
                         const int rows, const int blocks) {
    v16 sums[8][4];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) sums[r][b] = all16(0.0f);
    for (int i = 0; i < d; i++)
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            const v16 key = load16(keys + 16 * ((int64_t)b * d + i));
            if (rows <= 4) __builtin_prefetch(keys + 16 * ((int64_t)(b + blocks) * d + i)); /* memory is the limit */
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][b] += queries[i * rows + r] * key;
        }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) store16(scores + r * width + 16 * b, sums[r][b] * scale);
}

/* Scores [rows][width] -> shares of the values [width][rows], not yet divided by the sums that are returned. */
INLINE void soften(float *scores, int64_t width, const int32_t *limits, float *shares, float *totals, const int rows) {
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * width;
        for (int64_t p = limits[r]; p < width; p++) row[p] = -INFINITY;
        v16 most = load16(row);
        for (int64_t p = 16; p < width; p += 16) {
            const v16 other = load16(row + p);
            const i16 larger = other > most;
            most = (v16)(((i16)other & larger) | ((i16)most & ~larger));
        }
        float largest = most[0];
        for (int i = 1; i < 16; i++) largest = most[i] > largest ? most[i] : largest;
        v16 total = all16(0.0f);
        for (int64_t p = 0; p < width; p += 16) {
            const v16 e = exp16(load16(row + p) - largest);
            total += e;
            for (int i = 0; i < 16; i++) shares[(p + i) * rows + r] = e[i];
        }
        totals[r] = total16(total);
    }
}

/* `vectors` x 16 dimensions of the outputs of all rows. */
INLINE void weighted(const float *shares, const float *values, int d, int64_t count, const float *totals,
                     float *const *outs, int first, const int rows, const int vectors) {
    v16 sums[8][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = all16(0.0f);
    for (int64_t p = 0; p < count; p++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const v16 value = load16(values + p * d + first + 16 * v);
            if (rows <= 4) __builtin_prefetch(values + (p + 16) * d + first + 16 * v);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sums[r][v] += shares[p * rows + r] * value;
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store16(outs[r] + first + 16 * v, sums[r][v] / totals[r]);
}

/* Exact softmax in two passes: all scores of a tile first, then their exponentials times the values. */
INLINE void attend_rows(const attention_t *job, const float *const *heads, const int32_t *limits, const float *keys,
                        const float *values, float *const *outs, float *scores, const int rows) {
    const int d = job->dimension, blocks = rows > 4 ? 1 : 2, vectors = rows > 4 ? 2 : 4;
    float queries[8 * MOST_DIMENSIONS], totals[8];
    int32_t longest = 0;
    for (int r = 0; r < rows; r++) {
        longest = limits[r] > longest ? limits[r] : longest;
        for (int i = 0; i < d; i++) queries[i * rows + r] = heads[r][i];
    }
    const int64_t width = (longest + 15) / 16 * 16;
    int64_t p = 0;
    for (; p + 16 * blocks <= width; p += 16 * blocks)
        block_scores(queries, keys + p * d, d, job->scale, scores + p, width, rows, blocks);
    for (; p < width; p += 16) block_scores(queries, keys + p * d, d, job->scale, scores + p, width, rows, 1);
    float *shares = scores + rows * width;
    soften(scores, width, limits, shares, totals, rows);
    int first = 0;
    for (; first + 16 * vectors <= d; first += 16 * vectors)
        weighted(shares, values, d, longest, totals, outs, first, rows, vectors);
    for (; first < d; first += 16) weighted(shares, values, d, longest, totals, outs, first, rows, 1);
}

#define F(M)                                                                                                        \
    CLONES static void attend##M(const attention_t *j, const float *const *q, const int32_t *l, const float *k,     \
                                 const float *v, float *const *o, float *s) {                                       \
        attend_rows(j, q, l, k, v, o, s, M);                                                                        \
    }
EACH8(F)
#undef F

static void attend_tile(const attention_t *job, const int32_t *tile, int head, float *scores) {
    static void (*const attend[])(const attention_t *, const float *const *, const int32_t *, const float *,
                                  const float *, float *const *, float *) = {attend1, attend2, attend3, attend4,
                                                                             attend5, attend6, attend7, attend8};
    const int d = job->dimension, group = job->heads / job->kv_heads;
    const int64_t base = ((int64_t)job->slots[tile[0]] * job->kv_heads + head / group) * job->capacity * d;
    const float *queries[8];
    float *outs[8];
    int32_t limits[8];
    int rows = 0;
    for (int t = tile[0]; t < tile[0] + tile[1]; t++)
        for (int h = head; h < head + job->heads_per_tile; h++, rows++) {
            queries[rows] = job->qkv + t * job->stride + h * d;
            outs[rows] = job->out + ((int64_t)t * job->heads + h) * d;
            limits[rows] = job->positions[t] + 1;
        }
    attend[rows - 1](job, queries, limits, job->keys + base, job->values + base, outs, scores);
}

static void attend_work(void *argument) {
    attention_t *job = argument;
    const int64_t units = job->heads / job->heads_per_tile;
    float *scores = scratch(16 * (size_t)(job->capacity + 16) * sizeof(float));
    for (int64_t u; (u = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tile_count * units;)
        attend_tile(job, job->tiles + 2 * (u % job->tile_count), (int)(u / job->tile_count) * job->heads_per_tile, scores);
}

/* Rotate queries and keys, append keys and values to the cache, attend: `out` is ready for the output projection.
 * heads_per_tile divides the group; heads_per_tile x the tokens of a tile are at most 8. */
API void bb_attention(attention_t *job, int threads) {
    job->next = 0;
    in_parallel(rotate_work, job, job->tokens > 4 ? threads : 1);
    job->next = 0;
    in_parallel(attend_work, job, threads);
}
