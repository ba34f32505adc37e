/* Which instruction set the kernels use. */
#include "kernel.h"
#include "processor.h"
#include <stdlib.h>
#include <string.h>

/* Best first. */
static const path_t *const all_paths[] = {
#if defined(HAS_AMX) || defined(TILES_IN_C)
    &amx_path,
#endif
#if defined(__x86_64__)
    &avx512_path,
    &vnni256_path,
#if defined(HAS_AVXVNNI)
    &avxvnni_path,
#endif
    &avx2_path,
#elif defined(__aarch64__)
#if defined(HAS_I8MM)
    &i8mm_path,
#endif
    &neon_path,
#endif
    &portable_path,
};
enum { PATHS = sizeof all_paths / sizeof *all_paths };

static int supported(const path_t *path) { return (features() & path->needs) == path->needs; }

enum { PROBE_STEPS = 6, PROBE_COLUMNS = 128, PROBE_ROWS = 35 };

typedef struct {
    uint8_t weights[4 * PROBE_STEPS * STEP_BYTES]; /* as bytes; their first quarter as codes */
    int8_t q[PROBE_ROWS * PROBE_COLUMNS] __attribute__((aligned(64)));
} probe_t;

static int gives_sums(const probe_t *probe, const dots_fn *dots, int most, wide_fn wide, const dots_fn *truth) {
    int32_t expected[PROBE_ROWS * PANEL], found[MOST_WIDE_ROWS * PANEL];
    for (int m = 0; m < PROBE_ROWS; m++)
        truth[0](probe->weights, PROBE_STEPS, probe->q + m * PROBE_COLUMNS, PROBE_COLUMNS, expected + m * PANEL);
    for (int m = 1; m <= most; m++) {
        dots[m - 1](probe->weights, PROBE_STEPS, probe->q, PROBE_COLUMNS, found);
        if (memcmp(found, expected, (size_t)(m * PANEL) * sizeof *found)) return 0;
    }
    if (!wide) return 1;
    wide(probe->weights, PROBE_STEPS, probe->q, PROBE_COLUMNS, PROBE_ROWS, found);
    return !memcmp(found, expected, sizeof expected);
}

/* Whether a path gives the sums of plain C for one small product: processors are many, and few of them were at hand. */
static int is_right(const path_t *path) {
    probe_t probe;
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof probe; i++) {
        state = state * 1664525u + 1013904223u;
        ((uint8_t *)&probe)[i] = (uint8_t)(state >> 24);
    }
    return gives_sums(&probe, path->dots, path->most_rows, path->wide, portable_dots) &&
           gives_sums(&probe, path->bytes, path->most_rows_bytes, path->wide_bytes, portable_bytes);
}

static const path_t *chosen;

/* Name of path number i that this processor can run, best first; NULL past the last one. */
API const char *bb_path(int i) {
    for (int p = 0; p < PATHS; p++)
        if (supported(all_paths[p]) && i-- == 0) return all_paths[p]->name;
    return NULL;
}

static const path_t *find_path(const char *name) {
    for (int p = 0; p < PATHS; p++)
        if (!strcmp(all_paths[p]->name, name)) return all_paths[p];
    return NULL;
}

/* Why the path of that name cannot be used, as the end of a sentence; NULL if it can. */
API const char *bb_why_not(const char *name) {
    const path_t *path = find_path(name);
    if (!path) return "the kernel as it was built here does not have";
    if (!supported(path)) return "this processor, or its operating system, does not have";
    return is_right(path) ? NULL : "gives wrong sums on this processor";
}

/* Use the path of that name; 0 if this processor has none such. */
API int bb_use_path(const char *name) {
    if (bb_why_not(name)) return 0;
    chosen = find_path(name);
    return 1;
}

const path_t *current_path(void) {
    for (int p = 0; !chosen && p < PATHS; p++)
        if (supported(all_paths[p]) && is_right(all_paths[p])) chosen = all_paths[p];
    return chosen;
}

API const char *bb_current(void) { return current_path()->name; }

static int widest(void) {
#if defined(WIDER_VECTORS)
    if (__builtin_cpu_supports("avx512f")) return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

static int width;

/* Use vectors of so many floats, for tests; 0 if this processor has none such. */
API int bb_use_width(int floats) {
    if (floats > widest() || (floats != 4 && floats != 8 && floats != 16)) return 0;
    width = floats;
    return 1;
}

int vector_width(void) {
    if (!width) width = widest();
    return width;
}

void *scratch(size_t bytes) {
    static _Thread_local void *buffer;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(buffer);
        size = (bytes + 4095) & ~(size_t)4095;
        if (posix_memalign(&buffer, 64, size)) abort();
    }
    return buffer;
}
