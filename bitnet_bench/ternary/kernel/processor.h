/* What a processor can do that a path of the kernel needs. */
#pragma once
#include <stdint.h>

enum feature {
    AVX2 = 1,
    AVX_VNNI = 2,
    AVX512_VNNI = 4,
    AMX_INT8 = 8,
    NEON_DOTPROD = 16,
    NEON_I8MM = 32,
};

/* A processor's own words, so that the decision can be tested with those of processors that are not at hand. */
typedef struct {
    uint32_t leaf1_ecx, leaf7_ebx, leaf7_ecx, leaf7_edx, leaf7_1_eax; /* of cpuid */
    uint32_t tiles_permitted; /* 1 once Linux has granted this process the state of tiles */
    uint64_t xcr0;            /* registers that the operating system saves; 0 if it saves none beyond SSE */
    uint64_t hwcap, hwcap2;   /* of Linux on ARM */
} processor_t;

uint32_t features_of(const processor_t *processor);
uint32_t features(void);
