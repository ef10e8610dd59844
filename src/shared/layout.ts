/**
 * The control block of a shared pool: one SharedArrayBuffer for all workers.
 *
 *     int32 words   header | worker slots | wait tickets | parent/child threads | words: one per block
 *     bytes         owners: one per block
 *
 * A block's word and owner byte determine where it belongs at every moment, so a worker may be killed between any two
 * stores. The hot path reads and writes the word only. The owner byte is written under the lock, or by the worker that
 * has the block allocated.
 *
 *     word                 owner      the block is
 *     next or EMPTY        0          in the depot
 *     next or EMPTY        w          in the magazine of worker w
 *     markOf(w)            any        allocated by worker w; the owner is set to w before w can free it
 *     flightOf(id)         NO_OWNER   in transit from worker giverOf(id)
 *     QUARANTINED, ABSENT  any        in quarantine; beyond the pool's limit
 *
 * While the lock is free:
 *
 *     H_DEPOT_COUNT = length of the list from H_DEPOT = blocks < H_CARVED with owner = 0 and word >= EMPTY
 *     H_CARVED <= H_PAGES * H_PER_PAGE, H_PAGES <= H_MAX_PAGES
 *     H_TICKET_NEXT - H_TICKET_HEAD <= MAX_TICKETS (mod 2^30)
 */
import { DmaArgumentError } from '../errors.ts';
import { isInstance } from '../arguments.ts';

/** Number of worker slots; workers are numbered from 1 to this. */
export const MAX_WORKERS = 62;
/** Maximum blocks of a shared pool: a ticket has 23 bits for the index. */
export const MAX_SHARED_BLOCKS: number = 2 ** 23;
/** Maximum waiters at one time, in all workers. */
export const MAX_TICKETS = 4096;

/** First word of a control block. Change it with the layout. */
export const VERSION = 0x444d_4103;

// Int32 indices in the header.
export const H_VERSION = 0;
/** Number of the worker that holds the lock; 0: free. */
export const H_LOCK = 1;
/** Workers parked on the lock. */
export const H_SLEEPERS = 2;
/** 0 while the pool is open, then DESTROYED. */
export const H_STATE = 3;
export const H_MAX_BLOCKS = 4;
export const H_PER_PAGE = 5;
/** Open pages: always the first ones. */
export const H_PAGES = 6;
/** Maximum pages; all are allocated. */
export const H_MAX_PAGES = 7;
/** Carved blocks: always the first ones. */
export const H_CARVED = 8;
/** First block of the depot, or EMPTY. */
export const H_DEPOT = 9;
export const H_DEPOT_COUNT = 10;
/** Event counter, incremented when other workers must act: a new waiter, a request for idle blocks, an exit, a destroy. */
export const H_EVENTS = 11;
/** Event counter, incremented when a waiter may be served: blocks in the depot, or a change at the head of the queue. */
export const H_SUPPLY = 12;
/** Next wait ticket to issue, and head of the queue, the first ticket not served; both modulo 2^30. */
export const H_TICKET_NEXT = 13;
export const H_TICKET_HEAD = 14;
export const H_FAILURES = 15;
export const H_WAITS = 16;
/** Allocations of detached and recovered workers, in two words of 30 bits. */
export const H_PAST = 17;
export const H_PAST_HIGH = 18;
/** Highest value of (carved blocks outside the depot - free blocks in the magazine of the worker that updates it). */
export const H_HIGH_WATER = 19;
export const H_QUARANTINED = 20;
export const H_CORRUPTED = 21;
/** Counts requests for the idle blocks of magazines by calls that do not wait. */
export const H_IDLE_REQUESTS = 22;
/** Entries of the table of parent/child threads that were ever used: always the first ones. */
export const H_THREAD_PAIRS = 23;
/** Live threads whose parent is not recorded, because that table was full. */
export const H_UNRECORDED = 24;
/** Histogram of wait times: one word per bucket, then the sum in microseconds in two words of 30 bits. See wait-times.ts. */
export const H_WAIT_TIMES = 25;
export const WAIT_BUCKETS = 12;
const HEADER_WORDS: number = H_WAIT_TIMES + WAIT_BUCKETS + 2;

export const DESTROYED = 1;

// Int32 indices in a worker's slot.
export const W_STATE = 0;
/** The thread's number; see `currentThread` in threads.ts. */
export const W_THREAD = 1;
/** Number of its last transfer. Continues when the slot is reused, so that tickets stay unique. */
export const W_NONCE = 2;
/** Free blocks in its magazine, at its last slow call. */
export const W_IDLE = 3;
/** Its allocations, in two words of 30 bits, at its last slow call. */
export const W_ALLOCATIONS = 4;
export const W_ALLOCATIONS_HIGH = 5;
/** Number of claims of the slot: distinguishes its worker from earlier ones, also of the same thread. */
export const W_TERM = 6;
/** While DEAD: the worker that marked it dead and recovers it; 0: any worker. */
export const W_WITNESS = 7;
const SLOT_WORDS = 8;

// States of a slot.
export const NO_WORKER = 0;
export const ATTACHED = 1;
/** Its thread exited; its blocks and tickets are not recovered yet. */
export const DEAD = 2;
/** It exited or detached; the blocks that it had allocated stay allocated until they are reclaimed. */
export const LOST = 3;
/** This plus the thread's number: the thread is attaching. */
export const CLAIMED = 16;

/** Word of a block that worker `w` has allocated. */
export function markOf(w: number): number {
  return -16 - w;
}

const FLIGHT_BASE = 128;

/** Transfer id: 24 bits of nonce, 6 bits of the giver, as one small integer. */
export function transferIdOf(giver: number, nonce: number): number {
  return nonce * WORKER_RANGE + giver;
}

export function giverOf(id: number): number {
  return id & (WORKER_RANGE - 1);
}

const WORKER_RANGE = 64;

/** Word of a block in transit. */
export function flightOf(id: number): number {
  return -FLIGHT_BASE - id;
}

/** Transfer id in the word of a block in transit. */
export function idOfFlight(word: number): number {
  return -FLIGHT_BASE - word;
}

/** The worker that has the block allocated or gave it; 0 for any other word. */
export function holderOf(word: number): number {
  if (word > -16) return 0;
  return word > -FLIGHT_BASE ? -16 - word : giverOf(idOfFlight(word));
}

/** True for the word of a block in transit. */
export function isFlight(word: number): boolean {
  return word <= -FLIGHT_BASE;
}

/** Owner of a block in transit; no worker has this number. */
export const NO_OWNER = 255;

/** Int32 index of a worker's slot. */
export function slotAt(w: number): number {
  return HEADER_WORDS + (w - 1) * SLOT_WORDS;
}

const TICKETS_AT: number = HEADER_WORDS + MAX_WORKERS * SLOT_WORDS;

/** Int32 index of a wait ticket: the worker that holds it; 0: served or dropped. */
export function ticketAt(ticket: number): number {
  return TICKETS_AT + (ticket % MAX_TICKETS);
}

/** Maximum parent/child pairs of live threads. */
export const MAX_THREAD_PAIRS = 1024;
const THREAD_PAIRS_AT: number = TICKETS_AT + MAX_TICKETS;

/** Int32 index of a pair: a thread's number (0: the entry is free), and its parent's number. */
export function threadPairAt(n: number): number {
  return THREAD_PAIRS_AT + n * 2;
}

const WORDS_AT: number = THREAD_PAIRS_AT + MAX_THREAD_PAIRS * 2;

/** The views of a control block. */
export interface Control {
  readonly buffer: SharedArrayBuffer;
  readonly header: Int32Array<SharedArrayBuffer>;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly owners: Uint8Array<SharedArrayBuffer>;
}

/** Creates a control block for a pool of at most `maxBlocks` blocks in `maxPages` pages. */
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

/** The views of a control block from another worker. @throws {@link DmaArgumentError} for any other buffer. */
export function attachControl(buffer: unknown): Control {
  if (!isShared(buffer) || buffer.byteLength < WORDS_AT * 4) {
    throw new DmaArgumentError('handle', buffer, 'a SharedPool.handle received through postMessage');
  }
  const header = new Int32Array(buffer, 0, WORDS_AT);
  if (header[H_VERSION] !== VERSION) {
    throw new DmaArgumentError('handle version', header[H_VERSION], `${String(VERSION)}; use one version of dmapool`);
  }
  const blocks = header[H_MAX_PAGES]! * header[H_PER_PAGE]!;
  if (blocks < 0 || buffer.byteLength < bytesFor(blocks)) {
    throw new DmaArgumentError('handle: control', buffer, 'a SharedPool.handle received through postMessage');
  }
  return viewsOf(buffer, blocks);
}

/** Size in bytes of a control block for `blocks` blocks. */
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

/** True for a SharedArrayBuffer; false where the runtime has none. */
export function isShared(buffer: unknown): buffer is SharedArrayBuffer {
  // A web page without cross-origin isolation has no SharedArrayBuffer.
  return typeof SharedArrayBuffer === 'function' && isInstance(buffer, SharedArrayBuffer);
}
