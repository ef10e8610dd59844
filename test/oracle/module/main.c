// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * /dev/dmapool_oracle: a write executes the operation of each line at once; a read returns the answers.
 *
 *     z                                     reset: no pools, pages from number 0
 *     c SLOT SIZE ALIGN BOUNDARY NAME       create; NAME in hexadecimal, - for an empty name
 *     a SLOT FLAGS COUNT                    alloc COUNT blocks or none; FLAGS: 1 zero, 2 and 4 atomic
 *     f SLOT ORDER COUNT POSITION           free; ORDER: 0 last, 1 first, 2 at POSITION
 *     d SLOT                                destroy
 *     t                                     read the `pools` text
 *     x COUNT                               refuse the next COUNT requests for pages
 *     k                                     read the number of pages that the last destroy leaked
 *     r SLOT                                the next request for a page frees the last block first
 *     g SLOT                                free the block that was freed last again
 *     w SLOT                                write to the block that was freed last, as a device can
 *     m BITS                                set the DMA mask
 *     e SLOT                                read the number of allocated pages; the kernel has no trim
 *     s SEED COUNT                          reset, then execute a stream of COUNT operations
 *
 * The answer to an operation is a line of words and byte strings, in hexadecimal. The answer to a stream is a line per
 * CHUNK operations, with a hash of all answers so far. The last hash includes the operations at the end of the stream.
 */
#include <linux/dma-mapping.h>
#include <linux/hex.h>
#include <linux/kfifo.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include "oracle.h"

#define LINE 512
#define OUTPUT (1 << 18)

struct device *oracle_device;
static struct platform_device *platform;
static DECLARE_KFIFO_PTR(output, char);
static DECLARE_WAIT_QUEUE_HEAD(output_changed);
static char line[LINE];
static u32 line_length;
static u32 hash;
/* Whether answers are written as text, in addition to the hash. */
static bool as_text;

static void put(const char *text, size_t length)
{
	while (length > 0) {
		u32 taken = kfifo_in(&output, text, length);

		text += taken;
		length -= taken;
		wake_up_interruptible(&output_changed);
		if (length > 0 && wait_event_interruptible(output_changed, !kfifo_is_full(&output)))
			return;
	}
}

static void mix(u32 word)
{
	hash = (((hash << 5) | (hash >> 27)) ^ word) * 0x9e3779b1u;
}

static void put_text(const char *format, u32 value)
{
	char text[16];

	if (as_text)
		put(text, scnprintf(text, sizeof(text), format, value));
}

void answer_word(u32 word)
{
	mix(word);
	put_text("%x ", word);
}

void answer_bytes(const char *bytes, size_t length)
{
	size_t i;

	mix(length);
	if (length == 0)
		put_text("-", 0);
	for (i = 0; i < length; i++) {
		mix((u8)bytes[i]);
		put_text("%02x", (u8)bytes[i]);
	}
	put_text(" ", 0);
}

static void end_line(void)
{
	if (memory.exhausted)
		put("exhausted", 9);
	put("\n", 1);
}

static void put_hash(void)
{
	char text[16];

	put(text, scnprintf(text, sizeof(text), "%08x", hash));
	end_line();
}

static void run_stream(u32 seed, u32 count)
{
	static struct operation operation;
	u32 i;

	operations_reset();
	stream_begin(seed);
	hash = 0;
	for (i = 0; i < count && !signal_pending(current); i++) {
		if (i > 0 && i % CHUNK == 0) {
			put_hash();
			cond_resched();
		}
		stream_next(&operation);
		operate(&operation);
	}
	operation.kind = 'd';
	for (operation.slot = 0; operation.slot < stream_slots(); operation.slot++)
		operate(&operation);
	operation.kind = 't';
	operation.slot = 0;
	operate(&operation);
	put_hash();
}

static bool parse(const char *text, struct operation *operation)
{
	static char name[2 * NAME_SIZE];
	size_t length;

	operation->kind = text[0];
	operation->slot = 0;
	switch (operation->kind) {
	case 'c':
		if (sscanf(text, "c %u %llu %llu %llu %127s", &operation->slot, &operation->size, &operation->align,
			   &operation->boundary, name) != 5)
			return false;
		length = name[0] == '-' ? 0 : strlen(name) / 2;
		operation->name[length] = '\0';
		if (hex2bin(operation->name, name, length) != 0)
			return false;
		break;
	case 'a':
		if (sscanf(text, "a %u %u %u", &operation->slot, &operation->flags, &operation->count) != 3)
			return false;
		break;
	case 'f':
		if (sscanf(text, "f %u %u %u %u", &operation->slot, &operation->order, &operation->count,
			   &operation->position) != 4)
			return false;
		break;
	case 'd':
	case 'r':
	case 'g':
	case 'w':
	case 'e':
		if (sscanf(text + 1, "%u", &operation->slot) != 1)
			return false;
		break;
	case 'm':
		if (sscanf(text, "m %u", &operation->count) != 1 || operation->count - 1 >= 64)
			return false;
		break;
	case 'x':
		if (sscanf(text, "x %u", &operation->count) != 1)
			return false;
		break;
	case 't':
	case 'k':
		break;
	default:
		return false;
	}
	return operation->slot < SLOTS;
}

static void run_line(const char *text)
{
	static struct operation operation;
	u32 seed, count;

	if (sscanf(text, "s %u %u", &seed, &count) == 2) {
		run_stream(seed, count);
		return;
	}
	if (text[0] == 'z') {
		operations_reset();
		end_line();
		return;
	}
	if (!parse(text, &operation)) {
		put("invalid\n", 8);
		return;
	}
	as_text = true;
	operate(&operation);
	as_text = false;
	end_line();
}

static ssize_t oracle_write(struct file *file, const char __user *data, size_t count, loff_t *position)
{
	size_t i;

	for (i = 0; i < count; i++) {
		char character;

		if (get_user(character, data + i))
			return -EFAULT;
		if (character != '\n') {
			/* Drop the end of a line that is too long. */
			if (line_length < LINE - 1)
				line[line_length++] = character;
			continue;
		}
		line[line_length] = '\0';
		line_length = 0;
		run_line(line);
		if (signal_pending(current))
			return -EINTR;
	}
	return count;
}

static ssize_t oracle_read(struct file *file, char __user *data, size_t count, loff_t *position)
{
	unsigned int copied;

	if (wait_event_interruptible(output_changed, !kfifo_is_empty(&output)))
		return -ERESTARTSYS;
	if (kfifo_to_user(&output, data, count, &copied))
		return -EFAULT;
	wake_up_interruptible(&output_changed);
	return copied;
}

static const struct file_operations oracle_file = {
	.owner = THIS_MODULE,
	.read = oracle_read,
	.write = oracle_write,
};

static struct miscdevice oracle_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmapool_oracle",
	.fops = &oracle_file,
};

static int __init oracle_init(void)
{
	int error = kfifo_alloc(&output, OUTPUT, GFP_KERNEL);

	if (error)
		return error;
	platform = platform_device_register_simple("dmapool_oracle", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(platform)) {
		error = PTR_ERR(platform);
		goto no_device;
	}
	oracle_device = &platform->dev;
	error = memory_init(oracle_device);
	if (error)
		goto no_memory;
	error = operations_init();
	if (error)
		goto no_operations;
	error = misc_register(&oracle_misc);
	if (!error)
		return 0;
	operations_exit();
no_operations:
	memory_exit();
no_memory:
	platform_device_unregister(platform);
no_device:
	kfifo_free(&output);
	return error;
}

static void __exit oracle_exit(void)
{
	misc_deregister(&oracle_misc);
	operations_exit();
	memory_exit();
	platform_device_unregister(platform);
	kfifo_free(&output);
}

module_init(oracle_init);
module_exit(oracle_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Executes streams of dma_pool calls, to compare another allocator with the kernel's");
