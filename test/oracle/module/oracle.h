/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The running kernel as an oracle: executes operations on its dma_pool, for a device of this module.
 *
 *     main.c         /dev/dmapool_oracle: operations as lines of text, and their answers
 *     stream.c       generates operations from a seed; ../stream.ts is the same generator
 *     operations.c   executes operations on the kernel's pools
 *     memory.c       the device's coherent memory: numbers its pages, counts and refuses requests
 */
#ifndef DMAPOOL_ORACLE_H
#define DMAPOOL_ORACLE_H

#include <linux/device.h>
#include <linux/types.h>

/* ../operation.ts has the same limits. */
#define SLOTS 128
#define MAX_BLOCKS 512
#define LARGEST_PAGE (1 << 20)
#define CHUNK 4096
#define NAME_SIZE 64

/* DMA address = (page number << PAGE_NUMBER_SHIFT) + offset in the page */
#define PAGE_NUMBER_SHIFT 20

enum order { STACK, QUEUE, ANYWHERE };
enum flags { ZERO = 1, ATOMIC = 2, NO_GROW = 4 };

struct operation {
	/* The letter of the operation's line: see main.c. */
	char kind;
	u32 slot;
	u64 size;
	u64 align;
	u64 boundary;
	char name[NAME_SIZE];
	u32 flags;
	u32 count;
	enum order order;
	u32 position;
};

/* main.c */
extern struct device *oracle_device;
void answer_word(u32 word);
void answer_bytes(const char *bytes, size_t length);

/* memory.c */
struct memory_state {
	/* The slot whose pool gets the next page. */
	u32 owner;
	/* Number of following requests to refuse. */
	u32 refusals;
	/* Whether the next request frees a block first. */
	bool race;
	/* Requests since the reset, including refused ones. */
	u32 requests;
	/* Allocated pages. */
	u32 live;
	/* The machine had no memory for a page. Later answers can't be compared. */
	bool exhausted;
};
extern struct memory_state memory;
int memory_init(struct device *device);
void memory_exit(void);
void memory_reset(void);
u32 memory_release(u32 owner);
bool memory_is_at(dma_addr_t dma, const void *address);

/* operations.c */
int operations_init(void);
void operations_exit(void);
void operations_reset(void);
void operate(const struct operation *operation);
/* Frees the block of a race. The pool's lock is not held. */
void operations_race(void);
bool slot_used(u32 slot);
u32 slot_blocks(u32 slot);
/* Limit of the blocks that a stream allocates from the slot's pool. */
u32 slot_room(u32 slot);

/* stream.c */
void stream_begin(u32 seed);
u32 stream_slots(void);
void stream_next(struct operation *operation);

#endif
