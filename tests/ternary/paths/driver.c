/* Runs the products of the kernel outside Python: for emulators, and for builds that Python does not load.
 *
 *     driver list            names of the paths that this processor can run, and of those it would choose
 *     driver PATH < CASES    writes the outputs of all cases, one after the other, as floats
 */
#include "kernel.h"
#include "processor.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { /* part_t and rows_t of linear.c */
    const uint8_t *codes;
    const float *bias;
    const void *scales;
    float scale;
    int32_t kind;
    int64_t rows;
} part_t;
typedef struct {
    const int8_t *q;
    const float *steps;
    const int32_t *sums;
    int64_t tokens, columns, stride, group, digits;
} rows_t;

const char *bb_path(int i);
const char *bb_current(void);
const char *bb_why_not(const char *name);
int bb_use_path(const char *name);
void bb_assume_features(uint32_t more);
void bb_linear(const part_t *parts, int count, const rows_t *x, float *y, int64_t y_stride, int add, int threads);

/* What comes next on stdin: its size, and so many bytes, aligned as tensors are. */
static void *next(void) {
    int64_t size;
    void *found;
    if (fread(&size, sizeof size, 1, stdin) != 1) return NULL;
    if (posix_memalign(&found, 64, (size_t)size + 64) || fread(found, 1, (size_t)size, stdin) != (size_t)size) exit(3);
    return found;
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
    for (int64_t *shape; (shape = next());) { /* kind, rows, tokens, columns, stride, group, digits */
        const uint8_t *codes = next();
        const void *scales = next();
        const part_t part = {codes, NULL, shape[0] ? scales : NULL, *(const float *)scales, (int32_t)shape[0], shape[1]};
        const int8_t *q = next();
        const float *steps = next();
        const int32_t *sums = next();
        const rows_t x = {q, steps, sums, shape[2], shape[3], shape[4], shape[5], shape[6]};
        float *y = calloc((size_t)(shape[2] * shape[1]), sizeof *y);
        bb_linear(&part, 1, &x, y, shape[1], 0, 1);
        fwrite(y, sizeof *y, (size_t)(shape[2] * shape[1]), stdout);
    }
    return 0;
}
