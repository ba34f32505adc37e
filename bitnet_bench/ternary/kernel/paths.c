/* Which instruction set the kernels use. */
#include "kernel.h"
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
static int has_avxvnni(void) { /* older compilers have no __builtin_cpu_supports("avxvnni") */
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1) && __builtin_cpu_supports("avx2");
}
static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__)
static int has_dotprod(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#else
    return 1; /* every Apple processor that runs a 64-bit macOS of today */
#endif
}
#endif

/* Best first. */
static const path_t *const all_paths[] = {
#if defined(__x86_64__)
    &avx512_path, &vnni256_path, &avxvnni_path, &avx2_path,
#elif defined(__aarch64__)
    &neon_path,
#endif
    &portable_path,
};
enum { PATHS = sizeof all_paths / sizeof *all_paths };

static int supported(const path_t *path) {
#if defined(__x86_64__)
    if (path == &avx512_path || path == &vnni256_path) return has_avx512();
    if (path == &avxvnni_path) return has_avxvnni();
    if (path == &avx2_path) return __builtin_cpu_supports("avx2");
#elif defined(__aarch64__)
    if (path == &neon_path) return has_dotprod();
#endif
    return path == &portable_path;
}

static const path_t *chosen;

/* Name of path number i that this processor can run, best first; NULL past the last one. */
API const char *bb_path(int i) {
    for (int p = 0; p < PATHS; p++)
        if (supported(all_paths[p]) && i-- == 0) return all_paths[p]->name;
    return NULL;
}

/* Use the path of that name; 0 if this processor has none such. */
API int bb_use_path(const char *name) {
    for (int p = 0; p < PATHS; p++)
        if (!strcmp(all_paths[p]->name, name) && supported(all_paths[p])) {
            chosen = all_paths[p];
            return 1;
        }
    return 0;
}

const path_t *current_path(void) {
    for (int p = 0; !chosen && p < PATHS; p++)
        if (supported(all_paths[p])) chosen = all_paths[p];
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
