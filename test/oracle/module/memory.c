// SPDX-License-Identifier: MIT OR GPL-2.0
/* The coherent memory of the oracle's device. It numbers its pages, counts requests and refuses some. */
#include <linux/dma-map-ops.h>
#include <linux/gfp.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include "oracle.h"

#define MAX_PAGES (1 << 18)
/* The content of new pages. It shows that the pool, not the memory, zeroes a block. */
#define FRESH_BYTE 0xa5

struct page_record {
	void *memory;
	u32 size;
	u32 owner;
};

struct memory_state memory;
static struct page_record *pages;
static u32 page_total;

static void *memory_alloc(struct device *device, size_t size, dma_addr_t *dma, gfp_t gfp, unsigned long attributes)
{
	struct page_record *page;

	if (memory.race) {
		memory.race = false;
		operations_race();
	}
	memory.requests++;
	if (memory.refusals > 0) {
		memory.refusals--;
		return NULL;
	}
	if (size > LARGEST_PAGE)
		return NULL;
	page = &pages[page_total];
	/* This caller may always sleep. GFP_ATOMIC would make failures depend on the machine's free memory. */
	page->memory = page_total < MAX_PAGES ? alloc_pages_exact(size, GFP_KERNEL | __GFP_NOWARN) : NULL;
	if (!page->memory) {
		memory.exhausted = true;
		return NULL;
	}
	memset(page->memory, FRESH_BYTE, size);
	page->size = size;
	page->owner = memory.owner;
	*dma = (dma_addr_t)page_total << PAGE_NUMBER_SHIFT;
	page_total++;
	memory.live++;
	return page->memory;
}

static void page_free(struct page_record *page)
{
	free_pages_exact(page->memory, page->size);
	page->memory = NULL;
	memory.live--;
}

static void memory_free(struct device *device, size_t size, void *address, dma_addr_t dma, unsigned long attributes)
{
	u64 number = dma >> PAGE_NUMBER_SHIFT;

	if (WARN_ON(number >= page_total || pages[number].memory != address || pages[number].size != size))
		return;
	page_free(&pages[number]);
}

/* Frees the pages that the kernel leaked for a pool. Returns their number. */
u32 memory_release(u32 owner)
{
	u32 released = 0;
	u32 i;

	for (i = 0; i < page_total; i++) {
		if (!pages[i].memory || pages[i].owner != owner)
			continue;
		page_free(&pages[i]);
		released++;
	}
	return released;
}

bool memory_is_at(dma_addr_t dma, const void *address)
{
	u64 number = dma >> PAGE_NUMBER_SHIFT;

	return number < page_total && pages[number].memory + (dma & (LARGEST_PAGE - 1)) == address;
}

void memory_reset(void)
{
	u32 i;

	for (i = 0; i < page_total; i++)
		if (pages[i].memory)
			page_free(&pages[i]);
	page_total = 0;
	memset(&memory, 0, sizeof(memory));
}

static const struct dma_map_ops memory_ops = {
	.alloc = memory_alloc,
	.free = memory_free,
};

int memory_init(struct device *device)
{
	pages = vzalloc(MAX_PAGES * sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	set_dma_ops(device, &memory_ops);
	return dma_coerce_mask_and_coherent(device, DMA_BIT_MASK(64));
}

void memory_exit(void)
{
	memory_reset();
	vfree(pages);
}
