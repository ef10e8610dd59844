/** A pipeline: blocks pass from worker to worker, their tickets through a ring buffer. */
import { BULK, type Geometry } from '../../src/cli/speed.ts';
import type { DmaPool } from '../../src/index.ts';
import { type SharedPool, sharePool } from '../../src/shared/index.ts';
import { waitUntil } from './barrier.ts';

/** Capacity in tickets: a quarter of the pipeline's blocks. A power of two. */
export const RING_CAPACITY = 1024;

// Int32 indices of the two positions, on cache lines that are not adjacent: CPUs fetch adjacent lines in pairs.
const WRITTEN = 0;
const READ = 32;
const POSITION_WORDS = 64;

/** Creates the memory of a ring with one writer and one reader. */
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

/** The writing end of a ring. */
export class RingWriter extends RingEnd {
  #written = 0;
  /** The reader's position as last read; reread only when the ring seems full. */
  #read = 0;

  /** Writes `count` tickets. Waits while the ring is full. */
  write(tickets: Float64Array, count: number): void {
    const written = this.#written;
    const end = (written + count) | 0;
    if (((end - this.#read) | 0) > RING_CAPACITY) this.#read = waitUntil(this.positions, READ, end - RING_CAPACITY);
    for (let i = 0; i < count; i++) this.tickets[(written + i) & (RING_CAPACITY - 1)] = tickets[i]!;
    this.#written = end;
    Atomics.store(this.positions, WRITTEN, end);
  }
}

/** The reading end of a ring. */
export class RingReader extends RingEnd {
  #read = 0;
  #written = 0;

  /** Reads `count` tickets. Waits until there are enough. */
  read(into: Float64Array, count: number): void {
    const read = this.#read;
    const end = (read + count) | 0;
    if (((this.#written - end) | 0) < 0) this.#written = waitUntil(this.positions, WRITTEN, end);
    for (let i = 0; i < count; i++) into[i] = this.tickets[(read + i) & (RING_CAPACITY - 1)]!;
    this.#read = end;
    Atomics.store(this.positions, READ, end);
  }
}

/** Blocks that pass together: one, or a bulk of {@link BULK}. */
export type Batch = 1 | typeof BULK;
export const BATCHES: readonly Batch[] = [1, BULK];

export const PIPELINE_GEOMETRY: Geometry = { size: 64, align: 64, boundary: 0 };
/** Blocks of the pipeline's pool: the capacity of the ring, and the magazines of two workers. */
export const PIPELINE_BLOCKS = 4096;
/** Blocks of one call of a {@link Half}: few, as explained at warmUp in src/cli/speed.ts. */
export const PIPELINE_CALL: number = BULK;

/** One worker's side of the pipeline. Created before the clock starts. */
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

/** One half of the pipeline; a call handles {@link PIPELINE_CALL} blocks. */
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

/** The halves: `give` runs in the first worker, `take` in the second. */
export const HALVES: Readonly<Record<Batch, Readonly<Record<'give' | 'take', Half>>>> = {
  1: { give: giveSingly, take: takeSingly },
  32: { give: giveBulk, take: takeBulk },
};
