/*
 * A DMA pool in the classical kernel design, for comparison with dmapool: free blocks are linked through their own
 * memory, and one spinlock guards the pool.
 *
 *     struct pool                         page (coherent memory)
 *     +-----------+      +-------------+-------------+-------------+----
 *     | lock      |      | next | dma  | allocated   | next | dma  | ...
 *     | free  ----|----> |   \         | block       |   ^         |
 *     | active    |      |    \--------|-------------|---/         |
 *     | pages     |      +-------------+-------------+-------------+----
 *     +-----------+
 *
 * All checks are off, so this is the fastest version of the design. The kernel's additional work, above all masking
 * interrupts around the lock, is omitted in its favour.
 */
#ifndef INTRUSIVE_POOL_H
#define INTRUSIVE_POOL_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t dma_addr_t;

struct intrusive_pool;

/* Null for invalid arguments or without memory. `align` 0 means 1, `boundary` 0 means none. */
struct intrusive_pool *intrusive_pool_create(size_t size, size_t align, size_t boundary);
void intrusive_pool_destroy(struct intrusive_pool *pool);

/* Returns the CPU address of a block and stores its DMA address in `*dma`. Null without memory. */
void *intrusive_pool_alloc(struct intrusive_pool *pool, dma_addr_t *dma);
void intrusive_pool_free(struct intrusive_pool *pool, void *vaddr, dma_addr_t dma);

/* Forgets all coherent memory, so that it is given again from the start. No pool may exist. */
void intrusive_region_reset(void);

/* Number of a block's page, in order of the pages' creation, and offset in it. Slow. */
size_t intrusive_pool_page_of(const struct intrusive_pool *pool, const void *vaddr, size_t *offset);
size_t intrusive_pool_active(const struct intrusive_pool *pool);
size_t intrusive_pool_blocks_per_page(const struct intrusive_pool *pool);

#endif
