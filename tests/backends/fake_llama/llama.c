/* A libllama that computes something simple: the logit of v after a sequence is 1 + (v * 31 + sum) % 101 over the sum
 * of its tokens, each times its position plus one. FAKE_FAULT: "status" fails to decode, "lost" forgets a token,
 * "crash" ends the process.
 */
#include "llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCABULARY 300
#define SEQUENCES 64
struct llama_model { int vocabulary; };
struct llama_context { long sums[SEQUENCES]; int held[SEQUENCES]; float *logits; int rows, room; };

static void (*say)(enum ggml_log_level, const char *, void *);
static struct llama_model model;

static int is_fault(const char *name) {
    const char *set = getenv("FAKE_FAULT");
    return set && !strcmp(set, name);
}
static void *load(const char *path) {
    char magic[5] = "";
    FILE *file = fopen(path, "rb");
    if (file) { (void)!fread(magic, 1, 4, file); fclose(file); }
    if (!strcmp(magic, "GGUF")) { model.vocabulary = VOCABULARY; return &model; }
    say(GGML_LOG_LEVEL_ERROR, "error loading model: invalid magic characters\n", NULL);
    say(1, "a remark\n", NULL);
    return NULL;
}
static void *context(struct llama_context_params p) {
    if (p.n_ctx > 1000000) return NULL;
    return calloc(1, sizeof(struct llama_context));
}
static void clear(struct llama_context *c) {
    memset(c->sums, 0, sizeof c->sums);
    memset(c->held, 0, sizeof c->held);
}
void llama_backend_init(void) {}
void llama_log_set(void (*callback)(enum ggml_log_level, const char *, void *), void *data) { (void)data; say = callback; }
struct llama_model_params llama_model_default_params(void) { struct llama_model_params p = {0}; return p; }
struct llama_context_params llama_context_default_params(void) { 
    struct llama_context_params p = {0};
    p.n_ctx = 512, p.n_batch = 2048, p.n_seq_max = 1, p.n_threads = p.n_threads_batch = 4;
    return p;
}
struct llama_batch llama_batch_init(int32_t tokens, int32_t embd, int32_t sequences) {
    struct llama_batch b = {0};
    (void)embd;
    b.token = calloc(tokens, 4), b.pos = calloc(tokens, 4), b.n_seq_id = calloc(tokens, 4), b.logits = calloc(tokens, 1);
    b.seq_id = calloc(tokens, sizeof(void *));
    for (int i = 0; i < tokens; i++) b.seq_id[i] = calloc(sequences, 4);
    return b;
}
void llama_batch_free(struct llama_batch b) { free(b.token), free(b.pos), free(b.n_seq_id), free(b.logits), free(b.seq_id); }
void llama_free(struct llama_context *c) { free(c->logits), free(c); }
int32_t llama_decode(struct llama_context *c, struct llama_batch b) {
    if (is_fault("crash")) abort();
    if (is_fault("status")) { say(GGML_LOG_LEVEL_ERROR, "decoding failed: the graph is broken\n", NULL); return -3; }
    c->logits = realloc(c->logits, sizeof(float) * VOCABULARY * b.n_tokens);
    c->rows = 0;
    for (int i = 0; i < b.n_tokens; i++) {
        int s = b.seq_id[i][0];
        if (b.n_seq_id[i] != 1 || b.pos[i] != c->held[s]) return 1;
        c->sums[s] += (long)b.token[i] * (b.pos[i] + 1);
        c->held[s]++;
        if (!b.logits[i]) continue;
        for (int v = 0; v < VOCABULARY; v++) c->logits[c->rows * VOCABULARY + v] = 1 + (v * 31 + c->sums[s]) % 101;
        c->rows++;
    }
    return 0;
}
float *llama_get_logits(struct llama_context *c) { return c->logits; }
static int tokenize(const char *text, int n, llama_token *out) {
    for (int i = 0; i < n; i++) out[i] = (unsigned char)text[i];
    return n;
}
static int last(struct llama_context *c, int s) { return c->held[s] - 1 - is_fault("lost"); }
#ifdef NEW
struct llama_model *llama_model_load_from_file(const char *path, struct llama_model_params p) { (void)p; return load(path); }
void llama_model_free(struct llama_model *m) { m->vocabulary = 0; }
struct llama_context *llama_init_from_model(struct llama_model *m, struct llama_context_params p) { (void)m; return p.kv_unified ? context(p) : NULL; }
const struct llama_vocab *llama_model_get_vocab(const struct llama_model *m) { return (const void *)m; }
int32_t llama_vocab_n_tokens(const struct llama_vocab *v) { return ((const struct llama_model *)v)->vocabulary; }
int32_t llama_model_n_ctx_train(const struct llama_model *m) { (void)m; return 128; }
int32_t llama_tokenize(const struct llama_vocab *v, const char *t, int32_t n, llama_token *out, int32_t room, bool special, bool parse) { (void)v, (void)room, (void)special, (void)parse; return tokenize(t, n, out); }
llama_memory_t llama_get_memory(const struct llama_context *c) { return (llama_memory_t)c; }
void llama_memory_clear(llama_memory_t m, bool data) { (void)data; clear((struct llama_context *)m); }
int32_t llama_memory_seq_pos_max(llama_memory_t m, int32_t s) { return last((struct llama_context *)m, s); }
#else
struct llama_model *llama_load_model_from_file(const char *path, struct llama_model_params p) { (void)p; return load(path); }
void llama_free_model(struct llama_model *m) { m->vocabulary = 0; }
struct llama_context *llama_new_context_with_model(struct llama_model *m, struct llama_context_params p) { (void)m; return context(p); }
int32_t llama_n_vocab(const struct llama_model *m) { return m->vocabulary; }
int32_t llama_n_ctx_train(const struct llama_model *m) { (void)m; return 128; }
int32_t llama_tokenize(const struct llama_model *m, const char *t, int32_t n, llama_token *out, int32_t room, bool special, bool parse) { (void)m, (void)room, (void)special, (void)parse; return tokenize(t, n, out); }
void llama_kv_cache_clear(struct llama_context *c) { clear(c); }
int32_t llama_kv_cache_seq_pos_max(struct llama_context *c, int32_t s) { return last(c, s); }
#endif
