/*
 * A DMA pool in the classical kernel design, for comparison with dmapool: free blocks are linked
 * through their own memory, and one spinlock guards the pool.
 *
 *     struct pool                         page (coherent memory)
 *     +-----------+      +-------------+-------------+-------------+----
 *     | lock      |      | next | dma  | in the      | next | dma  | ...
 *     | free  ----|----> |   \         | driver's    |   ^         |
 *     | active    |      |    \--------|-- hands ----|---/         |
 *     | pages     |      +-------------+-------------+-------------+----
 *     +-----------+
 *
 * What is here is what such a pool does with every check off, so it is the fastest the design can be;
 * what a kernel adds (masking interrupts around the lock, above all) is left out in its favour.
 */
#ifndef INTRUSIVE_POOL_H
#define INTRUSIVE_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t dma_addr_t;

struct intrusive_pool;

/* Null when the arguments do not make a pool or memory is out. `align` 0 is 1, `boundary` 0 is none. */
struct intrusive_pool *intrusive_pool_create(size_t size, size_t align, size_t boundary);
void intrusive_pool_destroy(struct intrusive_pool *pool);

/* The block's address for the CPU, and in `*dma` the one for the device. Null when memory is out. */
void *intrusive_pool_alloc(struct intrusive_pool *pool, dma_addr_t *dma);
void intrusive_pool_free(struct intrusive_pool *pool, void *vaddr, dma_addr_t dma);

size_t intrusive_pool_active(const struct intrusive_pool *pool);
size_t intrusive_pool_blocks_per_page(const struct intrusive_pool *pool);

#endif
