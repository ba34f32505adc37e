/* A forward pass: all layers of a model for some tokens in one call, over a table of layers that is made once. Nothing is
 * allocated here. Which steps a layer has is what its table says; their sums and orders are those of the other files. */
#include "kernel.h"

/* An RMS norm of rows. */
typedef struct {
    const float *weight; /* [columns], or NULL for ones */
    float epsilon;
    int32_t exists; /* 0: there is none */
} norm_t;

typedef struct {
    norm_t input, attended, attention_out, mlp, gated, mlp_out;
    const part_t *qkv, *out, *gate_up, *down; /* 3, 1, 2 and 1 layers */
    const float *query_norm, *key_norm;       /* [dimension] of single heads, or NULL */
    int32_t window; /* positions that a token reads at most, its own included; 0: all */
    int32_t angles; /* which of the tables of rotary positions */
} layer_t;

typedef struct {
    const layer_t *layers;
    int64_t count, hidden, intermediate;
    int32_t heads, kv_heads, dimension, activation;
    float epsilon, scale; /* of the norms of single heads; of scores */
    norm_t inner, final;  /* before every linear layer, beside the norms of a block; of the last hidden states */
} model_t;

enum { MOST_ANGLES = 3 }; /* of layers that read all positions, of those with windows, and of those that rotate nothing */

typedef struct {
    const model_t *model;
    float *hidden; /* [tokens][hidden]: embeddings, which become the last hidden states, normalized */
    const int32_t *slots, *positions; /* [tokens], see attention_t */
    int64_t tokens;
    char *keys, *values;            /* the cache of the first layer */
    int64_t layer_bytes, capacity;  /* from a layer's cache to the next one's: 0 if all share one; positions */
    int32_t narrow;
    int32_t mlp_tokens; /* tokens that go through an MLP together: its outputs, the widest of a layer, stay in a cache */
    const float *cosines[MOST_ANGLES], *sines[MOST_ANGLES]; /* [positions][dimension / 2] */
    float *between, *qkv, *attended; /* buffers of `tokens` rows of floats */
    float *gate_up;                  /* of mlp_tokens rows */
    int32_t *tiles;                  /* [tokens][2] */
    rows_t wide, headed, gated;      /* buffers: of `tokens` rows, and gated of mlp_tokens */
} pass_t;

static void normalize(const float *x, int64_t columns, const norm_t *norm, float *y, int add, int64_t tokens, int threads) {
    rows_job_t job = {.x = x, .x_stride = columns, .tokens = tokens, .columns = columns, .norm = norm->weight,
                      .epsilon = norm->epsilon, .normed = norm->exists, .add = add, .y = y};
    bb_rows(&job, threads);
}

/* Rows of floats -> out, after a gate, a norm, both or neither. */
static void quantize_rows(const float *x, int64_t stride, int activation, const norm_t *norm, const rows_t *out, int threads) {
    rows_job_t job = {.x = x, .x_stride = stride, .tokens = out->tokens, .columns = out->columns, .norm = norm->weight,
                      .epsilon = norm->epsilon, .normed = norm->exists, .activation = activation, .q = out->q,
                      .steps = out->steps, .sums = out->sums, .stride = out->stride, .group = out->group,
                      .digits = out->digits};
    bb_rows(&job, threads);
}

static void attend(const pass_t *pass, const layer_t *layer, int64_t number, int64_t width, int threads) {
    const model_t *model = pass->model;
    attention_t job = {
        .qkv = pass->qkv, .stride = width, .tokens = pass->tokens, .slots = pass->slots, .positions = pass->positions,
        .keys = pass->keys + number * pass->layer_bytes, .values = pass->values + number * pass->layer_bytes,
        .capacity = pass->capacity, .heads = model->heads, .kv_heads = model->kv_heads, .dimension = model->dimension,
        .cosines = pass->cosines[layer->angles], .sines = pass->sines[layer->angles], .query_norm = layer->query_norm,
        .key_norm = layer->key_norm, .epsilon = model->epsilon, .scale = model->scale, .out = pass->attended,
        .window = layer->window, .narrow = pass->narrow, .tiles = pass->tiles,
    };
    bb_attention(&job, threads);
}

/* Add a product, normalized if the architecture does that, to the residual stream. */
static void add_product(const part_t *part, const rows_t *x, const norm_t *norm, float *between, float *hidden, int threads) {
    if (!norm->exists) {
        bb_linear(part, 1, x, hidden, part->rows, 1, threads);
        return;
    }
    bb_linear(part, 1, x, between, part->rows, 0, threads);
    normalize(between, part->rows, norm, hidden, 1, x->tokens, threads);
}

/* The MLP of a layer for tokens [from, from + count). */
static void run_mlp(const pass_t *pass, const layer_t *layer, int64_t from, int64_t count, int threads) {
    const model_t *model = pass->model;
    float *hidden = pass->hidden + from * model->hidden, *between = pass->between + from * model->hidden;
    rows_t wide = pass->wide, gated = pass->gated;
    wide.tokens = gated.tokens = count;
    const float *x = hidden;
    if (model->inner.exists) {
        normalize(hidden, model->hidden, &layer->mlp, between, 0, count, threads);
        x = between;
    }
    quantize_rows(x, model->hidden, NONE, model->inner.exists ? &model->inner : &layer->mlp, &wide, threads);
    bb_linear(layer->gate_up, 2, &wide, pass->gate_up, 2 * model->intermediate, 0, threads);
    quantize_rows(pass->gate_up, 2 * model->intermediate, model->activation, &layer->gated, &gated, threads);
    add_product(layer->down, &gated, &layer->mlp_out, between, hidden, threads);
}

/* All layers and the final norm; the tokens are added to the cache. */
API void bb_forward(const pass_t *pass, int threads) {
    const model_t *model = pass->model;
    const int64_t tokens = pass->tokens, heads = (int64_t)model->heads * model->dimension;
    const int64_t width = heads + 2 * (int64_t)model->kv_heads * model->dimension;
    rows_t wide = pass->wide, headed = pass->headed;
    wide.tokens = headed.tokens = tokens;
    for (int64_t i = 0; i < model->count; i++) {
        const layer_t *layer = model->layers + i;
        quantize_rows(pass->hidden, model->hidden, NONE, &layer->input, &wide, threads);
        bb_linear(layer->qkv, 3, &wide, pass->qkv, width, 0, threads);
        attend(pass, layer, i, width, threads);
        quantize_rows(pass->attended, heads, NONE, &layer->attended, &headed, threads);
        add_product(layer->out, &headed, &layer->attention_out, pass->between, pass->hidden, threads);
        for (int64_t t = 0; t < tokens; t += pass->mlp_tokens)
            run_mlp(pass, layer, t, tokens - t < pass->mlp_tokens ? tokens - t : pass->mlp_tokens, threads);
    }
    normalize(pass->hidden, model->hidden, &model->final, pass->hidden, 0, tokens, threads);
}

API int64_t bb_norm_size(void) { return sizeof(norm_t); } /* Python mirrors these: structs.py */
API int64_t bb_layer_size(void) { return sizeof(layer_t); }
API int64_t bb_model_size(void) { return sizeof(model_t); }
API int64_t bb_pass_size(void) { return sizeof(pass_t); }
