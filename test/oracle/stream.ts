/**
 * Operations from a seed. `module/stream.c` is the same generator, number for number: each draw of a random number there
 * is a draw here, in the same order.
 */
import { ANYWHERE, MOST_BLOCKS, type Operation, SLOTS } from './operation.ts';

/** What a generator looks at: the pools as they are after the operations so far. */
export interface PoolsView {
  /** Whether there is a pool in the slot. */
  used(slot: number): boolean;
  /** Blocks that it has out. */
  blocks(slot: number): number;
  /** Size and align that it was created with. */
  asked(slot: number): { readonly size: number; readonly align: number };
}

/** At most so many bytes are in a stream's blocks of one pool. */
const ROOM_BYTES = 2 ** 21;
const NAME_CHARACTERS = 'abcdefghijklmnopqrstuvwxyz 0-_A';
const GOLDEN = 0x9e3779b1;

/** One stream. */
export class Stream {
  /** Slots that it uses. One stream in eight has as many pools as the text has no room for. */
  readonly slots: number;
  readonly #view: PoolsView;
  #state: number;
  /** A phase: for `left` operations, allocs come `bias` times of 8, frees in `order`, in slot `focus` or in all. */
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

  /** What ends it: all pools are destroyed, and the attribute is gone. */
  end(): Operation[] {
    const destroys = Array.from({ length: this.slots }, (_, slot): Operation => ({ kind: 'destroy', slot }));
    return [...destroys, { kind: 'text' }];
  }

  #free(slot: number, count: number): Operation {
    const order = this.#order;
    return { kind: 'free', slot, order, count, position: order === ANYWHERE ? this.#below(MOST_BLOCKS) : 0 };
  }

  #room(slot: number): number {
    const { size, align } = this.#view.asked(slot);
    const room = Math.min(Math.floor(ROOM_BYTES / Math.max(size, align, 16)), MOST_BLOCKS);
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
