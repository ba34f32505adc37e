/* Rotary positions, the key-value cache, and causal attention over it, in float32.
 *
 * Keys are stored in blocks of 16 positions, [position / 16][dimension][16], so that the scores of 16 positions are one
 * vector; values are stored by position, so that a row of the output is a few vectors. One tile takes up to 24
 * queries that read the same keys: heads of one group (GQA), then neighbouring tokens. attend.h has the loops for 8
 * queries at most, attend_many.h those for more. */
#pragma GCC optimize("fp-contract=fast")
#include "kernel.h"
#include <math.h>
#include <string.h>

enum { MOST_DIMENSIONS = 512 /* of a head */, FEW_QUERIES = 8, MOST_QUERIES = 24 /* of a tile */ };

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
    int32_t window; /* positions that a query reads at most, its own included; 0: all */
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

typedef void (*attend_fn)(const attention_t *, const float *const *, const int32_t *, const int32_t *, const float *,
                          const float *, float *const *, float *);

#define TEMPLATE "attend.h"
#include "widths.h"

static void attend_tile(const attention_t *job, const int32_t *tile, int head, float *scores) {
    const int d = job->dimension, group = job->heads / job->kv_heads;
    const int64_t base = ((int64_t)job->slots[tile[0]] * job->kv_heads + head / group) * job->capacity * d;
    const float *queries[MOST_QUERIES];
    float *outs[MOST_QUERIES];
    int32_t starts[MOST_QUERIES], limits[MOST_QUERIES], begin = INT32_MAX;
    int rows = 0;
    for (int t = tile[0]; t < tile[0] + tile[1]; t++)
        for (int h = head; h < head + job->heads_per_tile; h++, rows++) {
            queries[rows] = job->qkv + t * job->stride + h * d;
            outs[rows] = job->out + ((int64_t)t * job->heads + h) * d;
            limits[rows] = job->positions[t] + 1;
            starts[rows] = job->window && limits[rows] > job->window ? limits[rows] - job->window : 0;
            begin = starts[rows] < begin ? starts[rows] : begin;
        }
    begin -= begin % 16; /* keys are in blocks of 16 positions: what lies before the tile's first block is not read */
    for (int r = 0; r < rows; r++) starts[r] -= begin, limits[r] -= begin;
    const float *keys = job->keys + base + (int64_t)begin * d, *values = job->values + base + (int64_t)begin * d;
    if (rows > FEW_QUERIES)
        OF_WIDTH(attend_many)(job, rows, queries, starts, limits, keys, values, outs, scores);
    else
        OF_WIDTH(attend_all)[rows - 1](job, queries, starts, limits, keys, values, outs, scores);
}

static void attend_work(void *argument) {
    attention_t *job = argument;
    const int64_t units = job->heads / job->heads_per_tile;
    float *scores = scratch(MOST_QUERIES * (size_t)(job->capacity + 32 + 2 * (job->dimension + 16)) * sizeof(float));
    for (int64_t u; (u = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tile_count * units;)
        attend_tile(job, job->tiles + 2 * (u % job->tile_count), (int)(u / job->tile_count) * job->heads_per_tile, scores);
}

/* Rotate queries and keys, append keys and values to the cache, attend: `out` is ready for the output projection.
 * heads_per_tile divides the group; heads_per_tile x the tokens of a tile are at most MOST_QUERIES. */
API void bb_attention(attention_t *job, int threads) {
    job->next = 0;
    in_parallel(rotate_work, job, job->tokens > 4 ? threads : 1);
    job->next = 0;
    in_parallel(attend_work, job, threads);
}

API int64_t bb_attention_size(void) { return sizeof(attention_t); } /* Python mirrors it: structs.py */
