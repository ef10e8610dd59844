/*
 * The workload of Linux's dmapool_test on the intrusive pool: the same geometries, blocks, rounds and order as
 * bench/ours/ runs on dmapool, with eight pools alive.
 *
 *     intrusive-bench [--threads N] [--rounds N] [--repetitions N] [--warmup N]
 *
 * Prints one JSON object a line: first the cost of this CPU's locked operations, then one for each geometry. With
 * threads, each has an equal share of the blocks, and nsPerPair is wall time over the pairs of all. As in bench/ours/,
 * repetitions in which a thread waited for a CPU are excluded, unless fewer than three remain: while one thread is off
 * its CPU, the other has no contention.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "intrusive-pool.h"
#include "spinlock.h"
#include "workload.h"

/* A driver's record of a block. */
struct held {
  void *vaddr;
  dma_addr_t dma;
};

static void run_rounds(struct intrusive_pool *pool, struct held *held, size_t blocks, int rounds) {
  for (int round = 0; round < rounds; round++) {
    for (size_t i = 0; i < blocks; i++) {
      held[i].vaddr = intrusive_pool_alloc(pool, &held[i].dma);
      if (held[i].vaddr == NULL) fail("out of memory");
    }
    for (size_t i = 0; i < blocks; i++) intrusive_pool_free(pool, held[i].vaddr, held[i].dma);
  }
}

struct job {
  struct intrusive_pool *pool;
  struct held *held;
  size_t blocks;
  int rounds;
  atomic_int *waiting;
  double delay_ns;
};

/* Nanoseconds that this thread was runnable without a CPU, since its start (proc(5), schedstat). */
static double delay_ns(void) {
  char text[128];
  int fd = open("/proc/thread-self/schedstat", O_RDONLY);
  if (fd < 0) return 0;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  text[length < 0 ? 0 : length] = 0;
  double used, delay;
  return sscanf(text, "%lf %lf", &used, &delay) == 2 ? delay : 0;
}

static void *run_job(void *argument) {
  struct job *job = argument;
  atomic_fetch_sub(job->waiting, 1);
  double before = delay_ns();
  while (atomic_load(job->waiting) > 0) spin_pause();
  run_rounds(job->pool, job->held, job->blocks, job->rounds);
  job->delay_ns = delay_ns() - before;
  return NULL;
}

/* Fraction of the time spent waiting for a CPU above which a repetition counts as disturbed. */
#define DISTURBED 0.02
/* Minimum number of undisturbed repetitions for a median. */
enum { MIN_UNDISTURBED = 3 };

/*
 * Time of one repetition. One thread is the program's own and is measured in CPU time, which excludes other processes.
 * Several threads are measured in wall time, which includes their waits for each other.
 */
static double repetition_ns(struct intrusive_pool *pool, struct held *held, size_t share, int rounds, int threads,
                            int *disturbed) {
  *disturbed = 0;
  if (threads == 1) {
    double start = read_ns(CLOCK_THREAD_CPUTIME_ID);
    run_rounds(pool, held, share, rounds);
    return read_ns(CLOCK_THREAD_CPUTIME_ID) - start;
  }
  pthread_t ids[threads];
  struct job jobs[threads];
  atomic_int waiting = threads + 1;
  for (int t = 0; t < threads; t++) {
    jobs[t] = (struct job){pool, held + (size_t)t * share, share, rounds, &waiting, 0};
    if (pthread_create(&ids[t], NULL, run_job, &jobs[t]) != 0) fail("no thread");
  }
  while (atomic_load(&waiting) > 1) spin_pause();
  double start = read_ns(CLOCK_MONOTONIC);
  atomic_store(&waiting, 0);
  for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
  double elapsed = read_ns(CLOCK_MONOTONIC) - start;
  for (int t = 0; t < threads; t++) *disturbed |= jobs[t].delay_ns > DISTURBED * elapsed;
  return elapsed;
}

static double best_of(int tries, double (*measure)(void)) {
  double best = measure();
  for (int i = 1; i < tries; i++) {
    double next = measure();
    if (next < best) best = next;
  }
  return best;
}

enum { OPERATIONS = 2000000 };

static double locked_exchange_ns(void) {
  static _Alignas(64) atomic_int word;
  double start = read_ns(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < OPERATIONS; i++) atomic_exchange_explicit(&word, i, memory_order_acq_rel);
  return (read_ns(CLOCK_THREAD_CPUTIME_ID) - start) / OPERATIONS;
}

/* One acquire and one release of the pool's lock, with nothing in between. */
static double lock_unlock_ns(void) {
  static _Alignas(64) struct spinlock lock;
  double start = read_ns(CLOCK_THREAD_CPUTIME_ID);
  for (int i = 0; i < OPERATIONS; i++) {
    spin_lock(&lock);
    spin_unlock(&lock);
  }
  return (read_ns(CLOCK_THREAD_CPUTIME_ID) - start) / OPERATIONS;
}

int main(int argc, char **argv) {
  int threads = option(argc, argv, "--threads", 1);
  int rounds = option(argc, argv, "--rounds", 100);
  int repetitions = option(argc, argv, "--repetitions", 15);
  int warmup = option(argc, argv, "--warmup", 3);

  printf("{\"lockedExchangeNs\":%.3f,\"lockUnlockNs\":%.3f,\"threads\":%d}\n", best_of(7, locked_exchange_ns),
         best_of(7, lock_unlock_ns), threads);

  struct intrusive_pool *pools[POOLS];
  double *ns[POOLS];
  /* Undisturbed repetitions are at the front. */
  int good[POOLS] = {0};
  struct held *held = calloc(MAX_BLOCKS, sizeof *held);
  if (held == NULL) fail("out of memory");
  for (int p = 0; p < POOLS; p++) {
    pools[p] = intrusive_pool_create(geometries[p].size, geometries[p].align, geometries[p].boundary);
    ns[p] = calloc((size_t)repetitions, sizeof *ns[p]);
    if (pools[p] == NULL || ns[p] == NULL) fail("out of memory");
  }

  for (int repetition = -warmup; repetition < repetitions; repetition++) {
    for (int p = 0; p < POOLS; p++) {
      size_t share = blocks_for(geometries[p].size) / (size_t)threads;
      int disturbed;
      double elapsed = repetition_ns(pools[p], held, share, rounds, threads, &disturbed);
      if (repetition >= 0) {
        int place = disturbed ? repetition : good[p]++;
        ns[p][repetition] = ns[p][place];
        ns[p][place] = elapsed / ((double)share * threads * rounds);
      }
      if (intrusive_pool_active(pools[p]) != 0) fail("blocks lost");
    }
  }

  for (int p = 0; p < POOLS; p++) {
    const struct geometry *g = &geometries[p];
    if (g->reported) {
      int counted = good[p] >= MIN_UNDISTURBED ? good[p] : repetitions;
      qsort(ns[p], (size_t)counted, sizeof *ns[p], ascending);
      printf("{\"size\":%zu,\"align\":%zu,\"boundary\":%zu,\"blocks\":%zu,\"blocksPerPage\":%zu,"
             "\"nsPerPairMedian\":%.3f,\"nsPerPairBest\":%.3f}\n",
             g->size, g->align, g->boundary, blocks_for(g->size) / (size_t)threads * (size_t)threads,
             intrusive_pool_blocks_per_page(pools[p]), ns[p][counted / 2], ns[p][0]);
    }
    intrusive_pool_destroy(pools[p]);
    free(ns[p]);
  }
  free(held);
  return 0;
}
