// SPDX-License-Identifier: MIT OR GPL-2.0
/* Executes operations on the kernel's pools. */
#include <linux/dma-mapping.h>
#include <linux/dmapool.h>
#include <linux/kernfs.h>
#include <linux/kmsg_dump.h>
#include <linux/mm.h>
#include <linux/string.h>
#include "oracle.h"

#define REFUSED 0xffffffffu
/* Bytes to write at each end of an allocated block, and their value. */
#define WRITTEN_BYTES 32
#define WRITTEN_VALUE 0x5a
/* Limit of the allocated bytes of one pool in a stream. */
#define ROOM_BYTES (1 << 21)

struct block {
	void *address;
	dma_addr_t dma;
};

struct slot {
	struct dma_pool *pool;
	u64 size;
	u64 align;
	u32 count;
	/* The block that was freed last. */
	struct block freed;
	/* The allocated blocks, in the order of their allocation. */
	struct block blocks[MAX_BLOCKS];
};

static struct slot slots[SLOTS];
/* The block that the next request for a page frees. */
static struct {
	struct dma_pool *pool;
	struct block block;
} race;
static struct kmsg_dump_iter log;
/* The buffer for the `pools` text. sysfs uses one page. */
static char *text_page;
/* Pages that the last destroy leaked. */
static u32 kept;

bool slot_used(u32 slot)
{
	return slots[slot].pool != NULL;
}

u32 slot_blocks(u32 slot)
{
	return slots[slot].count;
}

u32 slot_room(u32 slot)
{
	u64 bytes = max3(slots[slot].size, slots[slot].align, (u64)16);
	u64 room = min_t(u64, div64_u64(ROOM_BYTES, bytes), MAX_BLOCKS);

	return max_t(u64, stream_slots() < SLOTS ? room : room >> 3, 1);
}

/* Calls `line` for each new message of our device in the kernel's log, with the text after the device's name. */
static void read_log(void (*line)(const char *text, size_t length))
{
	static char buffer[512];
	size_t length;

	while (kmsg_dump_get_line(&log, false, buffer, sizeof(buffer) - 1, &length)) {
		char *text;

		buffer[length] = '\0';
		text = strstr(buffer, dev_name(oracle_device));
		if (!text || !line)
			continue;
		text += strlen(dev_name(oracle_device)) + strlen(": ");
		line(text, strcspn(text, "\n"));
	}
}

static void create(struct slot *slot, const struct operation *operation)
{
	if (slot->pool) {
		answer_word(0);
		return;
	}
	slot->pool = dma_pool_create(operation->name, oracle_device, operation->size, operation->align,
				     operation->boundary);
	slot->size = operation->size;
	slot->align = operation->align;
	slot->count = 0;
	answer_word(slot->pool != NULL);
}

static void write_ends(const struct slot *slot, void *address)
{
	size_t length = min_t(u64, slot->size, WRITTEN_BYTES);

	memset(address, WRITTEN_VALUE, length);
	memset(address + slot->size - length, WRITTEN_VALUE, length);
}

static void alloc(struct slot *slot, const struct operation *operation)
{
	gfp_t gfp = operation->flags & (ATOMIC | NO_GROW) ? GFP_ATOMIC : GFP_KERNEL;
	bool zero = operation->flags & ZERO;
	u32 wanted, got;

	/* With an align of 2^32 or more, the kernel's block size is 0, and its first alloc loops endlessly with a lock held. */
	if (!slot->pool || slot->align > U32_MAX) {
		answer_word(0);
		return;
	}
	wanted = min(operation->count, MAX_BLOCKS - slot->count);
	memory.owner = operation->slot;
	for (got = 0; got < wanted; got++) {
		struct block *block = &slot->blocks[slot->count + got];

		block->address = zero ? dma_pool_zalloc(slot->pool, gfp, &block->dma)
				      : dma_pool_alloc(slot->pool, gfp, &block->dma);
		if (!block->address)
			break;
	}
	if (got < wanted) {
		/* Free in reverse order, which restores the free list. */
		while (got-- > 0)
			dma_pool_free(slot->pool, slot->blocks[slot->count + got].address,
				      slot->blocks[slot->count + got].dma);
		answer_word(REFUSED);
		answer_word(memory.requests);
		return;
	}
	for (got = 0; got < wanted; got++) {
		struct block *block = &slot->blocks[slot->count + got];
		/* Bit 0: the bytes are at the address. Bit 1: a zeroed block is not zero. */
		u32 checks = memory_is_at(block->dma, block->address);

		if (zero && memchr_inv(block->address, 0, slot->size))
			checks |= 2;
		answer_word(block->dma >> PAGE_NUMBER_SHIFT);
		answer_word(block->dma & (LARGEST_PAGE - 1));
		answer_word(checks);
		write_ends(slot, block->address);
	}
	slot->count += wanted;
	answer_word(memory.requests);
}

static void free_blocks(struct slot *slot, const struct operation *operation)
{
	u32 count = min(operation->count, slot->count);
	u32 i;

	for (i = 0; i < count; i++) {
		u32 at = operation->order == STACK ? slot->count - 1
			 : operation->order == QUEUE ? 0 : operation->position % slot->count;
		struct block block = slot->blocks[at];

		slot->count--;
		memmove(&slot->blocks[at], &slot->blocks[at + 1], (slot->count - at) * sizeof(block));
		dma_pool_free(slot->pool, block.address, block.dma);
		slot->freed = block;
	}
	answer_word(count);
}

static void free_at_next_request(struct slot *slot)
{
	race.pool = slot->pool;
	race.block = slot->blocks[--slot->count];
	memory.race = true;
}

void operations_race(void)
{
	dma_pool_free(race.pool, race.block.address, race.block.dma);
}

/* The content of a free block in kernels since 6.4 (mm/dmapool.c). */
struct link {
	void *next;
	dma_addr_t dma;
};

/* Links the block that was freed last to the first allocated block. */
static void device_write(struct slot *slot)
{
	struct link *freed = slot->freed.address;
	struct link *target = slot->blocks[0].address;

	freed->next = target;
	target->next = NULL;
	target->dma = slot->blocks[0].dma;
}

static void destroy(struct slot *slot, const struct operation *operation)
{
	if (!slot->pool) {
		answer_word(0);
		return;
	}
	read_log(NULL);
	dma_pool_destroy(slot->pool);
	slot->pool = NULL;
	slot->count = 0;
	read_log(answer_bytes);
	/* The kernel never frees the pages of a busy pool. */
	kept = memory_release(operation->slot);
	answer_word(memory.live);
}

/* Answers with the text of the attribute `pools`, from the same function as a read of the file. */
static void text(void)
{
	struct kernfs_node *file = kernfs_find_and_get(oracle_device->kobj.sd, "pools");
	struct device_attribute *attribute;

	if (!file) {
		answer_bytes(NULL, 0);
		return;
	}
	attribute = container_of((struct attribute *)file->priv, struct device_attribute, attr);
	answer_bytes(text_page, attribute->show(oracle_device, attribute, text_page));
	kernfs_put(file);
}

void operate(const struct operation *operation)
{
	struct slot *slot = &slots[operation->slot];

	switch (operation->kind) {
	case 'c':
		create(slot, operation);
		break;
	case 'a':
		alloc(slot, operation);
		break;
	case 'f':
		free_blocks(slot, operation);
		break;
	case 'd':
		destroy(slot, operation);
		break;
	case 't':
		text();
		break;
	case 'x':
		memory.refusals = operation->count;
		break;
	case 'k':
		answer_word(kept);
		break;
	case 'r':
		free_at_next_request(slot);
		answer_word(1);
		break;
	case 'g':
		dma_pool_free(slot->pool, slot->freed.address, slot->freed.dma);
		answer_word(1);
		break;
	case 'w':
		device_write(slot);
		answer_word(1);
		break;
	case 'm':
		answer_word(dma_set_coherent_mask(oracle_device, DMA_BIT_MASK(operation->count)) == 0);
		break;
	case 'e':
		answer_word(memory.live);
		break;
	}
}

void operations_reset(void)
{
	u32 i;

	for (i = 0; i < SLOTS; i++) {
		dma_pool_destroy(slots[i].pool);
		slots[i].pool = NULL;
		slots[i].count = 0;
	}
	memory_reset();
	dma_set_coherent_mask(oracle_device, DMA_BIT_MASK(64));
	kept = 0;
}

int operations_init(void)
{
	text_page = (char *)get_zeroed_page(GFP_KERNEL);
	if (!text_page)
		return -ENOMEM;
	kmsg_dump_rewind(&log);
	return 0;
}

void operations_exit(void)
{
	operations_reset();
	free_page((unsigned long)text_page);
}
