/**
 * Worker program of the soak test and the death tests. Allocates, frees, transfers, accepts and waits at random, single
 * blocks and in bulk, and stamps every block it holds. No other worker may change a stamped block.
 */
import { parentPort, threadId, workerData } from 'node:worker_threads';
import { Device, DmaError } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';
import { RecordingLog } from '../support/log.ts';
import { tryAllocIndexBulk } from '../support/pools.ts';
import { Random } from '../support/random.ts';

export interface HammerOptions {
  readonly handle: SharedPoolHandle;
  /** Number of this worker's life, from 1 up; never reused. */
  readonly life: number;
  /** Tickets in transit; 0 is an empty place. Every worker may take any ticket. */
  readonly mail: BigInt64Array<SharedArrayBuffer>;
  /** [0]: 1 when all workers must end; [n], n >= 1: 1 while life n lasts. */
  readonly lives: Int32Array<SharedArrayBuffer>;
}

/** A message of this worker. */
export type HammerMessage = { readonly running: number } | { readonly done: number } | { readonly violation: string };

const { handle, life, mail, lives } = workerData as HammerOptions;
const shared = attachPool(handle, { device: new Device({ name: 'nic', log: new RecordingLog() }) });
const { pool } = shared;
const bytes = new Map<number, Int32Array>();
const held: number[] = [];
/** Tickets that this worker issued, oldest first. A worker that took one may have died before it accepted it. */
const sent: number[] = [];
const scratch = new Int32Array(8);
const tickets = new Float64Array(8);
const random = new Random(life);
let turns = 0;

class Violation extends Error {}

function wordsOf(index: number): Int32Array {
  let words = bytes.get(index);
  if (words === undefined) {
    const block = pool.blockAt(pool.dmaOf(index));
    if (block === null) throw new Violation(`block ${String(index)} was allocated, but its word says it is free`);
    words = new Int32Array(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength / 4);
    bytes.set(index, words);
  }
  return words;
}

/** Adds a block to the held ones and checks its stamp; `from` selects the stamps that are allowed. */
function take(index: number, from: 'pool' | 'mail'): void {
  if (held.includes(index)) throw new Violation(`life ${String(life)} got block ${String(index)} twice`);
  const words = wordsOf(index);
  const stamp = words[0]!;
  // The stamp of an ended life may remain; on a block that the life had just accepted, the giver's may.
  const alive = stamp > 0 && Atomics.load(lives, stamp) === 1;
  if (from === 'pool' && alive) {
    throw new Violation(
      `block ${String(index)} came from the pool to life ${String(life)}, but ${String(stamp)} holds it`,
    );
  }
  if (from === 'mail' && (stamp >= 0 || words[1] !== index))
    throw new Violation(`block ${String(index)} was accepted without its content`);
  words[0] = life;
  words[1] = index;
  held.push(index);
}

/**
 * Removes a block at random from the held ones, checks its stamp and writes the new one: 0 for a free block, -life for
 * a block in transit.
 */
function put(stamp: number): number {
  const at = random.below(held.length);
  const index = held[at]!;
  held[at] = held[held.length - 1]!;
  held.pop();
  const words = wordsOf(index);
  if (words[0] !== life || words[1] !== index) {
    throw new Violation(`block ${String(index)} of life ${String(life)} was written by ${String(words[0])}`);
  }
  words[0] = stamp;
  return index;
}

/** False if the ticket is void: already accepted, or its giver is dead. */
function acceptOne(ticket: number): boolean {
  try {
    take(shared.acceptIndex(ticket), 'mail');
    return true;
  } catch (error) {
    if (error instanceof DmaError && error.code === 'ERR_DMAPOOL_BAD_TICKET') return false;
    throw error;
  }
}

function send(ticket: number): void {
  sent.push(ticket);
  const place = random.below(mail.length);
  const other = Atomics.exchange(mail, place, BigInt(ticket));
  if (other !== 0n) acceptOne(Number(other));
  if (sent.length > 16) acceptOne(sent.shift()!);
}

async function act(): Promise<void> {
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2: {
      const index = pool.tryAllocIndex();
      if (index >= 0) take(index, 'pool');
      break;
    }
    case 3:
    case 4:
      if (held.length > 0) pool.freeIndex(put(0));
      break;
    case 5:
      if (held.length > 0) send(shared.transferIndex(put(-life)));
      break;
    case 6: {
      const ticket = Number(Atomics.exchange(mail, random.below(mail.length), 0n));
      if (ticket !== 0) acceptOne(ticket);
      break;
    }
    case 7: {
      const count = 1 + random.below(8);
      if (tryAllocIndexBulk(pool, scratch, count)) for (let i = 0; i < count; i++) take(scratch[i]!, 'pool');
      break;
    }
    case 8: {
      const count = Math.min(held.length, 1 + random.below(8));
      for (let i = 0; i < count; i++) scratch[i] = put(0);
      if (random.below(2) === 0) {
        pool.freeIndexBulk(scratch, count);
      } else {
        for (let i = 0; i < count; i++) wordsOf(scratch[i]!)[0] = -life;
        shared.transferIndexBulk(scratch, tickets, count);
        for (let i = 0; i < count; i++) send(tickets[i]!);
      }
      break;
    }
    default:
      if (random.below(20) === 0) await waitForOne();
  }
  // Bounds the number of blocks that one worker holds.
  while (held.length > 24) pool.freeIndex(put(0));
}

async function waitForOne(): Promise<void> {
  try {
    take((await pool.allocWait({ timeout: 1 + random.below(4) })).index, 'pool');
  } catch (error) {
    if (!(error instanceof DmaError) || error.code !== 'ERR_DMAPOOL_TIMEOUT') throw error;
  }
}

function finish(): void {
  for (const ticket of sent) acceptOne(ticket);
  while (held.length > 0) pool.freeIndex(put(0));
  pool.destroy();
}

async function run(): Promise<void> {
  parentPort?.postMessage({ running: threadId } satisfies HammerMessage);
  while (Atomics.load(lives, 0) === 0) {
    for (let i = 0; i < 100; i++) await act();
    turns++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  finish();
  parentPort?.postMessage({ done: turns } satisfies HammerMessage);
}

run().catch((error: unknown) => {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  parentPort?.postMessage({ violation: text } satisfies HammerMessage);
});
