/* What the files of the kernel share. No dependency on torch or Python: plain C, called through ctypes. */
#pragma once
#include <stdint.h>
#include <stddef.h>

#define PANEL 16      /* rows of a panel */
#define STEP 16       /* columns of a step */
#define STEP_BYTES 64 /* 16 rows x 16 columns x 2 bits */
#define API __attribute__((visibility("default")))

/* Loops in plain C are compiled once per instruction set and chosen when the library is loaded. Their sums run in a
 * fixed order and are never contracted, so every machine gets the same float bits. `avx2`, not `arch=haswell`: that is
 * true of Intel's processors only. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
/* For loops in vectors of 16 floats, which the compiler takes through memory where registers hold 8. */
#define CLONES_OF_16 __attribute__((target_clones("avx512f", "default")))
#define WIDER_VECTORS
#else
#define CLONES
#define CLONES_OF_16
#endif

/* Floats that a register of this processor holds: 16, 8 or 4. */
int vector_width(void);

/* Integer dot products of one panel: out[m][16] = sum over k of (code + 1) * q[m][k]. */
typedef void (*dots_fn)(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out);

/* Activations of one call with a scale per group: of rows m, and of groups of `steps` steps. */
typedef struct {
    const int8_t *q; /* [m][stride] */
    int64_t stride;
    const float *steps;  /* [m][groups] what one unit of q is worth in each group */
    const int32_t *sums; /* [m][groups] sum of q in each group */
} group_rows_t;

/* Products of one panel with a scale per group. For each group g in order: out[m][16] += float(sum over its k of code * q)
 * * (scales[g][16] * steps[m][g]), every operation rounded to float by itself. At most 8 steps a group. */
typedef void (*group_dots_fn)(const uint8_t *codes, int64_t steps, int64_t groups, const group_rows_t *x,
                              const float *scales, float *out);

/* The same as dots for `rows` rows, of codes or of bytes; q is read up to a whole 64 columns. */
typedef void (*wide_fn)(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int rows, int32_t *out);

typedef struct {
    const char *name;
    uint32_t needs; /* features of processor.h */
    int most_rows; /* rows of activations that one call takes at most */
    const dots_fn *dots; /* dots[m - 1] takes m rows */
    int most_rows_bytes; /* the same for an int8 layer, stored as bytes of value + 128, four columns a step */
    const dots_fn *bytes;
    const group_dots_fn *group_dots; /* of as many rows as dots */
    int most_wide; /* rows of a call of these, which serve whatever is more than most_rows; 0: there are none */
    wide_fn wide, wide_bytes;
} path_t;
#define MOST_ROWS 12
#define MOST_WIDE_ROWS 64

/* In plain C, for paths that have no instruction for it. */
extern const dots_fn portable_dots[], portable_bytes[];
extern const group_dots_fn portable_groups[];

/* Scales of a group are float16 or float32, in panels: [panels][groups][16]. */
enum scale_dtype { SCALES_FLOAT16 = 2, SCALES_FLOAT32 };
const float *expand_scales(const void *scales, int32_t dtype, int64_t panel, int64_t groups);

extern const path_t portable_path;
#if defined(__x86_64__)
/* A path that the compiler does not know is left out, and the others are built. */
#if __GNUC__ >= 11 || __clang_major__ >= 12
#define HAS_AVXVNNI
#define HAS_AMX
#endif
extern const path_t avx2_path, vnni256_path, avxvnni_path, avx512_path;
extern const dots_fn avx512_dots_all[], avx512_bytes_all[];
extern const group_dots_fn avx512_groups_all[];
#elif defined(__aarch64__)
#if __GNUC__ >= 10 || __clang_major__ >= 11
#define HAS_I8MM
#endif
extern const path_t neon_path, i8mm_path;
#endif
#if defined(HAS_AMX) || defined(TILES_IN_C)
extern const path_t amx_path;
#endif

const path_t *current_path(void);

enum table { BFLOAT16 = 1, FLOAT16, FLOAT32 }; /* how the table of a head is stored */

/* Logits of some tokens, products and sums in float32. */
typedef struct {
    const void *table; /* [rows][columns] */
    const float *x;    /* [tokens][columns] */
    float *y;          /* [tokens][rows] */
    int64_t rows, columns, tokens, next;
    int32_t dtype;
} head_job_t;

/* Rows [from, to) of the head: the bits of a row depend on neither these nor the number of tokens. */
typedef void (*head_fn)(const head_job_t *job, int64_t from, int64_t to);
head_fn find_head(int32_t dtype);

/* Rows of one layer; several that read the same activations (q, k, v; gate, up) are one call. */
typedef struct {
    const uint8_t *codes; /* [panels][steps][64] ternary, or [panels][K / 4][64] bytes of int8 + 128 */
    const float *bias;    /* [rows] or NULL */
    const void *scales;   /* float [rows], or of groups [panels][columns / group][16], or NULL: `scale` for all */
    float scale;
    int32_t kind; /* 0: ternary codes, 1: int8, else ternary codes with scales of groups, of that scale_dtype */
    int64_t rows;
} part_t;

/* Activations of `tokens` rows, quantized by bb_rows: q [tokens][stride] int8 filled with 0 up to the stride. */
typedef struct {
    int8_t *q;
    float *steps; /* [tokens] or [tokens][columns / group] what one unit of q is worth */
    int32_t *sums; /* [tokens] or [tokens][columns / group] sum of q */
    int64_t tokens, columns, stride;
    int64_t group;  /* columns of a group, 0 if there are none */
    int64_t digits; /* rows of q for each token, whose products are added up: 1, or 3 for activations that are floats */
} rows_t;

/* y[t] = q[t] @ codes.T * (step[t] * scale) + bias for every part, or y[t] += that. */
API void bb_linear(const part_t *parts, int count, const rows_t *x, float *y, int64_t y_stride, int add, int threads);

enum activation { NONE, SILU, RELU_SQUARED, GELU_TANH };

/* How a row of `columns` floats becomes int8: an activation gate, an RMS norm, both or neither come first. */
typedef struct {
    const float *x; /* [tokens][x_stride]; with a gate the second half of 2 x columns is multiplied by act(first half) */
    int64_t x_stride, tokens, columns;
    const float *norm; /* [columns] weight of an RMS norm, NULL for ones */
    float epsilon;
    int32_t normed, activation, add;
    int8_t *q;          /* [tokens][stride] */
    float *steps;       /* [tokens] */
    int32_t *sums;      /* [tokens] */
    float *y;           /* [tokens][columns], or NULL: the row as it is before quantization; with `add` it is added */
    int64_t stride;
    int64_t group; /* columns with a step and a sum of their own: steps and sums are [tokens][columns / group]; 0: all */
    int64_t digits; /* with a group: 1, or 3 rows of q for each token, which add up to the row itself: split_digits */
    int64_t next;
} rows_job_t;

/* Quantize rows for bb_linear, after a gate and a norm where the job has them. */
API void bb_rows(rows_job_t *job, int threads);

/* Queries, keys and values of some tokens, and the cache that they are added to and read. */
typedef struct {
    float *qkv;              /* [tokens][stride]: query heads, key heads, value heads side by side */
    int64_t stride, tokens;
    const int32_t *slots;    /* [tokens] which sequence of the cache */
    const int32_t *positions; /* [tokens] position within it; a slot's tokens are neighbours, in order */
    void *keys, *values;     /* the cache of this layer: [slots][kv heads][capacity][dimension], capacity % 16 == 0 */
    int64_t capacity;
    int32_t heads, kv_heads, dimension;
    const float *cosines, *sines; /* [positions][dimension / 2] */
    const float *query_norm, *key_norm; /* [dimension] RMS norm of each head before rotation (Qwen3), or NULL */
    float epsilon, scale;
    float *out;              /* [tokens][heads * dimension] */
    int64_t next;
    int32_t window; /* positions that a query reads at most, its own included; 0: all */
    int32_t narrow; /* 1: the cache holds bfloat16, 0: float32 */
    int32_t heads_per_tile, most_queries; /* of a tile; 0: as many as leave no thread idle */
    int32_t *tiles;     /* room for [tokens][2]: first token, how many */
    int64_t tile_count; /* found here */
} attention_t;

/* Rotate queries and keys, append keys and values to the cache, attend: `out` is ready for the output projection. */
API void bb_attention(attention_t *job, int threads);

/* Run work(argument) here and on up to threads - 1 helpers: every thread takes chunks until there are none (pool.c). */
void in_parallel(void (*work)(void *), void *argument, int threads);
void *scratch(size_t bytes); /* this thread's own buffer, 64-byte aligned, good until the next call */
