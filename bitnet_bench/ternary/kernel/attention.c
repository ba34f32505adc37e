/* Rotary positions, the key-value cache, and causal attention over it, computed in float32.
 *
 * Keys are stored in blocks of 16 positions, [position / 16][dimension][16], so that the scores of 16 positions are one
 * vector; values are stored by position, so that a row of the output is a few vectors. Both are float32, or bfloat16,
 * rounded half to even when they are appended. One tile takes up to 24 queries that read the same keys: heads of one group
 * (GQA), then neighbouring tokens. attend.h has the loops for 8 queries at most, attend_many.h those for more. */
#pragma GCC optimize("fp-contract=fast")
#include "kernel.h"
#include <math.h>
#include <string.h>

enum {
    MOST_DIMENSIONS = 512, /* of a head */
    FEW_QUERIES = 8,       /* of a tile that attend.h takes */
    MOST_QUERIES = 24,     /* of a tile */
    TILES_PER_THREAD = 4,  /* with fewer, a tile is shared by threads */
    LONG = 256,            /* positions from which that is worth the meetings of the threads */
    POSITIONS_PER_PART = 256,
    DIMENSIONS_PER_PART = 64,
};

/* Queries of a tile, and what they read; positions count from the first block of 16 that any of them reads. */
typedef struct {
    const float *queries[MOST_QUERIES];
    float *outs[MOST_QUERIES];
    int32_t starts[MOST_QUERIES], limits[MOST_QUERIES]; /* positions that each query reads */
    int64_t longest, width;       /* the largest limit, and that rounded up to 16 */
    const void *keys, *values;
    float *scores; /* [rows][width] */
    float totals[MOST_QUERIES];
    float scale;
    int32_t dimension, rows, narrow;
} tile_t;

enum phase { ALL, SCORES, SOFTMAX, OUTPUTS };

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

static uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Append the key and the value of one head. */
static void append(const attention_t *job, int64_t base, int32_t position, const float *key, const float *value) {
    const int d = job->dimension;
    const int64_t block = base + (int64_t)(position / 16) * 16 * d + position % 16, row = base + (int64_t)position * d;
    if (job->narrow) {
        uint16_t *keys = (uint16_t *)job->keys + block, *values = (uint16_t *)job->values + row;
        for (int i = 0; i < d; i++) keys[16 * i] = to_bfloat16(key[i]), values[i] = to_bfloat16(value[i]);
        return;
    }
    float *keys = (float *)job->keys + block;
    for (int i = 0; i < d; i++) keys[16 * i] = key[i];
    memcpy((float *)job->values + row, value, (size_t)d * sizeof(float));
}

static void rotate_work(void *argument) {
    attention_t *job = argument;
    const int d = job->dimension;
    for (int64_t t; (t = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tokens;) {
        float *row = job->qkv + t * job->stride, *keys = row + (int64_t)job->heads * d;
        const int32_t position = job->positions[t];
        for (int h = 0; h < job->heads; h++) rotate(row + h * d, job, job->query_norm, position);
        for (int h = 0; h < job->kv_heads; h++) {
            rotate(keys + h * d, job, job->key_norm, position);
            append(job, ((int64_t)job->slots[t] * job->kv_heads + h) * job->capacity * d, position, keys + h * d,
                   keys + (job->kv_heads + h) * d);
        }
    }
}

typedef void (*attend_fn)(tile_t *tile, enum phase phase, int64_t from, int64_t to);

#define TEMPLATE "attend.h"
#include "widths.h"

static tile_t make_tile(const attention_t *job, const int32_t *tokens, int head) {
    const int d = job->dimension, group = job->heads / job->kv_heads;
    tile_t tile = {.scale = job->scale, .dimension = d, .narrow = job->narrow};
    int32_t begin = INT32_MAX, longest = 0;
    int rows = 0;
    for (int t = tokens[0]; t < tokens[0] + tokens[1]; t++)
        for (int h = head; h < head + job->heads_per_tile; h++, rows++) {
            tile.queries[rows] = job->qkv + t * job->stride + h * d;
            tile.outs[rows] = job->out + ((int64_t)t * job->heads + h) * d;
            const int32_t limit = job->positions[t] + 1;
            tile.limits[rows] = limit;
            tile.starts[rows] = job->window && limit > job->window ? limit - job->window : 0;
            begin = tile.starts[rows] < begin ? tile.starts[rows] : begin;
            longest = limit > longest ? limit : longest;
        }
    begin -= begin % 16; /* keys are in blocks of 16 positions: what lies before the tile's first block is not read */
    for (int r = 0; r < rows; r++) tile.starts[r] -= begin, tile.limits[r] -= begin;
    tile.rows = rows;
    tile.longest = longest - begin;
    tile.width = (tile.longest + 15) / 16 * 16;
    const int64_t base = ((int64_t)job->slots[tokens[0]] * job->kv_heads + head / group) * job->capacity * d;
    const int64_t bytes = (base + (int64_t)begin * d) * (job->narrow ? 2 : 4);
    tile.keys = (const char *)job->keys + bytes;
    tile.values = (const char *)job->values + bytes;
    return tile;
}

/* Cut tokens into tiles of neighbours of one slot. A query's bits do not depend on who shares its tile. */
static void make_tiles(attention_t *job, int threads) {
    const int group = job->heads / job->kv_heads;
    if (!job->heads_per_tile) { /* a divisor of the group, half of it where threads would be idle */
        int most = job->tokens * job->kv_heads < threads && group > 1 ? group / 2 : group;
        for (most = most < FEW_QUERIES ? most : FEW_QUERIES; group % most;) most--;
        job->heads_per_tile = most;
    }
    if (!job->most_queries) {
        const int64_t tiles = job->tokens * job->heads / MOST_QUERIES;
        job->most_queries = tiles < (int64_t)TILES_PER_THREAD * threads ? FEW_QUERIES : MOST_QUERIES;
    }
    const int fitting = job->most_queries / job->heads_per_tile, most = fitting > 1 ? fitting : 1;
    job->tile_count = 0;
    for (int64_t t = 0; t < job->tokens; t++) {
        int32_t *tile = job->tiles + 2 * job->tile_count; /* behind the last one */
        if (!t || job->slots[t] != job->slots[t - 1] || tile[-1] == most) {
            tile[0] = (int32_t)t;
            tile[1] = 0;
            tile += 2;
            job->tile_count++;
        }
        tile[-1]++;
    }
}

static tile_t unit_tile(const attention_t *job, int64_t unit) {
    const int head = (int)(unit / job->tile_count) * job->heads_per_tile;
    return make_tile(job, job->tiles + 2 * (unit % job->tile_count), head);
}

static void attend_work(void *argument) {
    attention_t *job = argument;
    const int64_t units = job->heads / job->heads_per_tile * job->tile_count;
    float *scores = scratch(MOST_QUERIES * (size_t)(job->capacity + 32 + 2 * (job->dimension + 16)) * sizeof(float));
    for (int64_t u; (u = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < units;) {
        tile_t tile = unit_tile(job, u);
        tile.scores = scores;
        if (tile.rows > FEW_QUERIES)
            OF_WIDTH(attend_many)(&tile);
        else
            OF_WIDTH(attend_all)[tile.rows - 1](&tile, ALL, 0, 0);
    }
}

/* A few tiles with many positions, of which each is shared by all threads, phase by phase. */
typedef struct {
    tile_t *tiles;
    int64_t units, parts, part; /* parts of each tile, and what a part is wide */
    enum phase phase;
    int64_t next;
} shared_t;

static void shared_work(void *argument) {
    shared_t *job = argument;
    for (int64_t n; (n = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->units * job->parts;) {
        tile_t *tile = job->tiles + n / job->parts;
        const int64_t size = job->phase == SCORES ? tile->width : job->phase == SOFTMAX ? tile->rows : tile->dimension;
        const int64_t from = n % job->parts * job->part, to = from + job->part < size ? from + job->part : size;
        if (from < to) OF_WIDTH(attend_all)[tile->rows - 1](tile, job->phase, from, to);
    }
}

static void run_phase(shared_t *job, enum phase phase, int64_t size, int64_t part, int threads) {
    job->phase = phase;
    job->part = part;
    job->parts = (size + part - 1) / part;
    job->next = 0;
    in_parallel(shared_work, job, threads);
}

/* Return 0 if there are tiles enough for all threads, or if they are short: attend_work is for them. */
static int attend_together(const attention_t *job, int threads) {
    enum { MOST_UNITS = 64 };
    const int64_t units = job->heads / job->heads_per_tile * job->tile_count;
    if (threads == 1 || units >= (int64_t)TILES_PER_THREAD * threads || units > MOST_UNITS) return 0;
    tile_t tiles[MOST_UNITS];
    int64_t widest = 0, rows = 0, floats = 0;
    for (int64_t u = 0; u < units; u++) {
        tiles[u] = unit_tile(job, u);
        widest = tiles[u].width > widest ? tiles[u].width : widest;
        rows = tiles[u].rows > rows ? tiles[u].rows : rows;
        floats += tiles[u].rows * tiles[u].width;
    }
    if (widest < LONG || rows > FEW_QUERIES) return 0;
    float *scores = scratch((size_t)floats * sizeof(float));
    for (int64_t u = 0; u < units; scores += tiles[u].rows * tiles[u].width, u++) tiles[u].scores = scores;
    shared_t shared = {.tiles = tiles, .units = units};
    run_phase(&shared, SCORES, widest, POSITIONS_PER_PART, threads);
    run_phase(&shared, SOFTMAX, rows, 1, threads);
    run_phase(&shared, OUTPUTS, job->dimension, DIMENSIONS_PER_PART, threads);
    return 1;
}

/* heads_per_tile divides the group; heads_per_tile x the tokens of a tile are at most MOST_QUERIES. */
API void bb_attention(attention_t *job, int threads) {
    make_tiles(job, threads);
    job->next = 0;
    in_parallel(rotate_work, job, job->tokens > 4 ? threads : 1);
    if (attend_together(job, threads)) return;
    job->next = 0;
    in_parallel(attend_work, job, threads);
}

API int64_t bb_attention_size(void) { return sizeof(attention_t); } /* Python mirrors it: structs.py */
