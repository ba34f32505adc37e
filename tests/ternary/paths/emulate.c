/* An emulator of AVX-VNNI's vpdpbusd and of AMX-INT8 for x86-64 Linux processors that have neither.
 *
 * Such a processor raises SIGILL at these instructions. The handler decodes the bytes at which it stopped, does what
 * Intel's manual says they do to the saved registers, to memory or to its own tiles, and goes on behind them: what runs
 * is the very code that a processor with these instructions would run, encodings included. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

static struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;
static uint8_t tiles[8][16][64];

typedef struct {
    int map, wide, size, prefix, opcode, reg, vvvv, mod, rm; /* size: 1 for 256 bits */
    uint64_t address;
    int64_t stride; /* of a tile's rows in memory */
    int length;
} instruction_t;

static void refuse(const uint8_t *code) {
    fprintf(stderr, "emulate: no such instruction: %02x %02x %02x %02x %02x\n", code[0], code[1], code[2], code[3], code[4]);
    _exit(132);
}

static uint64_t *general(ucontext_t *context, int number) {
    static const int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t *)&context->uc_mcontext.gregs[order[number]];
}

/* The address of a memory operand, and how many bytes name it; an index of tiles is the stride of their rows. */
static void find_address(ucontext_t *context, const uint8_t *at, int b, int x, instruction_t *in) {
    const uint8_t *start = at;
    int base = in->rm | b << 3, index = 4, scale = 0, has_base = 1;
    if (in->rm == 4) {
        const int sib = *at++;
        index = (sib >> 3 & 7) | x << 3;
        base = (sib & 7) | b << 3;
        scale = sib >> 6;
        if ((sib & 7) == 5 && in->mod == 0) has_base = 0;
    }
    int64_t offset = 0;
    const int relative = in->rm == 5 && in->mod == 0;
    if (in->mod == 1)
        offset = (int8_t)*at++;
    else if (in->mod == 2 || relative || !has_base) {
        int32_t wide;
        memcpy(&wide, at, 4);
        offset = wide;
        at += 4;
    }
    in->length += (int)(at - start);
    in->address = (uint64_t)offset;
    if (relative)
        in->address += (uint64_t)context->uc_mcontext.gregs[REG_RIP] + (uint64_t)in->length;
    else if (has_base)
        in->address += *general(context, base);
    const uint64_t scaled = index == 4 ? 0 : *general(context, index) << scale;
    if (in->opcode == 0x4b)
        in->stride = (int64_t)scaled;
    else
        in->address += scaled;
}

static instruction_t decode(ucontext_t *context, const uint8_t *code) {
    instruction_t in = {.length = 5};
    if (code[0] != 0xc4) refuse(code);
    in.map = code[1] & 31;
    in.wide = code[2] >> 7;
    in.vvvv = ~code[2] >> 3 & 15;
    in.size = code[2] >> 2 & 1;
    in.prefix = code[2] & 3;
    in.opcode = code[3];
    const int r = !(code[1] >> 7), x = !(code[1] >> 6 & 1), b = !(code[1] >> 5 & 1);
    in.mod = code[4] >> 6;
    in.reg = (code[4] >> 3 & 7) | r << 3;
    in.rm = code[4] & 7;
    if (in.map != 2 || in.wide) refuse(code);
    if (in.mod == 3)
        in.rm |= b << 3;
    else
        find_address(context, code + 5, b, x, &in);
    return in;
}

/* The halves of a ymm register where the kernel saved them. */
static uint8_t *half_of(ucontext_t *context, int number, int high) {
    enum { XMM = 160, MAGIC = 464, PRESENT = 512, YMM_HIGH = 576 };
    uint8_t *state = (uint8_t *)context->uc_mcontext.fpregs;
    uint32_t magic;
    uint64_t present;
    memcpy(&magic, state + MAGIC, 4);
    memcpy(&present, state + PRESENT, 8);
    if (magic != 0x46505853) _exit(133); /* FP_XSTATE_MAGIC1 */
    if (!high && !(present & 2)) memset(state + XMM, 0, 256), present |= 2;
    if (high && !(present & 4)) memset(state + YMM_HIGH, 0, 256), present |= 4;
    memcpy(state + PRESENT, &present, 8);
    return state + (high ? YMM_HIGH : XMM) + 16 * number;
}

/* d[n] += sum of uint8 a[4 n + i] * int8 b[4 n + i] */
static void vpdpbusd(ucontext_t *context, const instruction_t *in) {
    for (int half = 0; half <= in->size; half++) {
        uint8_t *d = half_of(context, in->reg, half);
        const uint8_t *a = half_of(context, in->vvvv, half);
        const uint8_t *b = in->mod == 3 ? half_of(context, in->rm, half) : (const uint8_t *)in->address + 16 * half;
        for (int n = 0; n < 4; n++) {
            int32_t sum;
            memcpy(&sum, d + 4 * n, 4);
            for (int i = 0; i < 4; i++) sum += a[4 * n + i] * (int8_t)b[4 * n + i];
            memcpy(d + 4 * n, &sum, 4);
        }
        if (!in->size) memset(half_of(context, in->reg, 1), 0, 16);
    }
}

static void move_tile(const instruction_t *in, int stores) {
    if (!stores) memset(tiles[in->reg], 0, sizeof tiles[in->reg]);
    for (int row = 0; row < config.rows[in->reg]; row++) {
        uint8_t *memory = (uint8_t *)in->address + row * in->stride;
        if (stores)
            memcpy(memory, tiles[in->reg][row], config.row_bytes[in->reg]);
        else
            memcpy(tiles[in->reg][row], memory, config.row_bytes[in->reg]);
    }
}

/* prefix: 0 both unsigned, 1 a unsigned, 2 b unsigned, 3 both signed */
static void multiply(const instruction_t *in, const uint8_t *code) {
    const int c = in->reg, a = in->rm, b = in->vvvv;
    if (c == a || c == b || a == b || config.rows[b] != config.row_bytes[a] / 4 || config.rows[c] != config.rows[a] ||
        config.row_bytes[c] != config.row_bytes[b])
        refuse(code); /* a processor faults, too */
    const int signed_a = in->prefix == 2 || in->prefix == 3, signed_b = in->prefix == 1 || in->prefix == 3;
    for (int m = 0; m < config.rows[c]; m++)
        for (int k = 0; k < config.row_bytes[a] / 4; k++)
            for (int n = 0; n < config.row_bytes[c] / 4; n++) {
                int32_t sum;
                memcpy(&sum, tiles[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) {
                    const uint8_t x = tiles[a][m][4 * k + i], y = tiles[b][k][4 * n + i];
                    sum += (signed_a ? (int8_t)x : x) * (signed_b ? (int8_t)y : y);
                }
                memcpy(tiles[c][m] + 4 * n, &sum, 4);
            }
}

static void handle(int signal, siginfo_t *info, void *argument) {
    (void)signal, (void)info;
    ucontext_t *context = argument;
    const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    const instruction_t in = decode(context, code);
    if (in.opcode == 0x50 && in.prefix == 1)
        vpdpbusd(context, &in);
    else if (in.opcode != 0x49 && !config.palette)
        refuse(code); /* tiles before they are configured */
    else if (in.opcode == 0x49 && in.mod != 3 && in.prefix == 0) {
        memcpy(&config, (const void *)in.address, sizeof config);
        memset(tiles, 0, sizeof tiles);
    } else if (in.opcode == 0x49 && in.mod == 3 && in.prefix == 0)
        memset(&config, 0, sizeof config);
    else if (in.opcode == 0x49 && in.mod == 3 && in.prefix == 3)
        memset(tiles[in.reg], 0, sizeof tiles[in.reg]);
    else if (in.opcode == 0x4b && (in.prefix == 3 || in.prefix == 2))
        move_tile(&in, in.prefix == 2);
    else if (in.opcode == 0x5e && in.mod == 3)
        multiply(&in, code);
    else
        refuse(code);
    context->uc_mcontext.gregs[REG_RIP] += in.length;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, NULL);
}
