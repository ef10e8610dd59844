/**
 * Worker program of the soak and of the death tests: allocates, frees, transfers, accepts and waits at random, alone
 * and in bulk, and writes its stamp into every block it holds, which nobody else may change meanwhile.
 */
import { parentPort, threadId, workerData } from 'node:worker_threads';
import { Device, DmaError } from 'dmapool';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';
import { RecordingLog } from '../support/log.ts';
import { tryAllocIndexBulk } from '../support/pools.ts';
import { Random } from '../support/random.ts';

export interface HammerOptions {
  readonly handle: SharedPoolHandle;
  /** Number of this worker's life, from 1 up, never used again. */
  readonly life: number;
  /** Tickets on their way, 0: an empty place. Anybody may take any. */
  readonly mail: BigInt64Array<SharedArrayBuffer>;
  /** [0]: 1 when all are to end; from 1 up: 1 while that life lasts. */
  readonly lives: Int32Array<SharedArrayBuffer>;
}

/** What a worker says. */
export type HammerMessage = { readonly running: number } | { readonly done: number } | { readonly violation: string };

const { handle, life, mail, lives } = workerData as HammerOptions;
const shared = attachPool(handle, { device: new Device({ name: 'nic', log: new RecordingLog() }) });
const { pool } = shared;
const bytes = new Map<number, Int32Array>();
const held: number[] = [];
/** Tickets that this worker gave, oldest first: who took one may have died before it accepted. */
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
    if (block === null) throw new Violation(`block ${String(index)} was taken, but is not out`);
    words = new Int32Array(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength / 4);
    bytes.set(index, words);
  }
  return words;
}

/** Takes a block into the hands; `from` says what its stamp may be. */
function take(index: number, from: 'pool' | 'mail'): void {
  if (held.includes(index)) throw new Violation(`block ${String(index)} came twice to life ${String(life)}`);
  const words = wordsOf(index);
  const stamp = words[0]!;
  // A life that ended may have left its stamp behind, or on a block that it had just accepted the giver's.
  const alive = stamp > 0 && Atomics.load(lives, stamp) === 1;
  if (from === 'pool' && alive) {
    throw new Violation(
      `block ${String(index)} came from the pool to life ${String(life)}, but ${String(stamp)} has it`,
    );
  }
  if (from === 'mail' && (stamp >= 0 || words[1] !== index))
    throw new Violation(`block ${String(index)} came by mail without its content`);
  words[0] = life;
  words[1] = index;
  held.push(index);
}

/** A block from the hands, with its stamp checked: 0 is the stamp of a free block, -life of one on its way. */
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

/** False if the ticket is void: accepted already, or its giver is dead. */
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
  // Nobody hoards.
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
