/* The tile instructions of AMX by the names of their intrinsics: from the compiler or, with TILES_IN_C, as plain C after
 * Intel's description of them, so that a loop over tiles runs on every machine. */
#pragma once
#include "dots.h"
#include <stdint.h>
#include <string.h>

/* What `ldtilecfg` reads: the rows and the bytes of a row of each tile. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tile_config_t;

#if defined(TILES_IN_C)
#define TARGET_TILES
static _Thread_local tile_config_t tile_config;
static _Thread_local uint8_t tiles[8][16][64];

static void configure_tiles(const tile_config_t *config) {
    tile_config = *config;
    memset(tiles, 0, sizeof tiles);
}
static void zero_tile(int tile) { memset(tiles[tile], 0, sizeof tiles[tile]); }
static void load_tile(int tile, const void *base, int64_t stride) {
    zero_tile(tile);
    for (int r = 0; r < tile_config.rows[tile]; r++)
        memcpy(tiles[tile][r], (const uint8_t *)base + r * stride, tile_config.row_bytes[tile]);
}
static void store_tile(int tile, void *base, int64_t stride) {
    for (int r = 0; r < tile_config.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles[tile][r], tile_config.row_bytes[tile]);
}
/* c[m][n] += sum over k, i of int8 a[m][4 k + i] * uint8 b[k][4 n + i] */
static void multiply_tiles(int c, int a, int b) {
    for (int m = 0; m < tile_config.rows[c]; m++)
        for (int k = 0; k < tile_config.row_bytes[a] / 4; k++)
            for (int n = 0; n < tile_config.row_bytes[c] / 4; n++) {
                int32_t sum;
                memcpy(&sum, tiles[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) sum += (int8_t)tiles[a][m][4 * k + i] * tiles[b][k][4 * n + i];
                memcpy(tiles[c][m] + 4 * n, &sum, 4);
            }
}
static void release_tiles(void) {}
#else
#include <immintrin.h>
#define TARGET_TILES __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl")))

/* GCC's intrinsics do not say that they read and write memory: without a barrier it drops or moves stores that they need. */
#define BARRIER __asm__ volatile("" ::: "memory")
#define ACT(action)  \
    do {             \
        BARRIER;     \
        action;      \
        BARRIER;     \
    } while (0)
#define configure_tiles(config) ACT(_tile_loadconfig(config))
#define zero_tile(tile) _tile_zero(tile)
#define load_tile(tile, base, stride) ACT(_tile_loadd(tile, base, stride))
#define store_tile(tile, base, stride) ACT(_tile_stored(tile, base, stride))
#define multiply_tiles(c, a, b) _tile_dpbsud(c, a, b)
#define release_tiles() _tile_release()
#endif
