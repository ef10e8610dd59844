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
