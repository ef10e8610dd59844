/*
 * Replays the calls of a recording on the intrusive pool.
 *
 *     intrusive-replay FILE [--repetitions N]
 *
 * FILE is what bench/ours/call-stream.ts describes. Prints one JSON object: nanoseconds for each call in the first run, and
 * best and median of the runs after it; and a hash of the page and offset of each allocation.
 */
#define _GNU_SOURCE
#include <stdint.h>

#include "intrusive-pool.h"
#include "workload.h"

enum { CREATE, ALLOC, ZALLOC, FREE, DESTROY };

struct held {
  void *vaddr;
  dma_addr_t dma;
};

/* A recording: four numbers for each pool, then three for each call. */
struct stream {
  uint32_t pools, slots, calls;
  const uint32_t *geometries;
  const uint32_t *operations;
};

static struct stream read_stream(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail("can't open the stream");
  uint32_t head[3];
  if (fread(head, sizeof head, 1, file) != 1) fail("no stream");
  size_t length = (size_t)head[0] * 3 + (size_t)head[2] * 3;
  uint32_t *words = malloc(length * sizeof *words + 1);
  if (words == NULL) fail("out of memory");
  if (fread(words, sizeof *words, length, file) != length) fail("the stream is cut short");
  fclose(file);
  return (struct stream){head[0], head[1], head[2], words, words + (size_t)head[0] * 3};
}

static void run(const struct stream *stream, struct intrusive_pool **pools, struct held *held) {
  const uint32_t *at = stream->operations;
  for (uint32_t i = 0; i < stream->calls; i++, at += 3) {
    struct intrusive_pool *pool = pools[at[1]];
    struct held *block = &held[at[2]];
    switch (at[0]) {
      case CREATE: {
        const uint32_t *g = stream->geometries + (size_t)at[1] * 3;
        pools[at[1]] = intrusive_pool_create(g[0], g[1], g[2]);
        if (pools[at[1]] == NULL) fail("no pool");
        break;
      }
      case ALLOC:
      case ZALLOC:
        block->vaddr = intrusive_pool_alloc(pool, &block->dma);
        if (block->vaddr == NULL) fail("out of memory");
        if (at[0] == ZALLOC) memset(block->vaddr, 0, stream->geometries[(size_t)at[1] * 3]);
        break;
      case FREE:
        intrusive_pool_free(pool, block->vaddr, block->dma);
        break;
      default:
        intrusive_pool_destroy(pool);
        pools[at[1]] = NULL;
    }
  }
}

/* FNV-1a over 32-bit words. */
static uint32_t mix(uint32_t hash, uint32_t word) { return (hash ^ word) * 0x01000193u; }

/* As run(), and hashes the place of each allocation. */
static uint32_t hash_run(const struct stream *stream, struct intrusive_pool **pools, struct held *held) {
  uint32_t hash = 0x811c9dc5u;
  for (uint32_t i = 0; i < stream->calls; i++) {
    const uint32_t *at = stream->operations + (size_t)i * 3;
    struct stream one = {stream->pools, stream->slots, 1, stream->geometries, at};
    run(&one, pools, held);
    if (at[0] != ALLOC && at[0] != ZALLOC) continue;
    size_t offset;
    hash = mix(hash, (uint32_t)intrusive_pool_page_of(pools[at[1]], held[at[2]].vaddr, &offset));
    hash = mix(hash, (uint32_t)offset);
  }
  return hash;
}

static void clear(const struct stream *stream, struct intrusive_pool **pools) {
  for (uint32_t i = 0; i < stream->pools; i++) {
    intrusive_pool_destroy(pools[i]);
    pools[i] = NULL;
  }
  intrusive_region_reset();
}

int main(int argc, char **argv) {
  if (argc < 2) fail("usage: intrusive-replay FILE [--repetitions N]");
  struct stream stream = read_stream(argv[1]);
  int repetitions = option(argc - 1, argv + 1, "--repetitions", 40);
  struct intrusive_pool **pools = calloc(stream.pools + 1, sizeof *pools);
  struct held *held = calloc(stream.slots + 1, sizeof *held);
  double *ns = calloc((size_t)repetitions + 1, sizeof *ns);
  if (pools == NULL || held == NULL || ns == NULL) fail("out of memory");

  for (int i = 0; i <= repetitions; i++) {
    double start = read_ns(CLOCK_THREAD_CPUTIME_ID);
    run(&stream, pools, held);
    ns[i] = (read_ns(CLOCK_THREAD_CPUTIME_ID) - start) / stream.calls;
    clear(&stream, pools);
  }
  uint32_t hash = hash_run(&stream, pools, held);
  clear(&stream, pools);
  double first = ns[0];
  qsort(ns + 1, (size_t)repetitions, sizeof *ns, ascending);
  printf("{\"first\":%.3f,\"best\":%.3f,\"median\":%.3f,\"hash\":%u}\n", first, ns[1], ns[1 + repetitions / 2], hash);
  return 0;
}
