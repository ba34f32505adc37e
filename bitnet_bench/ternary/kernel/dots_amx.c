/* The dot products in AMX tiles: 16 rows of a panel by 64 columns are one tile of weights, as they are laid out.
 *
 * It serves many rows of activations; few rows take the 512-bit path, whose codes never leave the registers. */
#include "kernel.h"
#if defined(TILES_IN_C) || defined(HAS_AMX)
#include "processor.h"
#include "tiles.h"

enum {
    TILE_ROWS = 16,
    STEPS_PER_TILE = 4, /* 64 columns */
    MOST_SUMS = 4,      /* tiles of sums at once: 64 rows of activations */
};
/* Tiles, which instructions name by constants. 0 ... 3 are sums. */
#define WEIGHTS 4
#define WHOLE 5 /* activations of 16 rows */
#define LAST 6  /* activations of the last rows, 16 or fewer */

typedef uint16_t pairs32 __attribute__((vector_size(64)));

/* Codes of up to 64 columns -> bytes [16][64], zeros where columns are missing. */
TARGET_TILES INLINE void unpack(const uint8_t *codes, int steps, uint8_t *bytes) {
    int s = 0;
    for (; s < steps; s++) {
        pairs32 packed;
        memcpy(&packed, codes + s * STEP_BYTES, sizeof packed);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const pairs32 fields = (packed >> 2 * j) & 0x0303;
            memcpy(bytes + (4 * s + j) * STEP_BYTES, &fields, sizeof fields);
        }
    }
    for (; s < STEPS_PER_TILE; s++) memset(bytes + 4 * s * STEP_BYTES, 0, 4 * STEP_BYTES);
}

/* All tiles have 64 bytes a row. */
TARGET_TILES INLINE void configure(int sums, int last_rows) {
    tile_config_t config = {.palette = 1};
    for (int t = 0; t <= LAST; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = (uint8_t)(t == LAST || t == sums - 1 ? last_rows : TILE_ROWS);
    }
    configure_tiles(&config);
}

/* `bytes`: weights are uint8 as they are, 4 columns in 64 bytes, and not 2-bit codes. */
TARGET_TILES INLINE void amx_sums(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int32_t *out,
                                  const int sums, const int last_rows, const int bytes) {
    uint8_t unpacked[2][TILE_ROWS * STEP_BYTES] __attribute__((aligned(64)));
    configure(sums, last_rows);
    zero_tile(0);
    if (sums > 1) zero_tile(1);
    if (sums > 2) zero_tile(2);
    if (sums > 3) zero_tile(3);
    for (int64_t s = 0; s < steps; s += STEPS_PER_TILE, q += STEPS_PER_TILE * STEP) {
        const int count = steps - s < STEPS_PER_TILE ? (int)(steps - s) : STEPS_PER_TILE;
        uint8_t *weights = unpacked[s / STEPS_PER_TILE % 2];
        if (!bytes)
            unpack(codes + s * STEP_BYTES, count, weights);
        else if (count < STEPS_PER_TILE) {
            memset(weights, 0, sizeof unpacked[0]);
            memcpy(weights, codes + 4 * s * STEP_BYTES, (size_t)(4 * count * STEP_BYTES));
        }
        const int in_place = bytes && count == STEPS_PER_TILE;
        load_tile(WEIGHTS, in_place ? codes + 4 * s * STEP_BYTES : weights, STEP_BYTES);
        if (sums > 1) {
            load_tile(WHOLE, q, stride);
            multiply_tiles(0, WHOLE, WEIGHTS);
        }
        if (sums > 2) {
            load_tile(WHOLE, q + TILE_ROWS * stride, stride);
            multiply_tiles(1, WHOLE, WEIGHTS);
        }
        if (sums > 3) {
            load_tile(WHOLE, q + 2 * TILE_ROWS * stride, stride);
            multiply_tiles(2, WHOLE, WEIGHTS);
        }
        load_tile(LAST, q + (sums - 1) * TILE_ROWS * stride, stride);
        if (sums == 1) multiply_tiles(0, LAST, WEIGHTS);
        if (sums == 2) multiply_tiles(1, LAST, WEIGHTS);
        if (sums == 3) multiply_tiles(2, LAST, WEIGHTS);
        if (sums == 4) multiply_tiles(3, LAST, WEIGHTS);
    }
    enum { ROW_BYTES = PANEL * sizeof(int32_t), TILE_SUMS = TILE_ROWS * PANEL };
    store_tile(0, out, ROW_BYTES);
    if (sums > 1) store_tile(1, out + TILE_SUMS, ROW_BYTES);
    if (sums > 2) store_tile(2, out + 2 * TILE_SUMS, ROW_BYTES);
    if (sums > 3) store_tile(3, out + 3 * TILE_SUMS, ROW_BYTES);
    release_tiles();
}

/* One function for each number of tiles: the instructions name their tiles by constants. */
#define WIDE(NAME, BYTES)                                                                                        \
    TARGET_TILES static void NAME(const uint8_t *codes, int64_t steps, const int8_t *q, int64_t stride, int rows, \
                                  int32_t *out) {                                                                \
        const int sums = (rows + TILE_ROWS - 1) / TILE_ROWS, last = rows - (sums - 1) * TILE_ROWS;               \
        if (sums == 1) amx_sums(codes, steps, q, stride, out, 1, last, BYTES);                                   \
        if (sums == 2) amx_sums(codes, steps, q, stride, out, 2, last, BYTES);                                   \
        if (sums == 3) amx_sums(codes, steps, q, stride, out, 3, last, BYTES);                                   \
        if (sums == 4) amx_sums(codes, steps, q, stride, out, 4, last, BYTES);                                   \
    }
WIDE(amx_codes, 0)
WIDE(amx_bytes, 1)

enum { FEW_ROWS = 12 };
_Static_assert(MOST_SUMS *TILE_ROWS == MOST_WIDE_ROWS, "sums of one call fit where one_panel keeps them");
#if defined(TILES_IN_C)
const path_t amx_path = {"amx-int8", 0,          1, portable_dots, 1, portable_bytes, portable_groups,
                         MOST_WIDE_ROWS, amx_codes, amx_bytes};
#else
const path_t amx_path = {"amx-int8",       AMX_INT8,       FEW_ROWS,       avx512_dots_all, FEW_ROWS,
                         avx512_bytes_all, avx512_groups_all, MOST_WIDE_ROWS, amx_codes,       amx_bytes};
#endif
#endif
