// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Generates a stream of operations from a seed. ../stream.ts is the same generator: both draw the same random numbers in
 * the same order.
 */
#include <linux/string.h>
#include "oracle.h"

static u32 state;
static u32 slot_count;

/*
 * The phase: for `left` operations, `bias` of 8 are allocs, and frees follow `order`. Operations are in slot `focus`, or
 * in all slots if `focus` equals `slot_count`.
 */
static struct {
	u32 left;
	u32 bias;
	u32 order;
	u32 focus;
} phase;

static u32 below(u32 limit)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return ((u64)(state * 0x9e3779b1u) * limit) >> 32;
}

static u32 power(u32 limit)
{
	return 1u << below(limit);
}

static void next_phase(void)
{
	phase.left = below(256);
	phase.bias = 1 + below(7);
	phase.order = below(3);
	phase.focus = slot_count;
	if (below(2))
		phase.focus = below(slot_count);
}

static void random_create(struct operation *operation)
{
	u32 length, i;

	switch (below(4)) {
	case 0:
		operation->size = 1 + below(64);
		break;
	case 1:
		operation->size = 1 + below(4096);
		break;
	case 2:
		operation->size = power(18);
		operation->size += below(3);
		break;
	default:
		operation->size = 32 * power(8);
	}
	operation->align = 0;
	if (below(2))
		operation->align = below(4) ? power(8) : power(19);
	if (below(32) == 0)
		operation->align = 1 + below(100);
	operation->boundary = 0;
	if (below(2))
		operation->boundary = 16 * power(15);
	if (below(32) == 0)
		operation->boundary = 1 + below(5000);
	length = 1 + (below(8) ? below(16) : below(40));
	for (i = 0; i < length; i++)
		operation->name[i] = "abcdefghijklmnopqrstuvwxyz 0-_A"[below(31)];
	operation->name[length] = '\0';
}

void stream_begin(u32 seed)
{
	state = (seed * 0x9e3779b1u) ^ 0x5bd1e995u;
	if (state == 0)
		state = 1;
	/* In one stream of eight, the pools exceed the length of the `pools` text. */
	slot_count = seed % 8 ? 16 : SLOTS;
	phase.left = 0;
}

u32 stream_slots(void)
{
	return slot_count;
}

void stream_next(struct operation *operation)
{
	u32 chance, blocks;

	if (phase.left-- == 0)
		next_phase();
	operation->slot = phase.focus;
	if (phase.focus == slot_count)
		operation->slot = below(slot_count);
	chance = below(256);
	if (chance == 0) {
		operation->kind = 't';
		return;
	}
	if (chance == 1) {
		operation->kind = 'x';
		operation->count = below(4);
		return;
	}
	if (!slot_used(operation->slot)) {
		operation->kind = 'c';
		random_create(operation);
		return;
	}
	blocks = slot_blocks(operation->slot);
	operation->order = phase.order;
	operation->position = 0;
	if (chance < 5) {
		operation->kind = 'd';
		if (blocks > 0 && below(8)) {
			operation->kind = 'f';
			operation->count = blocks;
			if (operation->order == ANYWHERE)
				operation->position = below(MAX_BLOCKS);
		}
		return;
	}
	operation->count = 1;
	if (below(8) == 0)
		operation->count += below(16);
	if (below(8) < phase.bias && blocks + operation->count <= slot_room(operation->slot)) {
		operation->kind = 'a';
		operation->flags = below(4);
		return;
	}
	operation->kind = 'f';
	if (operation->order == ANYWHERE)
		operation->position = below(MAX_BLOCKS);
}
