/**
 * What the workers of one pool share: a control block in one SharedArrayBuffer.
 *
 *     int32 words   header | worker slots | tickets of waiters | parent/child threads | words: one a block
 *     bytes         owners: one a block
 *
 * The word of a block is what the hot path reads and writes: the next free block, or a mark that says who has it.
 * While it is free, its owner says whose magazine it is in; that is written under the lock, or by the worker that has
 * the block in its hands. Together they leave no moment at which a block is nobody's, so that a worker may be killed
 * between any two stores:
 *
 *     word                 owner   the block is
 *     next or EMPTY        0       in the depot
 *     next or EMPTY        w       in the magazine of worker w
 *     markOf(w)            any     handed out by worker w; the owner is w again before the block can be freed
 *     flightOf(way)        any     in transit from the worker that the way names; the owner is NO_OWNER by then
 *     QUARANTINED, ABSENT  any     never handed out again, or beyond the pool's limit
 */
import { DmaArgumentError } from '../errors.ts';
import { isInstance } from '../arguments.ts';

/** Worker slots: numbers 1 to this. */
export const MAX_WORKERS = 62;
/** Most blocks of a shared pool: a ticket has 23 bits for the index. */
export const MAX_SHARED_BLOCKS: number = 2 ** 23;
/** Most who can wait at one time. */
export const MAX_TICKETS = 4096;

/** What a control block begins with; another layout has another number. */
export const VERSION = 0x444d_4103;

// Int32 indices in the header.
export const H_VERSION = 0;
/** Worker that holds the lock; 0: nobody. */
export const H_LOCK = 1;
/** Workers parked on the lock. */
export const H_SLEEPERS = 2;
/** 0 while the pool is open, then DESTROYED. */
export const H_STATE = 3;
export const H_MAX_BLOCKS = 4;
export const H_PER_PAGE = 5;
/** Pages opened so far: always the first ones. */
export const H_PAGES = 6;
/** Pages there can be. */
export const H_MAX_PAGES = 7;
/** Blocks ever carved: always the first ones. */
export const H_CARVED = 8;
/** First block of the depot, EMPTY if none. */
export const H_DEPOT = 9;
export const H_DEPOT_COUNT = 10;
/** Counts events that others should look at: somebody waits, or the pool was destroyed. */
export const H_EVENTS = 11;
/** Counts what may end a wait: blocks came to the depot, a page was opened, somebody gave up. */
export const H_SUPPLY = 12;
/** Next ticket to be given, and the first one not served; both modulo 2^30. */
export const H_TICKET_NEXT = 13;
export const H_TICKET_HEAD = 14;
export const H_FAILURES = 15;
export const H_WAITS = 16;
/** Allocations of workers that left, in two words of 30 bits. */
export const H_PAST = 17;
export const H_PAST_HIGH = 18;
/** Most blocks that were ever in hands and magazines, but for the magazine of the one who counted. */
export const H_HIGH_WATER = 19;
export const H_QUARANTINED = 20;
export const H_CORRUPTED = 21;
/** Counts requests for what idles in magazines, by those who do not wait. */
export const H_WANTED = 22;
/** Entries of the table of parent/child threads that were ever used: always the first ones. */
export const H_KIN = 23;
/** Living threads whose parent could not be recorded, because that table was full. */
export const H_KIN_MISSED = 24;
/** Waits by their time: a word for each bucket, then their sum in microseconds, in two words of 30 bits. See wait-times.ts. */
export const H_WAIT_TIMES = 25;
export const WAIT_BUCKETS = 12;
const HEADER_WORDS: number = H_WAIT_TIMES + WAIT_BUCKETS + 2;

export const DESTROYED = 1;

// Int32 indices in a worker's slot.
export const W_STATE = 0;
/** The thread's number, as the platform gives it. */
export const W_THREAD = 1;
/** Number of its last transfer; it goes on when the slot is used again, so that no ticket comes twice. */
export const W_NONCE = 2;
/** Blocks in its magazine, at its last slow call. */
export const W_IDLE = 3;
/** Allocations so far, in two words of 30 bits, at its last slow call. */
export const W_ALLOCATIONS = 4;
export const W_ALLOCATIONS_HIGH = 5;
/** How often the slot was claimed: tells the present worker of the slot from an earlier one of the same thread. */
export const W_TERM = 6;
/** While DEAD: the worker that marked it and recovers it; 0: none, any worker does. */
export const W_WITNESS = 7;
const SLOT_WORDS = 8;

// States of a slot.
export const NO_WORKER = 0;
export const ATTACHED = 1;
/** Its thread ended; its blocks and tickets are not recovered yet. */
export const DEAD = 2;
/** It ended or left, and what it had handed out stays so until it is reclaimed. */
export const LOST = 3;
/** This and the thread's number: about to attach. */
export const CLAIMED = 16;

/** Word of a block that worker `w` handed out. */
export function markOf(w: number): number {
  return -16 - w;
}

const FLIGHT_BASE = 128;

/** Giver and nonce of a transfer, as one small integer: 24 bits of nonce, 6 of the giver. */
export function wayOf(giver: number, nonce: number): number {
  return nonce * WORKER_RANGE + giver;
}

export function giverOf(way: number): number {
  return way & (WORKER_RANGE - 1);
}

const WORKER_RANGE = 64;

/** Word of a block in transit. */
export function flightOf(way: number): number {
  return -FLIGHT_BASE - way;
}

/** The way that the word of a block in transit names. */
export function wayOfFlight(word: number): number {
  return -FLIGHT_BASE - word;
}

/** The worker that a word names, 0 for the word of a free block. */
export function holderOf(word: number): number {
  if (word > -16) return 0;
  return word > -FLIGHT_BASE ? -16 - word : giverOf(wayOfFlight(word));
}

/** True for the word of a block in transit. */
export function isFlight(word: number): boolean {
  return word <= -FLIGHT_BASE;
}

/** Owner of a block in transit, and no worker's number: the word alone says whose it is. */
export const NO_OWNER = 255;

/** Int32 index of a worker's slot. */
export function slotAt(w: number): number {
  return HEADER_WORDS + (w - 1) * SLOT_WORDS;
}

const TICKETS_AT: number = HEADER_WORDS + MAX_WORKERS * SLOT_WORDS;

/** Int32 index of a ticket: the worker that holds it, 0 if it was given up or served. */
export function ticketAt(ticket: number): number {
  return TICKETS_AT + (ticket % MAX_TICKETS);
}

/** Most parent/child pairs of living threads that are recorded at one time. */
export const MAX_KIN = 1024;
const KIN_AT: number = TICKETS_AT + MAX_TICKETS;

/** Int32 index of a pair: a thread's number (0: the entry is free), and that of the thread that made it. */
export function kinAt(n: number): number {
  return KIN_AT + n * 2;
}

const WORDS_AT: number = KIN_AT + MAX_KIN * 2;

/** The views of a control block. */
export interface Control {
  readonly buffer: SharedArrayBuffer;
  readonly header: Int32Array<SharedArrayBuffer>;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly owners: Uint8Array<SharedArrayBuffer>;
}

/** Makes a control block for a pool of at most `maxBlocks` blocks on `maxPages` pages. */
export function createControl(maxBlocks: number, perPage: number, maxPages: number): Control {
  const blocks = maxPages * perPage;
  const buffer = new SharedArrayBuffer(bytesFor(blocks));
  const header = new Int32Array(buffer, 0, WORDS_AT);
  header[H_VERSION] = VERSION;
  header[H_MAX_BLOCKS] = maxBlocks;
  header[H_PER_PAGE] = perPage;
  header[H_MAX_PAGES] = maxPages;
  header[H_DEPOT] = -1;
  return viewsOf(buffer, blocks);
}

/** The views of a control block that came from another worker. @throws {@link DmaArgumentError} if it is none of ours. */
export function attachControl(buffer: unknown): Control {
  if (!isShared(buffer) || buffer.byteLength < WORDS_AT * 4) {
    throw new DmaArgumentError('handle', buffer, 'SharedPool.handle, as it came through postMessage');
  }
  const header = new Int32Array(buffer, 0, WORDS_AT);
  if (header[H_VERSION] !== VERSION) {
    throw new DmaArgumentError('handle version', header[H_VERSION], `${String(VERSION)}; use one version of dmapool`);
  }
  const blocks = header[H_MAX_PAGES]! * header[H_PER_PAGE]!;
  if (blocks < 0 || buffer.byteLength < bytesFor(blocks)) {
    throw new DmaArgumentError('handle: control', buffer, 'SharedPool.handle, as it came through postMessage');
  }
  return viewsOf(buffer, blocks);
}

/** Bytes of a control block for so many blocks. */
function bytesFor(blocks: number): number {
  return (WORDS_AT + blocks) * 4 + blocks;
}

function viewsOf(buffer: SharedArrayBuffer, blocks: number): Control {
  return {
    buffer,
    header: new Int32Array(buffer, 0, WORDS_AT),
    words: new Int32Array(buffer, WORDS_AT * 4, blocks),
    owners: new Uint8Array(buffer, (WORDS_AT + blocks) * 4, blocks),
  };
}

/** True for shared memory; false where the runtime has none. */
export function isShared(buffer: unknown): buffer is SharedArrayBuffer {
  // The name itself is missing in a web page without cross-origin isolation.
  return typeof SharedArrayBuffer === 'function' && isInstance(buffer, SharedArrayBuffer);
}
