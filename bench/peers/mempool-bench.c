/*
 * The workload of Linux's dmapool_test on DPDK's rte_mempool with a cache of 256 objects for the thread: single
 * objects, and bulks of 32. The same geometries, blocks, rounds and order as bench/ours/ runs on dmapool, with eight
 * pools alive.
 *
 *     mempool-bench [--rounds N] [--repetitions N] [--warmup N]
 *
 * A mempool has no boundary and returns no device address; it pads sizes to cache lines. So this compares the cost of
 * calls, not equal guarantees. Prints one JSON object a line, one for each geometry.
 */
#define _GNU_SOURCE
#include <rte_eal.h>
#include <rte_mempool.h>

#include "workload.h"

enum { CACHE = 256, BULK = 32 };

/* CPU time, which excludes other processes. */
static double cpu_ns(void) { return read_ns(CLOCK_THREAD_CPUTIME_ID); }

static void run_single(struct rte_mempool *pool, void **held, size_t blocks, int rounds) {
  for (int round = 0; round < rounds; round++) {
    for (size_t i = 0; i < blocks; i++)
      if (rte_mempool_get(pool, &held[i]) != 0) fail("out of objects");
    for (size_t i = 0; i < blocks; i++) rte_mempool_put(pool, held[i]);
  }
}

static void run_bulk(struct rte_mempool *pool, void **held, size_t blocks, int rounds) {
  for (int round = 0; round < rounds; round++) {
    for (size_t i = 0; i + BULK <= blocks; i += BULK)
      if (rte_mempool_get_bulk(pool, &held[i], BULK) != 0) fail("out of objects");
    for (size_t i = 0; i + BULK <= blocks; i += BULK) rte_mempool_put_bulk(pool, &held[i], BULK);
  }
}

int main(int argc, char **argv) {
  int rounds = option(argc, argv, "--rounds", 100);
  int repetitions = option(argc, argv, "--repetitions", 15);
  int warmup = option(argc, argv, "--warmup", 3);

  char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf", "--log-level=3", "-m", "256"};
  if (rte_eal_init(sizeof eal / sizeof eal[0], eal) < 0) fail("DPDK's EAL does not start");

  struct rte_mempool *pools[POOLS];
  double *single[POOLS], *bulk[POOLS];
  void **held = calloc(MAX_BLOCKS, sizeof *held);
  if (held == NULL) fail("out of memory");
  for (int p = 0; p < POOLS; p++) {
    char name[16];
    snprintf(name, sizeof name, "pool%d", p);
    /* Extra room for the cache, which may hold one and a half times its size. */
    unsigned objects = (unsigned)blocks_for(geometries[p].size) + 2 * CACHE;
    pools[p] = rte_mempool_create(name, objects, (unsigned)geometries[p].size, CACHE, 0, NULL, NULL, NULL, NULL, 0, 0);
    single[p] = malloc(sizeof *single[p] * (size_t)repetitions);
    bulk[p] = malloc(sizeof *bulk[p] * (size_t)repetitions);
    if (pools[p] == NULL || single[p] == NULL || bulk[p] == NULL) fail("out of memory");
  }

  for (int repetition = -warmup; repetition < repetitions; repetition++) {
    for (int p = 0; p < POOLS; p++) {
      size_t blocks = blocks_for(geometries[p].size);
      double pairs = (double)blocks * rounds;
      double start = cpu_ns();
      run_single(pools[p], held, blocks, rounds);
      double between = cpu_ns();
      run_bulk(pools[p], held, blocks, rounds);
      double end = cpu_ns();
      if (repetition < 0) continue;
      single[p][repetition] = (between - start) / pairs;
      bulk[p][repetition] = (end - between) / pairs;
    }
  }

  for (int p = 0; p < POOLS; p++) {
    const struct geometry *g = &geometries[p];
    if (!g->reported) continue;
    qsort(single[p], (size_t)repetitions, sizeof *single[p], ascending);
    qsort(bulk[p], (size_t)repetitions, sizeof *bulk[p], ascending);
    printf("{\"size\":%zu,\"align\":%zu,\"boundary\":%zu,\"blocks\":%zu,"
           "\"single\":{\"nsPerPairMedian\":%.3f,\"nsPerPairBest\":%.3f},"
           "\"bulk32\":{\"nsPerPairMedian\":%.3f,\"nsPerPairBest\":%.3f}}\n",
           g->size, g->align, g->boundary, blocks_for(g->size), single[p][repetitions / 2], single[p][0],
           bulk[p][repetitions / 2], bulk[p][0]);
  }
  return 0;
}
