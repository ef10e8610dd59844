/** Blocks that go from worker to worker, their tickets through a ring. */
import { BULK, type Geometry } from '../../src/cli/speed.ts';
import type { DmaPool } from '../../src/index.ts';
import { type SharedPool, sharePool } from '../../src/shared/index.ts';
import { waitUntil } from './meeting.ts';

/** Tickets that fit: a quarter of the pipeline's blocks. A power of two. */
export const RING_CAPACITY = 1024;

// Int32 indices of the two positions: on cache lines of their own, and not on neighbouring ones, which CPUs fetch in pairs.
const WRITTEN = 0;
const READ = 32;
const POSITION_WORDS = 64;

/** The memory of a ring: one thread writes tickets, another reads them. */
export function createRing(): SharedArrayBuffer {
  return new SharedArrayBuffer(POSITION_WORDS * 4 + RING_CAPACITY * 8);
}

class RingEnd {
  protected readonly positions: Int32Array<SharedArrayBuffer>;
  protected readonly tickets: Float64Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer) {
    this.positions = new Int32Array(buffer, 0, POSITION_WORDS);
    this.tickets = new Float64Array(buffer, POSITION_WORDS * 4, RING_CAPACITY);
  }
}

/** The end that tickets go in at. */
export class RingWriter extends RingEnd {
  #written = 0;
  /** How far the reader was when last looked at: no need to look again while there is room by that. */
  #read = 0;

  /** Puts `count` tickets in; waits while the ring is full. */
  write(tickets: Float64Array, count: number): void {
    const written = this.#written;
    const end = (written + count) | 0;
    if (((end - this.#read) | 0) > RING_CAPACITY) this.#read = waitUntil(this.positions, READ, end - RING_CAPACITY);
    for (let i = 0; i < count; i++) this.tickets[(written + i) & (RING_CAPACITY - 1)] = tickets[i]!;
    this.#written = end;
    Atomics.store(this.positions, WRITTEN, end);
  }
}

/** The end that tickets come out of. */
export class RingReader extends RingEnd {
  #read = 0;
  #written = 0;

  /** Takes `count` tickets out; waits until there are so many. */
  read(into: Float64Array, count: number): void {
    const read = this.#read;
    const end = (read + count) | 0;
    if (((this.#written - end) | 0) < 0) this.#written = waitUntil(this.positions, WRITTEN, end);
    for (let i = 0; i < count; i++) into[i] = this.tickets[(read + i) & (RING_CAPACITY - 1)]!;
    this.#read = end;
    Atomics.store(this.positions, READ, end);
  }
}

/** Blocks that go together: one ticket at a time, or as many as a bulk call of {@link BULK} takes. */
export type Batch = 1 | typeof BULK;
export const BATCHES: readonly Batch[] = [1, BULK];

export const PIPELINE_GEOMETRY: Geometry = { size: 64, align: 64, boundary: 0 };
/** Blocks of the pipeline's pool: what the ring holds, and what two workers keep at hand. */
export const PIPELINE_BLOCKS = 4096;
/** Blocks in one call of {@link give} or {@link take}: few, for the reason that warmUp in src/cli/speed.ts gives. */
export const PIPELINE_CALL: number = BULK;

/** One worker's side of the pipeline; what it needs is made before the clock starts. */
export interface PipelineSide {
  readonly pool: DmaPool;
  readonly shared: SharedPool;
  readonly writer: RingWriter;
  readonly reader: RingReader;
  readonly indices: Int32Array;
  readonly tickets: Float64Array;
}

export function createSide(pool: DmaPool, ring: SharedArrayBuffer): PipelineSide {
  return {
    pool,
    shared: sharePool(pool),
    writer: new RingWriter(ring),
    reader: new RingReader(ring),
    indices: new Int32Array(BULK),
    tickets: new Float64Array(BULK),
  };
}

/** Both halves handle {@link PIPELINE_CALL} blocks. */
export type Half = (side: PipelineSide) => void;

function giveSingly({ pool, shared, writer, tickets }: PipelineSide): void {
  for (let i = 0; i < PIPELINE_CALL; i++) {
    tickets[0] = shared.transferIndex(pool.allocIndex());
    writer.write(tickets, 1);
  }
}

function takeSingly({ pool, shared, reader, tickets }: PipelineSide): void {
  for (let i = 0; i < PIPELINE_CALL; i++) {
    reader.read(tickets, 1);
    pool.freeIndex(shared.acceptIndex(tickets[0]!));
  }
}

function giveBulk({ pool, shared, writer, indices, tickets }: PipelineSide): void {
  pool.allocIndexBulk(indices, BULK);
  shared.transferIndexBulk(indices, tickets, BULK);
  writer.write(tickets, BULK);
}

function takeBulk({ pool, shared, reader, indices, tickets }: PipelineSide): void {
  reader.read(tickets, BULK);
  shared.acceptIndexBulk(tickets, indices, BULK);
  pool.freeIndexBulk(indices, BULK);
}

/** What the first worker does, and what the second. */
export const HALVES: Readonly<Record<Batch, Readonly<Record<'give' | 'take', Half>>>> = {
  1: { give: giveSingly, take: takeSingly },
  32: { give: giveBulk, take: takeBulk },
};
