/* Threads that help the calling thread, and that nobody waits for unless they have begun.
 *
 * A job is a function that every thread calls, and which takes chunks until there are none: one thread alone finishes it.
 * So a helper that sleeps, or whose core runs another process, is left out, and the caller waits at the end only for
 * helpers that are inside. An OpenMP region waits for all of its threads: beside one busy process that is a slice of the
 * scheduler (3 ms and more) for each of the hundreds of products of a token.
 *
 * Whoever waits spins for a while, since the next product comes within microseconds, and then sleeps, so that the thread
 * that is waited for can have the core. A caller that was held up by a helper works alone for a while. */
#include "kernel.h"
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum {
    MOST_HELPERS = 255,
    OPEN = 1 << 15, /* helpers may still enter */
    INSIDE = OPEN - 1,
    NUMBER_SHIFT = 16,
    HELPER_SPIN_NS = 100000, /* between two jobs */
    CALLER_SPIN_NS = 50000,
    STALL_NS = 400000,       /* waiting so much longer than working: a helper has lost its core */
    LEAST_ALONE_NS = 4000000,
    MOST_ALONE_NS = 1000000000, /* beside many processes a helper is away for tens of milliseconds */
};

static struct {
    int busy;          /* a caller has the pool; others work alone */
    uint64_t state;    /* the job's number, whether it is open, and how many helpers are inside */
    void (*work)(void *);
    void *argument;
    int seats;         /* helpers that the job takes: those of the lowest numbers, others sleep */
    int helpers;       /* threads that exist */
    int sleepers;
    int caller_sleeps;
    int64_t alone_until, alone_ns; /* of the clock; length of the last time alone */
    pthread_mutex_t lock;
    pthread_cond_t job, done, more_seats;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .job = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER,
          .more_seats = PTHREAD_COND_INITIALIZER};

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static uint64_t load_state(void) { return __atomic_load_n(&pool.state, __ATOMIC_SEQ_CST); }

/* Take part in the open job, unless it is number `last`; return the number of the job that was seen. */
static uint64_t help(uint64_t last) {
    uint64_t state = load_state();
    const uint64_t number = state >> NUMBER_SHIFT;
    if (number == last || !(state & OPEN) || (int)(state & INSIDE) >= __atomic_load_n(&pool.seats, __ATOMIC_RELAXED))
        return last;
    if (!__atomic_compare_exchange_n(&pool.state, &state, state + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return last;
    pool.work(pool.argument);
    __atomic_fetch_sub(&pool.state, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.caller_sleeps, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return number;
}

static void sleep_until_next_job(uint64_t number) {
    pthread_mutex_lock(&pool.lock);
    __atomic_fetch_add(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
    while (load_state() >> NUMBER_SHIFT == number) pthread_cond_wait(&pool.job, &pool.lock);
    __atomic_fetch_sub(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool.lock);
}

static int has_seat(int place) { return place < __atomic_load_n(&pool.seats, __ATOMIC_SEQ_CST); }

static void sleep_until_seat(int place) {
    pthread_mutex_lock(&pool.lock);
    while (!has_seat(place)) pthread_cond_wait(&pool.more_seats, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

static void *helper(void *argument) {
    const int place = (int)(intptr_t)argument;
    uint64_t last = 0, seen = 0;
    int64_t since = nanoseconds();
    for (;;) {
        if (!has_seat(place)) sleep_until_seat(place);
        const uint64_t before = last;
        last = help(last);
        const uint64_t now = load_state() >> NUMBER_SHIFT;
        if (last != before || now != seen) {
            seen = now;
            since = nanoseconds();
            continue;
        }
        for (int i = 0; i < 16; i++) relax();
        if (nanoseconds() - since < HELPER_SPIN_NS) continue;
        sleep_until_next_job(seen);
        since = nanoseconds();
    }
    return NULL;
}

static void forget_helpers(void) { /* in the child of a fork, which has the calling thread only */
    pool.busy = pool.helpers = pool.sleepers = pool.caller_sleeps = 0;
    pool.state = 0;
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.job, NULL);
    pthread_cond_init(&pool.done, NULL);
    pthread_cond_init(&pool.more_seats, NULL);
}

/* Start helpers until there are so many; with fewer, if the system gives no more, jobs are done all the same. */
static void start_helpers(int count) {
    static int registered;
    if (!registered++) pthread_atfork(NULL, NULL, forget_helpers);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
    for (; pool.helpers < count; pool.helpers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper, (void *)(intptr_t)pool.helpers)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void open_job(void (*work)(void *), void *argument, int seats) {
    static uint64_t number;
    pool.work = work;
    pool.argument = argument;
    if (seats != pool.seats) {
        pthread_mutex_lock(&pool.lock);
        __atomic_store_n(&pool.seats, seats, __ATOMIC_SEQ_CST);
        pthread_cond_broadcast(&pool.more_seats);
        pthread_mutex_unlock(&pool.lock);
    }
    __atomic_store_n(&pool.state, ++number << NUMBER_SHIFT | OPEN, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.job);
        pthread_mutex_unlock(&pool.lock);
    }
}

/* Let no further helper in, and wait for those that are inside; return when that was done. */
static int64_t close_job(int64_t from) {
    int64_t now = from;
    if (!(__atomic_fetch_and(&pool.state, ~(uint64_t)OPEN, __ATOMIC_SEQ_CST) & INSIDE)) return now;
    while (load_state() & INSIDE) {
        for (int i = 0; i < 16; i++) relax();
        now = nanoseconds();
        if (now - from < CALLER_SPIN_NS) continue;
        pthread_mutex_lock(&pool.lock);
        __atomic_store_n(&pool.caller_sleeps, 1, __ATOMIC_SEQ_CST);
        while (load_state() & INSIDE) pthread_cond_wait(&pool.done, &pool.lock);
        __atomic_store_n(&pool.caller_sleeps, 0, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&pool.lock);
        now = nanoseconds();
    }
    return now;
}

/* Work alone for a while after a helper held the caller up, twice as long each time, and half as long when none did. */
static void note_waiting(int64_t worked, int64_t waited, int64_t now) {
    if (waited > worked + STALL_NS) {
        pool.alone_ns = pool.alone_ns * 2 < LEAST_ALONE_NS ? LEAST_ALONE_NS : pool.alone_ns * 2;
        if (pool.alone_ns > MOST_ALONE_NS) pool.alone_ns = MOST_ALONE_NS;
        pool.alone_until = now + pool.alone_ns;
    } else if (pool.alone_ns && now - pool.alone_until > pool.alone_ns) {
        pool.alone_ns /= 2;
        pool.alone_until = now;
    }
}

void in_parallel(void (*work)(void *), void *argument, int threads) {
    if (threads <= 1 || __atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
        work(argument);
        return;
    }
    const int helpers = threads - 1 < MOST_HELPERS ? threads - 1 : MOST_HELPERS;
    const int64_t begun = nanoseconds();
    if (begun < pool.alone_until) {
        work(argument);
    } else {
        if (pool.helpers < helpers) start_helpers(helpers);
        open_job(work, argument, helpers);
        work(argument);
        const int64_t worked = nanoseconds(), done = close_job(worked);
        note_waiting(worked - begun, done - worked, done);
    }
    __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
}
