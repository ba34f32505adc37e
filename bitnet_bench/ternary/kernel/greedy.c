/* The token with the largest logit, by an int8 copy of the head whose errors are bounded: docs/decisions/047-exact-head.md
 * holds the proof. Only rows whose upper bound reaches a logit that is known are computed, with the head as it is stored. */
#include "kernel.h"
#include <math.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

typedef struct {
    const void *table; /* [rows][columns] */
    uint8_t *bytes;    /* [panels][columns / 4][64] of value + 128 */
    float *scales;     /* [panels][16]: a weight is about value * scale */
    float *errors;     /* [panels][16] at least the Euclidean norm of a row's weight - value * scale; or NULL */
    float *norms;      /* [panels][16] at least the Euclidean norm of a row; or NULL */
    int64_t rows, columns, next;
    int32_t dtype;
} copy_job_t;

CLONES static void widen_row(const void *table, int64_t from, int64_t columns, int32_t dtype, float *out) {
    if (dtype == FLOAT32) {
        memcpy(out, (const float *)table + from, (size_t)columns * sizeof *out);
        return;
    }
    const uint16_t *narrow = (const uint16_t *)table + from;
    if (dtype == BFLOAT16) {
        for (int64_t i = 0; i < columns; i++) {
            const uint32_t bits = (uint32_t)narrow[i] << 16;
            memcpy(out + i, &bits, 4);
        }
        return;
    }
    for (int64_t i = 0; i < columns; i++) { /* infinity and NaN become large numbers: see largest_magnitude */
        const uint32_t bits = (uint32_t)(narrow[i] & 0x7fff) << 13;
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        magnitude = (narrow[i] & 0x7c00) == 0x7c00 ? INFINITY : magnitude * 0x1p112f;
        out[i] = narrow[i] >> 15 ? -magnitude : magnitude;
    }
}

/* Found among the bits, where infinity and NaN are larger than all numbers. */
CLONES static float largest_magnitude(const float *x, int64_t columns) {
    int32_t most = 0;
    float largest;
    for (int64_t i = 0; i < columns; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    memcpy(&largest, &most, 4);
    return largest;
}

static const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, half to even */

static inline int32_t rounded(float x) {
    const float shifted = x + magic;
    int32_t bits, magic_bits;
    memcpy(&bits, &shifted, 4);
    memcpy(&magic_bits, &magic, 4);
    return bits - magic_bits;
}

static double total(const double *sums) {
    double sum = 0.0;
    for (int i = 0; i < STEP; i++) sum += sums[i];
    return sum;
}

/* At least the root of a sum of squares, each term and sum of which was rounded to double. */
static float norm_of(double squares) { return (float)(sqrt(squares) * 1.000001) + 1e-30f; }

/* Row n of a panel, values round(w * 127 / largest) half to even. */
CLONES static void copy_row(const float *w, int64_t columns, uint8_t *bytes, float *scale, float *error, float *norm) {
    float largest = largest_magnitude(w, columns);
    if (largest < 1e-12f) largest = 1e-12f;
    const float inverse = 1.0f / largest * 127.0f, step = largest / 127.0f; /* two roundings, as in torch */
    double errors[STEP] = {0.0}, squares[STEP] = {0.0};
    for (int64_t k = 0; k < columns; k += STEP) {
        int32_t values[STEP];
        for (int i = 0; i < STEP; i++) {
            values[i] = rounded(w[k + i] * inverse);
            const double weight = w[k + i], left = weight - (double)values[i] * (double)step;
            errors[i] += left * left;
            squares[i] += weight * weight;
        }
        for (int i = 0; i < STEP; i++) bytes[(k + i) / 4 * STEP_BYTES + i % 4] = (uint8_t)(values[i] + 128);
    }
    *scale = step;
    *error = norm_of(total(errors));
    *norm = norm_of(total(squares));
}

static void copy_work(void *argument) {
    copy_job_t *job = argument;
    const int64_t size = job->columns / 4 * STEP_BYTES;
    float *w = scratch((size_t)job->columns * sizeof(float));
    for (int64_t p; (p = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) * PANEL < job->rows;) {
        uint8_t *panel = job->bytes + p * size;
        for (int64_t r = p * PANEL; r < (p + 1) * PANEL; r++) {
            float error = 0.0f, norm = 0.0f;
            if (r < job->rows)
                widen_row(job->table, r * job->columns, job->columns, job->dtype, w);
            else
                memset(w, 0, (size_t)job->columns * sizeof(float));
            copy_row(w, job->columns, panel + 4 * (r % PANEL), job->scales + r, &error, &norm);
            if (job->errors) job->errors[r] = error;
            if (job->norms) job->norms[r] = norm;
        }
    }
}

/* Ask for pages of 2 MB, which a pass through hundreds of megabytes crosses less often; where there are none, it goes on. */
static void use_huge_pages(void *bytes, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 4096, first = ((uintptr_t)bytes + page - 1) & ~(page - 1);
    const uintptr_t end = ((uintptr_t)bytes + size) & ~(page - 1);
    if (end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)bytes, (void)size;
#endif
}

/* The table as int8 with a scale per row, in panels. */
API void bb_copy_head(copy_job_t *job, int threads) {
    use_huge_pages(job->bytes, (size_t)((job->rows + PANEL - 1) / PANEL * (job->columns / 4) * STEP_BYTES));
    job->next = 0;
    in_parallel(copy_work, job, threads);
}

API int64_t bb_copy_head_size(void) { return sizeof(copy_job_t); } /* Python mirrors it: structs.py */

/* What is known of a token: x = unit * (128 * high + low) + rest. */
typedef struct {
    double unit, size, rest; /* the norms of x and of the rest */
    double of_error, of_norm, slack; /* |logit - approximation| <= of_error * error + of_norm * norm + slack */
    double lower;                    /* the largest lower bound of a logit so far, and its row */
    int64_t row;
    int32_t high_sum, low_sum;
} token_t;

typedef struct {
    head_job_t head; /* y: upper bounds at first, then logits where they were computed */
    const uint8_t *bytes;
    const float *scales, *errors, *norms;
    int8_t *digits;      /* [tokens][2][stride] */
    int32_t *candidates; /* [rows] */
    int64_t *ids;        /* [tokens] the chosen rows, or -1 if the whole head must be computed */
    int64_t *counts;     /* [tokens] rows that were computed */
    double largest_norm; /* of a row */
    int64_t stride;
    token_t *known; /* [tokens] */
    int64_t count;  /* candidates of the token at hand */
    int64_t token;
    int32_t locked;
} greedy_job_t;

/* Two digits of x in int8, whose unit is a power of two: what they leave is exact. 0 if x is not finite. */
CLONES static int split_token(const float *x, int64_t columns, int8_t *high, int8_t *low, token_t *token) {
    float largest = largest_magnitude(x, columns), coarse = 0x1p-106f;
    if (!(largest < INFINITY)) return 0;
    while (largest > 127.0f * coarse) coarse *= 2.0f;
    const float fine = coarse * 0x1p-7f, per_coarse = 1.0f / coarse, per_fine = 1.0f / fine;
    double squares[STEP] = {0.0}, rests[STEP] = {0.0};
    int32_t highs[STEP] = {0}, lows[STEP] = {0};
    for (int64_t k = 0; k < columns; k += STEP)
        for (int i = 0; i < STEP; i++) {
            const float value = x[k + i];
            const int32_t first = rounded(value * per_coarse);
            const float after = value - (float)first * coarse;
            const int32_t second = rounded(after * per_fine);
            const double rest = after - (float)second * fine;
            high[k + i] = (int8_t)first;
            low[k + i] = (int8_t)second;
            highs[i] += first;
            lows[i] += second;
            squares[i] += (double)value * value;
            rests[i] += rest * rest;
        }
    token->high_sum = token->low_sum = 0;
    for (int i = 0; i < STEP; i++) {
        token->high_sum += highs[i];
        token->low_sum += lows[i];
    }
    token->unit = fine;
    token->size = sqrt(total(squares)) * 1.000001;
    token->rest = sqrt(total(rests)) * 1.000001;
    return 1;
}

/* Share of |row| |x| by which rounding changes a float32 product, whatever the order of its sums. */
static double rounding_share(int64_t columns) { return 1.01 * 0x1p-24 * (double)(columns + 64); }

static int prepare_token(greedy_job_t *job, int64_t t) {
    const int64_t columns = job->head.columns;
    token_t *token = job->known + t;
    int8_t *digits = job->digits + 2 * t * job->stride;
    if (!split_token(job->head.x + t * columns, columns, digits, digits + job->stride, token)) return 0;
    if (!(token->size * job->largest_norm < 0x1p120)) return 0; /* a sum could overflow in float32 */
    token->of_error = token->size + token->rest;
    token->of_norm = token->rest + rounding_share(columns) * token->size;
    token->slack = 0x1p-100 * (1.0 + token->size + job->largest_norm); /* of numbers that are flushed to zero */
    token->lower = -INFINITY;
    token->row = 0;
    return 1;
}

/* Upper and lower bounds of 16 logits from their sums of bytes. */
CLONES static void bound(const greedy_job_t *job, const token_t *token, int64_t first, const int32_t *sums, float *upper,
                         double *lower) {
    const int32_t high_excess = 128 * token->high_sum, low_excess = 128 * token->low_sum;
    const float *scales = job->scales + first, *errors = job->errors + first, *norms = job->norms + first;
    for (int n = 0; n < PANEL; n++) {
        const double sum = 128.0 * (double)(sums[n] - high_excess) + (double)(sums[PANEL + n] - low_excess);
        const double about = sum * ((double)scales[n] * token->unit);
        const double error = token->of_error * errors[n] + token->of_norm * norms[n] + token->slack;
        const double most = about + error;
        upper[n] = (float)(most + fabs(most) * 0x1p-22);
        lower[n] = about - error;
    }
}

static void bound_panel(const greedy_job_t *job, int64_t p, int64_t t, const int32_t *sums, token_t *best) {
    const int64_t first = p * PANEL, left = job->head.rows - first;
    const int count = left < PANEL ? (int)left : PANEL;
    float upper[PANEL];
    double lower[PANEL];
    bound(job, job->known + t, first, sums, upper, lower);
    memcpy(job->head.y + t * job->head.rows + first, upper, (size_t)count * sizeof *upper);
    for (int n = 0; n < count; n++)
        if (lower[n] > best->lower) {
            best->lower = lower[n];
            best->row = first + n;
        }
}

static void merge(greedy_job_t *job, const token_t *best) {
    while (__atomic_exchange_n(&job->locked, 1, __ATOMIC_ACQUIRE)) {}
    for (int64_t t = 0; t < job->head.tokens; t++)
        if (best[t].lower > job->known[t].lower) {
            job->known[t].lower = best[t].lower;
            job->known[t].row = best[t].row;
        }
    __atomic_store_n(&job->locked, 0, __ATOMIC_RELEASE);
}

static void bound_work(void *argument) {
    greedy_job_t *job = argument;
    enum { CHUNK = 16 };
    const path_t *path = current_path();
    const int64_t steps = job->head.columns / STEP, size = 4 * steps * STEP_BYTES, tokens = job->head.tokens;
    const int64_t panels = (job->head.rows + PANEL - 1) / PANEL, digits = 2 * tokens;
    token_t *best = scratch((size_t)tokens * (sizeof *best + 2 * PANEL * sizeof(int32_t)));
    int32_t *sums = (int32_t *)(best + tokens);
    for (int64_t t = 0; t < tokens; t++) best[t] = job->known[t];
    for (int64_t p; (p = __atomic_fetch_add(&job->head.next, CHUNK, __ATOMIC_RELAXED)) < panels;)
        for (const int64_t end = p + CHUNK < panels ? p + CHUNK : panels; p < end; p++) {
            for (int64_t d = 0; d < digits;) {
                const int m = digits - d < path->most_rows_bytes ? (int)(digits - d) : path->most_rows_bytes;
                path->bytes[m - 1](job->bytes + p * size, steps, job->digits + d * job->stride, job->stride,
                                   sums + d * PANEL);
                d += m;
            }
            for (int64_t t = 0; t < tokens; t++) bound_panel(job, p, t, sums + 2 * t * PANEL, best + t);
        }
    merge(job, best);
}

/* The job of the stored head for one token of this one. */
static head_job_t of_token(const greedy_job_t *job, int64_t t) {
    head_job_t one = job->head;
    one.x += t * one.columns;
    one.y += t * one.rows;
    one.tokens = 1;
    return one;
}

static void exact_work(void *argument) {
    greedy_job_t *job = argument;
    enum { CHUNK = 8 };
    const head_job_t one = of_token(job, job->token);
    const head_fn rows = find_head(one.dtype);
    for (int64_t i; (i = __atomic_fetch_add(&job->head.next, CHUNK, __ATOMIC_RELAXED)) < job->count;)
        for (const int64_t end = i + CHUNK < job->count ? i + CHUNK : job->count; i < end; i++)
            rows(&one, job->candidates[i], job->candidates[i] + 1);
}

/* Rows in order whose upper bound is at least `known`. */
CLONES static int64_t collect(const float *upper, int64_t rows, float known, int32_t *found) {
    int64_t count = 0, r = 0;
    for (; r + STEP <= rows; r += STEP) {
        int32_t any = 0;
        for (int i = 0; i < STEP; i++) any |= upper[r + i] >= known;
        if (any)
            for (int i = 0; i < STEP; i++)
                if (upper[r + i] >= known) found[count++] = (int32_t)(r + i);
    }
    for (; r < rows; r++)
        if (upper[r] >= known) found[count++] = (int32_t)r;
    return count;
}

/* The first of the largest logits among the candidates. */
static int64_t choose(const greedy_job_t *job, const float *y) {
    int64_t best = job->candidates[0];
    for (int64_t i = 1; i < job->count; i++)
        if (y[job->candidates[i]] > y[best]) best = job->candidates[i];
    return best;
}

/* For each token the row that is first among those with the largest logit of the stored head; -1 for a token that is not
 * finite or so large that a sum of floats may not be. */
API void bb_greedy(greedy_job_t *job, int threads) {
    enum { FEW = 16 };
    for (int64_t t = 0; t < job->head.tokens; t++) job->ids[t] = prepare_token(job, t) ? 0 : -1;
    for (int64_t t = 0; t < job->head.tokens; t++)
        if (job->ids[t] < 0) return;
    job->head.next = job->locked = 0;
    in_parallel(bound_work, job, threads);
    for (int64_t t = 0; t < job->head.tokens; t++) {
        const head_job_t one = of_token(job, t);
        const int64_t row = job->known[t].row;
        const float upper = one.y[row];
        find_head(one.dtype)(&one, row, row + 1);
        const float known = one.y[row];
        one.y[row] = upper;
        job->token = t;
        job->count = collect(one.y, one.rows, known, job->candidates);
        job->counts[t] = job->count;
        job->ids[t] = -1;
        if (!job->count) continue;
        job->head.next = 0;
        in_parallel(exact_work, job, job->count > FEW ? threads : 1);
        job->ids[t] = choose(job, one.y);
    }
}

API int64_t bb_greedy_size(void) { return sizeof(greedy_job_t); } /* Python mirrors it: structs.py */
API int64_t bb_greedy_token_size(void) { return sizeof(token_t); }
