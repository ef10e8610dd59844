/* See intrusive-pool.h. A separate translation unit: the benchmark calls the pool as a driver calls an exported kernel
 * function, without inlining or specialization. */
#define _GNU_SOURCE
#include "intrusive-pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef WITHOUT_LOCK
/* For one thread: the design without the price of its lock. */
struct spinlock {
  char unused;
};
#define spin_lock(lock) ((void)(lock))
#define spin_unlock(lock) ((void)(lock))
#else
#include "spinlock.h"
#endif

enum { PAGE_BYTES = 4096 };
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define REGION_BYTES ((size_t)256 << 20)
/* Base of DMA addresses, which differ from CPU addresses. */
#define DMA_BASE ((dma_addr_t)1 << 32)

/* Contents of a free block. An allocated block holds the driver's data. */
struct free_block {
  struct free_block *next;
  dma_addr_t dma;
};

struct page {
  struct page *next;
  void *vaddr;
  dma_addr_t dma;
};

struct intrusive_pool {
  struct page *page_list;
  /* Alloc and free access the fields from here to `pages` only. */
  struct spinlock lock;
  struct free_block *free;
  size_t active;
  size_t blocks;
  size_t pages;
  size_t size;
  size_t allocation;
  size_t boundary;
};

/* ---- coherent memory: one region, allocated in ascending order --------------------------------- */

static struct spinlock region_lock;
static unsigned char *region;
static size_t region_used;
/* End of the memory that was ever given: what lies below may not be zero. */
static size_t region_high;

/* Uses huge pages if available: a kernel accesses its memory through a direct map of huge pages and has few TLB
 * misses. */
static unsigned char *reserve_region(void) {
  unsigned char *raw = mmap(NULL, REGION_BYTES + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return NULL;
  size_t misfit = (uintptr_t)raw % HUGE_PAGE_BYTES;
  unsigned char *aligned = misfit == 0 ? raw : raw + (HUGE_PAGE_BYTES - misfit);
  madvise(aligned, REGION_BYTES, MADV_HUGEPAGE);
  return aligned;
}

static void *alloc_coherent(size_t size, dma_addr_t *dma) {
  size_t natural = PAGE_BYTES;
  while (natural < size) natural *= 2;

  void *vaddr = NULL;
  spin_lock(&region_lock);
  if (region == NULL) region = reserve_region();
  size_t start = (region_used + natural - 1) & ~(natural - 1);
  if (region != NULL && start + size <= REGION_BYTES) {
    region_used = start + size;
    vaddr = region + start;
    *dma = DMA_BASE + start;
    /* Coherent memory is zeroed. */
    if (start < region_high) memset(vaddr, 0, size);
    if (start + size > region_high) region_high = start + size;
  }
  spin_unlock(&region_lock);
  return vaddr;
}

void intrusive_region_reset(void) { region_used = 0; }

/* ---- the pool --------------------------------------------------------------------------------- */

static int is_power_of_two(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

struct intrusive_pool *intrusive_pool_create(size_t size, size_t align, size_t boundary) {
  if (align == 0) align = 1;
  if (size == 0 || !is_power_of_two(align)) return NULL;
  if (size < sizeof(struct free_block)) size = sizeof(struct free_block);
  size = (size + align - 1) & ~(align - 1);
  size_t allocation = size > PAGE_BYTES ? size : PAGE_BYTES;
  if (boundary == 0) boundary = allocation;
  if (boundary < size || (boundary != allocation && !is_power_of_two(boundary))) return NULL;
  if (boundary > allocation) boundary = allocation;

  struct intrusive_pool *pool = aligned_alloc(64, (sizeof *pool + 63) & ~(size_t)63);
  if (pool == NULL) return NULL;
  *pool = (struct intrusive_pool){.size = size, .allocation = allocation, .boundary = boundary};
  return pool;
}

void intrusive_pool_destroy(struct intrusive_pool *pool) {
  if (pool == NULL) return;
  for (struct page *page = pool->page_list; page != NULL;) {
    struct page *next = page->next;
    free(page);
    page = next;
  }
  free(pool);
}

/* Offset of the next block at or after `offset` that crosses no boundary. */
static size_t place(const struct intrusive_pool *pool, size_t offset) {
  size_t room = pool->boundary - offset % pool->boundary;
  return room < pool->size ? offset + room : offset;
}

/* Cuts a new page and puts its blocks, in ascending order, at the front of the free list. The caller holds the lock. */
static void add_page(struct intrusive_pool *pool, struct page *page) {
  struct free_block *after = pool->free;
  struct free_block **link = &pool->free;
  for (size_t offset = 0; offset + pool->size <= pool->allocation; offset = place(pool, offset + pool->size)) {
    struct free_block *block = (struct free_block *)((unsigned char *)page->vaddr + offset);
    block->dma = page->dma + offset;
    *link = block;
    link = &block->next;
    pool->blocks++;
  }
  *link = after;
  page->next = pool->page_list;
  pool->page_list = page;
  pool->pages++;
}

/* Called without the lock: a kernel's page allocator may sleep. */
static struct page *new_page(const struct intrusive_pool *pool) {
  struct page *page = malloc(sizeof *page);
  if (page == NULL) return NULL;
  page->vaddr = alloc_coherent(pool->allocation, &page->dma);
  if (page->vaddr != NULL) return page;
  free(page);
  return NULL;
}

static inline struct free_block *pop(struct intrusive_pool *pool) {
  struct free_block *block = pool->free;
  if (__builtin_expect(block != NULL, 1)) {
    pool->free = block->next;
    pool->active++;
  }
  return block;
}

/* Not inlined, which saves registers in the common path. */
static __attribute__((noinline)) struct free_block *pop_from_new_page(struct intrusive_pool *pool) {
  struct page *page = new_page(pool);
  if (page == NULL) return NULL;
  spin_lock(&pool->lock);
  add_page(pool, page);
  struct free_block *block = pop(pool);
  spin_unlock(&pool->lock);
  return block;
}

void *intrusive_pool_alloc(struct intrusive_pool *pool, dma_addr_t *dma) {
  spin_lock(&pool->lock);
  struct free_block *block = pop(pool);
  spin_unlock(&pool->lock);
  if (__builtin_expect(block == NULL, 0)) {
    block = pop_from_new_page(pool);
    if (block == NULL) return NULL;
  }
  *dma = block->dma;
  return block;
}

void intrusive_pool_free(struct intrusive_pool *pool, void *vaddr, dma_addr_t dma) {
  struct free_block *block = vaddr;
  spin_lock(&pool->lock);
  block->next = pool->free;
  block->dma = dma;
  pool->free = block;
  pool->active--;
  spin_unlock(&pool->lock);
}

size_t intrusive_pool_page_of(const struct intrusive_pool *pool, const void *vaddr, size_t *offset) {
  /* The list begins with the newest page. */
  size_t number = pool->pages;
  for (const struct page *page = pool->page_list; page != NULL; page = page->next) {
    number--;
    *offset = (size_t)((const unsigned char *)vaddr - (const unsigned char *)page->vaddr);
    if ((const unsigned char *)vaddr >= (const unsigned char *)page->vaddr && *offset < pool->allocation) return number;
  }
  abort();
}

size_t intrusive_pool_active(const struct intrusive_pool *pool) { return pool->active; }

size_t intrusive_pool_blocks_per_page(const struct intrusive_pool *pool) {
  size_t count = 0;
  for (size_t offset = 0; offset + pool->size <= pool->allocation; offset = place(pool, offset + pool->size)) count++;
  return count;
}
