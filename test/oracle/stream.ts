/**
 * Generates a stream of operations from a seed. `module/stream.c` is the same generator: both draw the same random numbers
 * in the same order.
 */
import { ANYWHERE, MAX_BLOCKS, type Operation, SLOTS } from './operation.ts';

/** The generator's view of the pools after the operations so far. */
export interface PoolsView {
  /** Returns whether the slot has a pool. */
  used(slot: number): boolean;
  /** Returns the number of allocated blocks of its pool. */
  blocks(slot: number): number;
  /** Returns the arguments of its pool. */
  argumentsOf(slot: number): { readonly size: number; readonly align: number };
}

/** Limit of the allocated bytes of one pool in a stream. */
const ROOM_BYTES = 2 ** 21;
const NAME_CHARACTERS = 'abcdefghijklmnopqrstuvwxyz 0-_A';
const GOLDEN = 0x9e3779b1;

/** A stream of operations. */
export class Stream {
  /** Number of slots in use. In one stream of eight, the pools exceed the length of the `pools` text. */
  readonly slots: number;
  readonly #view: PoolsView;
  #state: number;
  /**
   * The phase: for `left` operations, `bias` of 8 are allocs, and frees follow `order`. Operations are in slot `focus`, or in
   * all slots if `focus` equals `slots`.
   */
  #left = 0;
  #bias = 0;
  #order = 0;
  #focus = 0;

  constructor(seed: number, view: PoolsView) {
    this.#view = view;
    this.#state = (Math.imul(seed, GOLDEN) ^ 0x5bd1e995) >>> 0 || 1;
    this.slots = seed % 8 === 0 ? SLOTS : 16;
  }

  next(): Operation {
    if (this.#left-- === 0) this.#nextPhase();
    const slot = this.#focus === this.slots ? this.#below(this.slots) : this.#focus;
    const chance = this.#below(256);
    if (chance === 0) return { kind: 'text' };
    if (chance === 1) return { kind: 'refuse', count: this.#below(4) };
    if (!this.#view.used(slot)) return this.#create(slot);
    const blocks = this.#view.blocks(slot);
    if (chance < 5) {
      if (blocks > 0 && this.#below(8) !== 0) return this.#free(slot, blocks);
      return { kind: 'destroy', slot };
    }
    const count = this.#below(8) === 0 ? 1 + this.#below(16) : 1;
    if (this.#below(8) < this.#bias && blocks + count <= this.#room(slot)) {
      return { kind: 'alloc', slot, flags: this.#below(4), count };
    }
    return this.#free(slot, count);
  }

  /** Returns the operations at the end of a stream: they destroy all pools and read the text, which must be gone. */
  end(): Operation[] {
    const destroys = Array.from({ length: this.slots }, (_, slot): Operation => ({ kind: 'destroy', slot }));
    return [...destroys, { kind: 'text' }];
  }

  #free(slot: number, count: number): Operation {
    const order = this.#order;
    return { kind: 'free', slot, order, count, position: order === ANYWHERE ? this.#below(MAX_BLOCKS) : 0 };
  }

  #room(slot: number): number {
    const { size, align } = this.#view.argumentsOf(slot);
    const room = Math.min(Math.floor(ROOM_BYTES / Math.max(size, align, 16)), MAX_BLOCKS);
    return Math.max(this.slots < SLOTS ? room : room >> 3, 1);
  }

  #nextPhase(): void {
    this.#left = this.#below(256);
    this.#bias = 1 + this.#below(7);
    this.#order = this.#below(3);
    this.#focus = this.#below(2) === 0 ? this.slots : this.#below(this.slots);
  }

  #create(slot: number): Operation {
    const size = this.#size();
    let align = 0;
    if (this.#below(2) !== 0) align = this.#below(4) !== 0 ? this.#power(8) : this.#power(19);
    if (this.#below(32) === 0) align = 1 + this.#below(100);
    let boundary = 0;
    if (this.#below(2) !== 0) boundary = 16 * this.#power(15);
    if (this.#below(32) === 0) boundary = 1 + this.#below(5000);
    let length = 1;
    length += this.#below(8) !== 0 ? this.#below(16) : this.#below(40);
    let name = '';
    for (let i = 0; i < length; i++) name += NAME_CHARACTERS[this.#below(31)]!;
    return { kind: 'create', slot, size, align, boundary, name };
  }

  #size(): number {
    switch (this.#below(4)) {
      case 0:
        return 1 + this.#below(64);
      case 1:
        return 1 + this.#below(4096);
      case 2:
        return this.#power(18) + this.#below(3);
      default:
        return 32 * this.#power(8);
    }
  }

  #below(limit: number): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return Math.floor(((Math.imul(state, GOLDEN) >>> 0) * limit) / 2 ** 32);
  }

  #power(limit: number): number {
    return 2 ** this.#below(limit);
  }
}
