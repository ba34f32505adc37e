/* Runs the kernel outside Python: for emulators, and for builds that Python does not load.
 *
 *     driver list              names of the paths that this processor can run, and of those it would choose
 *     driver PATH < CASES      writes the outputs of all products, one after the other, as floats
 *     driver PATH head < CASES the same of heads
 *     driver PATH forward      writes the last hidden states of a random model: a prompt, then token by token
 */
#include "forward.c"
#include "processor.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *bb_path(int i);
const char *bb_current(void);
const char *bb_why_not(const char *name);
int bb_use_path(const char *name);
void bb_assume_features(uint32_t more);
void bb_head(const head_job_t *job, int threads);

/* What comes next on stdin: its size, and so many bytes, aligned as tensors are. */
static void *next(void) {
    int64_t size;
    void *found;
    if (fread(&size, sizeof size, 1, stdin) != 1) return NULL;
    if (posix_memalign(&found, 64, (size_t)size + 64) || fread(found, 1, (size_t)size, stdin) != (size_t)size) exit(3);
    return found;
}

static void multiply(void) {
    for (int64_t *shape; (shape = next());) { /* kind, rows, tokens, columns, stride, group, digits */
        const uint8_t *codes = next();
        const void *scales = next();
        const part_t part = {codes, NULL, shape[0] ? scales : NULL, *(const float *)scales, (int32_t)shape[0], shape[1]};
        int8_t *q = next();
        float *steps = next();
        int32_t *sums = next();
        const rows_t x = {q, steps, sums, shape[2], shape[3], shape[4], shape[5], shape[6]};
        float *y = calloc((size_t)(shape[2] * shape[1]), sizeof *y);
        bb_linear(&part, 1, &x, y, shape[1], 0, 1);
        fwrite(y, sizeof *y, (size_t)(shape[2] * shape[1]), stdout);
    }
}

static void multiply_heads(void) {
    for (int64_t *shape; (shape = next());) { /* dtype, rows, tokens, columns */
        head_job_t job = {.rows = shape[1], .tokens = shape[2], .columns = shape[3], .dtype = (int32_t)shape[0]};
        job.table = next();
        job.x = next();
        job.y = calloc((size_t)(job.tokens * job.rows), sizeof *job.y);
        bb_head(&job, 1);
        fwrite(job.y, sizeof *job.y, (size_t)(job.tokens * job.rows), stdout);
    }
}

enum { HIDDEN = 80, MIDDLE = 112, HEADS = 4, KV_HEADS = 2, DIMENSION = 32, LAYERS = 2, PROMPT = 30, POSITIONS = 32 };

static uint32_t draw(uint32_t below) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

static float *draw_floats(int64_t count) {
    float *found = malloc((size_t)count * sizeof *found);
    for (int64_t i = 0; i < count; i++) found[i] = (float)(int)draw(2001) * 0.001f - 1.0f;
    return found;
}

static void draw_part(part_t *part, int64_t rows, int64_t columns) {
    const int64_t size = (rows + PANEL - 1) / PANEL * ((columns + STEP - 1) / STEP) * STEP_BYTES;
    uint8_t *codes;
    if (posix_memalign((void **)&codes, 64, (size_t)size)) exit(3);
    for (int64_t i = 0; i < size; i++) codes[i] = (uint8_t)(draw(3) | draw(3) << 2 | draw(3) << 4 | draw(3) << 6);
    *part = (part_t){.codes = codes, .scale = 0.1f, .rows = rows};
}

static rows_t make_rows(int64_t tokens, int64_t columns) {
    rows_t x = {.columns = columns, .stride = (columns + 63) / 64 * 64, .digits = 1};
    if (posix_memalign((void **)&x.q, 64, (size_t)(tokens * x.stride))) exit(3);
    x.steps = malloc((size_t)tokens * sizeof *x.steps);
    x.sums = malloc((size_t)tokens * sizeof *x.sums);
    return x;
}

static void draw_layer(layer_t *layer, part_t parts[7], int window) {
    const int width = HEADS * DIMENSION, rows[] = {width, KV_HEADS * DIMENSION, KV_HEADS * DIMENSION, HIDDEN, MIDDLE, MIDDLE, HIDDEN};
    const int columns[] = {HIDDEN, HIDDEN, HIDDEN, width, HIDDEN, HIDDEN, MIDDLE};
    const norm_t plain = {NULL, 1e-5f, 1}, none = {NULL, 0.0f, 0};
    for (int i = 0; i < 7; i++) draw_part(parts + i, rows[i], columns[i]);
    *layer = (layer_t){.input = plain, .mlp = plain, .gated = plain, .mlp_out = window ? plain : none, .qkv = parts,
                       .out = parts + 3, .gate_up = parts + 4, .down = parts + 6, .window = window};
    layer->query_norm = draw_floats(DIMENSION);
}

static void run_model(void) {
    static layer_t layers[LAYERS];
    static part_t parts[LAYERS][7];
    static float cache[2][LAYERS][2 * KV_HEADS * POSITIONS * DIMENSION];
    static int32_t tiles[2 * PROMPT], slots[PROMPT], positions[PROMPT];
    for (int i = 0; i < LAYERS; i++) draw_layer(layers + i, parts[i], i ? 5 : 0);
    const int width = (HEADS + 2 * KV_HEADS) * DIMENSION;
    model_t model = {.layers = layers, .count = LAYERS, .hidden = HIDDEN, .intermediate = MIDDLE, .heads = HEADS,
                     .kv_heads = KV_HEADS, .dimension = DIMENSION, .activation = RELU_SQUARED, .epsilon = 1e-6f,
                     .scale = 0.2f, .final = {NULL, 1e-5f, 1}};
    pass_t pass = {.model = &model, .slots = slots, .positions = positions, .keys = (char *)cache[0],
                   .values = (char *)cache[1], .layer_bytes = sizeof cache[0][0], .capacity = POSITIONS,
                   .mlp_tokens = 8, .tiles = tiles};
    pass.cosines[0] = draw_floats(POSITIONS * DIMENSION / 2);
    pass.sines[0] = draw_floats(POSITIONS * DIMENSION / 2);
    pass.between = draw_floats(PROMPT * HIDDEN);
    pass.qkv = draw_floats(PROMPT * width);
    pass.attended = draw_floats(PROMPT * HEADS * DIMENSION);
    pass.gate_up = draw_floats(8 * 2 * MIDDLE);
    pass.wide = make_rows(PROMPT, HIDDEN);
    pass.headed = make_rows(PROMPT, HEADS * DIMENSION);
    pass.gated = make_rows(8, MIDDLE);
    for (int step = 0; step < 4; step++) { /* two sequences of 15 tokens, and three more tokens of each */
        pass.tokens = step ? 2 : PROMPT;
        for (int t = 0; t < pass.tokens; t++) {
            slots[t] = step ? t : t / (PROMPT / 2);
            positions[t] = step ? PROMPT / 2 + step - 1 : t % (PROMPT / 2);
        }
        pass.hidden = draw_floats(pass.tokens * HIDDEN);
        bb_forward(&pass, 1);
        fwrite(pass.hidden, sizeof *pass.hidden, (size_t)(pass.tokens * HIDDEN), stdout);
    }
}

int main(int count, char **arguments) {
    if (getenv("ASSUME")) bb_assume_features((uint32_t)atoi(getenv("ASSUME")));
    if (count > 1 && !strcmp(arguments[1], "list")) {
        for (int i = 0; bb_path(i); i++) printf("%s\n", bb_path(i));
        printf("%s\n", bb_current());
        return 0;
    }
    const char *why = bb_why_not(arguments[1]);
    if (why) {
        fprintf(stderr, "%s, which %s\n", arguments[1], why);
        return 2;
    }
    bb_use_path(arguments[1]);
    if (count == 2)
        multiply();
    else if (!strcmp(arguments[2], "head"))
        multiply_heads();
    else
        run_model();
    return 0;
}
