/* Rotary positions, the key-value cache, and causal attention over it, in float32.
 *
 * Keys are stored in blocks of 16 positions, [position / 16][dimension][16], so that the scores of 16 positions are one
 * vector; values are stored by position, so that a row of the output is a few vectors. One tile takes up to 8 queries
 * that read the same keys: heads of one group (GQA), then neighbouring tokens. */
#pragma GCC optimize("fp-contract=fast")
#include "vectors.h"
#include <math.h>

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

/* Scores of `rows` queries against the 16 positions of one block of keys. */
INLINE void block_scores(const float *const *queries, const float *block, int d, const int rows, v16 *sums) {
    for (int r = 0; r < rows; r++) sums[r] = all16(0.0f);
    for (int i = 0; i < d; i++) {
        const v16 key = load16(block + 16 * i);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r] += queries[r][i] * key;
    }
}

/* Exact softmax in two passes: all scores of a tile first, then their exponentials times the values. */
INLINE void attend_rows(const attention_t *job, const float *const *queries, const int32_t *limits, const float *keys,
                        const float *values, float *const *outs, float *scores, const int rows) {
    const int d = job->dimension;
    int32_t longest = 0;
    for (int r = 0; r < rows; r++) longest = limits[r] > longest ? limits[r] : longest;
    const int64_t width = (longest + 15) / 16 * 16;
    v16 sums[8];
    for (int64_t p = 0; p < width; p += 16) {
        block_scores(queries, keys + p * d, d, rows, sums);
        for (int r = 0; r < rows; r++) store16(scores + r * width + p, sums[r] * job->scale);
    }
    float shares[8];
    for (int r = 0; r < rows; r++) {
        float *row = scores + r * width, largest = row[0];
        for (int64_t p = limits[r]; p < width; p++) row[p] = -INFINITY;
        for (int32_t p = 0; p < limits[r]; p++) largest = row[p] > largest ? row[p] : largest;
        v16 total = all16(0.0f);
        for (int64_t p = 0; p < width; p += 16) {
            const v16 e = exp16(load16(row + p) - largest);
            store16(row + p, e);
            total += e;
        }
        shares[r] = 1.0f / total16(total);
    }
    for (int first = 0; first < d; first += 32) {
        const int second = first + 16 < d ? 16 : 0; /* a head of 16 dimensions has no second half */
        v16 left[8], right[8];
        for (int r = 0; r < rows; r++) left[r] = right[r] = all16(0.0f);
        for (int32_t p = 0; p < longest; p++) {
            const v16 a = load16(values + (int64_t)p * d + first), b = load16(values + (int64_t)p * d + first + second);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                left[r] += scores[r * width + p] * a;
                right[r] += scores[r * width + p] * b;
            }
        }
        for (int r = 0; r < rows; r++) {
            store16(outs[r] + first, left[r] * shares[r]);
            if (second) store16(outs[r] + first + second, right[r] * shares[r]);
        }
    }
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
    float *scores = scratch(8 * (size_t)(job->capacity + 16) * sizeof(float));
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
