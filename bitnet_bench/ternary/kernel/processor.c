/* Which features this processor has and its operating system lets a program use. */
#include "processor.h"
#include "kernel.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

enum {
    YMM_STATE = 0x6,     /* in XCR0: SSE and the upper halves of ymm */
    ZMM_STATE = 0xe0,    /* mask registers, upper halves of zmm, zmm16 and above */
    TILE_STATE = 0x60000 /* configuration and data of tiles */
};

static int has_bit(uint64_t word, int bit) { return word >> bit & 1; }

static int saves(const processor_t *cpu, uint64_t state) {
    return has_bit(cpu->leaf1_ecx, 27) && (cpu->xcr0 & state) == state; /* OSXSAVE */
}

static int has_tiles(const processor_t *cpu) { /* AMX-TILE and AMX-INT8 */
    return saves(cpu, TILE_STATE) && has_bit(cpu->leaf7_edx, 24) && has_bit(cpu->leaf7_edx, 25);
}

uint32_t features_of(const processor_t *cpu) {
    uint32_t found = 0;
    if (saves(cpu, YMM_STATE) && has_bit(cpu->leaf7_ebx, 5)) found |= AVX2;
    if (found & AVX2 && has_bit(cpu->leaf7_1_eax, 4)) found |= AVX_VNNI;
    if (found & AVX2 && saves(cpu, ZMM_STATE) && has_bit(cpu->leaf7_ebx, 16) && has_bit(cpu->leaf7_ebx, 30) &&
        has_bit(cpu->leaf7_ebx, 31) && has_bit(cpu->leaf7_ecx, 11)) /* F, BW, VL, VNNI */
        found |= AVX512_VNNI;
    if (found & AVX512_VNNI && has_tiles(cpu) && cpu->tiles_permitted) found |= AMX_INT8;
    if (has_bit(cpu->hwcap, 20)) found |= NEON_DOTPROD;                            /* HWCAP_ASIMDDP */
    if (has_bit(cpu->hwcap, 20) && has_bit(cpu->hwcap2, 13)) found |= NEON_I8MM; /* HWCAP2_I8MM */
    return found;
}

#if defined(__x86_64__)
static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux 5.16 and later give tiles to processes that ask; what else runs there gives them to none. */
static uint32_t ask_for_tiles(void) {
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return 0;
#endif
}

static processor_t read_processor(void) {
    processor_t cpu = {0};
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d)) cpu.leaf1_ecx = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        cpu.leaf7_ebx = b, cpu.leaf7_ecx = c, cpu.leaf7_edx = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) cpu.leaf7_1_eax = a;
    }
    if (has_bit(cpu.leaf1_ecx, 27)) cpu.xcr0 = read_xcr0();
    if (has_tiles(&cpu)) cpu.tiles_permitted = ask_for_tiles();
    return cpu;
}
#elif defined(__aarch64__) && defined(__linux__)
static processor_t read_processor(void) {
    return (processor_t){.hwcap = getauxval(AT_HWCAP), .hwcap2 = getauxval(AT_HWCAP2)};
}
#elif defined(__aarch64__) && defined(__APPLE__)
static uint64_t ask_system(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}
static processor_t read_processor(void) {
    return (processor_t){.hwcap = ask_system("hw.optional.arm.FEAT_DotProd") << 20,
                         .hwcap2 = ask_system("hw.optional.arm.FEAT_I8MM") << 13};
}
#else
static processor_t read_processor(void) { return (processor_t){0}; }
#endif

static uint32_t assumed;

/* Take these features for given: an emulator runs their instructions. */
API void bb_assume_features(uint32_t more) { assumed = more; }

API uint32_t bb_features_of(const processor_t *processor) { return features_of(processor); }

uint32_t features(void) {
    static uint32_t found, known;
    if (!__atomic_load_n(&known, __ATOMIC_ACQUIRE)) { /* two threads may both read: they find the same */
        const processor_t cpu = read_processor();
        found = features_of(&cpu);
        __atomic_store_n(&known, 1, __ATOMIC_RELEASE);
    }
    return found | assumed;
}

API int64_t bb_processor_size(void) { return sizeof(processor_t); } /* Python mirrors it: structs.py */
