/* The few calls of libllama that a session makes, in one form for every version of its interface.
 *
 * Compiled against the headers of the user's own build, which say how its structures lie: they differ from version to
 * version, so that no fixed description of them would be safe. build.py defines HAS_... for the calls that a header
 * declares.
 */
#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAID 400

typedef struct {
    struct llama_model *model;
    struct llama_context *context;
    struct llama_batch batch;
} Bench;

static char said[SAID];

/* Keep the last error that libllama reports, and print nothing. */
static void listen(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) snprintf(said, SAID, "%s", text);
}

const char *bench_said(void) { return said; }

void bench_close(Bench *b) {
    if (!b) return;
    if (b->context) llama_free(b->context);
#ifdef HAS_LLAMA_MODEL_FREE
    if (b->model) llama_model_free(b->model);
#else
    if (b->model) llama_free_model(b->model);
#endif
    if (b->batch.token) llama_batch_free(b->batch);
    free(b);
}

/* NULL if the file does not load. */
Bench *bench_open(const char *path, int vocabulary_only, int tokens_at_once) {
    Bench *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    said[0] = 0;
    llama_log_set(listen, NULL);
    llama_backend_init();
    struct llama_model_params settings = llama_model_default_params();
    settings.vocab_only = vocabulary_only;
    settings.n_gpu_layers = 0;
#ifdef HAS_LLAMA_MODEL_LOAD_FROM_FILE
    b->model = llama_model_load_from_file(path, settings);
#else
    b->model = llama_load_model_from_file(path, settings);
#endif
    if (b->model) b->batch = llama_batch_init(tokens_at_once, 0, 1);
    if (b->batch.token) return b;
    bench_close(b);
    return NULL;
}

int bench_vocabulary(const Bench *b) {
#ifdef HAS_LLAMA_VOCAB_N_TOKENS
    return llama_vocab_n_tokens(llama_model_get_vocab(b->model));
#else
    return llama_n_vocab(b->model);
#endif
}

int bench_trained_context(const Bench *b) {
#ifdef HAS_LLAMA_MODEL_N_CTX_TRAIN
    return llama_model_n_ctx_train(b->model);
#else
    return llama_n_ctx_train(b->model);
#endif
}

int bench_tokenize(const Bench *b, const char *text, int length, int *ids, int room) {
#ifdef HAS_LLAMA_VOCAB_N_TOKENS
    return llama_tokenize(llama_model_get_vocab(b->model), text, length, ids, room, true, true);
#else
    return llama_tokenize(b->model, text, length, ids, room, true, true);
#endif
}

/* 0 if there is no memory for it. */
int bench_make_room(Bench *b, int tokens, int sequences, int tokens_at_once, int threads) {
    if (b->context) llama_free(b->context);
    struct llama_context_params settings = llama_context_default_params();
    settings.n_ctx = tokens;
    settings.n_seq_max = sequences;
    settings.n_batch = tokens_at_once;
    settings.n_threads = settings.n_threads_batch = threads;
#ifdef HAS_KV_UNIFIED
    settings.kv_unified = true;
#endif
#ifdef HAS_LLAMA_INIT_FROM_MODEL
    b->context = llama_init_from_model(b->model, settings);
#else
    b->context = llama_new_context_with_model(b->model, settings);
#endif
    return b->context != NULL;
}

void bench_forget(Bench *b) {
#if defined HAS_LLAMA_MEMORY_CLEAR
    llama_memory_clear(llama_get_memory(b->context), false);
#elif defined HAS_LLAMA_KV_SELF_CLEAR
    llama_kv_self_clear(b->context);
#else
    llama_kv_cache_clear(b->context);
#endif
}

/* Tokens of a sequence in the context. */
int bench_held(const Bench *b, int sequence) {
#if defined HAS_LLAMA_MEMORY_SEQ_POS_MAX
    return llama_memory_seq_pos_max(llama_get_memory(b->context), sequence) + 1;
#elif defined HAS_LLAMA_KV_SELF_SEQ_POS_MAX
    return llama_kv_self_seq_pos_max(b->context, sequence) + 1;
#else
    return llama_kv_cache_seq_pos_max(b->context, sequence) + 1;
#endif
}

/* The status of llama_decode. */
int bench_read(Bench *b, int count, const int *ids, const int *positions, const int *sequences, const signed char *wanted) {
    b->batch.n_tokens = count;
    for (int i = 0; i < count; i++) {
        b->batch.token[i] = ids[i];
        b->batch.pos[i] = positions[i];
        b->batch.n_seq_id[i] = 1;
        b->batch.seq_id[i][0] = sequences[i];
        b->batch.logits[i] = wanted[i];
    }
    return llama_decode(b->context, b->batch);
}

const float *bench_logits(Bench *b) { return llama_get_logits(b->context); }
