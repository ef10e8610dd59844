/**
 * A holder of blocks of a shared pool. It claims each allocated block by compareExchange in a table that all holders share,
 * and drops the claim before the free, so that two holders of one block are detected at once.
 *
 *     claims[index] = 0: free | life: held by that holder | -life: in transit from that holder
 */
import { DmaError } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { isAllocated } from '../support/pools.ts';
import type { Random } from '../support/random.ts';
import { allocIndex, allocIndices, type Shared, waitForIndex } from './shared-api.ts';

export class Violation extends Error {}

/** Tables that all holders share. */
export interface Ground {
  readonly claims: Int32Array<SharedArrayBuffer>;
  /** 1 while the holder is alive. */
  readonly lives: Int32Array<SharedArrayBuffer>;
  /** Tickets in transit; 0: empty. */
  readonly mail: BigInt64Array<SharedArrayBuffer>;
  /** Holders may exit during a call, which leaves claims behind. */
  readonly deadly: boolean;
  /** Value of every byte of a newly allocated block; -1: any. */
  readonly fresh: number;
}

/** Codes with which a call may fail while others hold the blocks. */
const REFUSALS = ['ERR_DMAPOOL_TIMEOUT', 'ERR_DMAPOOL_DESTROYED', 'ERR_DMAPOOL_LIMIT'];
/** Maximum blocks that a holder keeps. */
const MOST_HELD = 24;

export function isRefusal(error: unknown, ...more: readonly string[]): boolean {
  return error instanceof DmaError && [...REFUSALS, ...more].includes(error.code);
}

export class Actor {
  readonly pool: Shared;
  readonly life: number;
  readonly held: number[] = [];
  /** Tickets of this holder's transfers, accepted or not. */
  readonly #sent = new Set<number>();
  operations = 0;
  readonly #ground: Ground;
  readonly #random: Random;
  readonly #scratch = new Int32Array(16);
  readonly #tickets = new Float64Array(16);

  constructor(pool: Shared, life: number, ground: Ground, random: Random) {
    this.pool = pool;
    this.life = life;
    this.#ground = ground;
    this.#random = random;
    Atomics.store(ground.lives, life, 1);
  }

  /** Makes a random call. Returns a promise if it waits. */
  act(): void | Promise<void> {
    this.operations++;
    const random = this.#random;
    const dice = random.below(100);
    if (dice < 26) this.#take(allocIndex(this.pool), 'pool');
    else if (dice < 50) this.freeOne();
    else if (dice < 60) this.#takeMany();
    else if (dice < 68) this.#freeMany();
    else if (dice < 76) this.#send();
    else if (dice < 86) this.#receive();
    else if (dice < 92) this.#freeAnother();
    else if (dice < 94) this.#acceptNothing();
    else if (dice < 96) this.#look();
    else if (dice < 97) return this.#wait();
    while (this.held.length > MOST_HELD) this.freeOne();
    return undefined;
  }

  /** Accepts its own tickets that no other holder accepted: a holder may have exited with one. */
  recall(): void {
    for (const ticket of this.#sent) this.accept(ticket);
    this.#sent.clear();
  }

  /** Frees all held blocks. */
  freeAll(): void {
    while (this.held.length > 0) this.freeOne();
  }

  #words(index: number): Int32Array {
    const bytes = this.pool.bytesOf(index);
    return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
  }

  #take(index: number, from: 'pool' | 'mail'): void {
    if (index < 0) return;
    const { claims, lives, deadly, fresh } = this.#ground;
    const claim = Atomics.load(claims, index);
    const by = `block ${String(index)} came from the ${from} to ${String(this.life)}`;
    if (claim > 0 && Atomics.load(lives, claim) === 1) throw new Violation(`${by}, but is held by ${String(claim)}`);
    if (!deadly && from === 'pool' && claim < 0) throw new Violation(`${by}, but is in transit from ${String(-claim)}`);
    if (!deadly && from === 'mail' && claim >= 0) throw new Violation(`${by}, but was not in transit`);
    if (Atomics.compareExchange(claims, index, claim, this.life) !== claim) {
      throw new Violation(`${by}, and to another holder at the same time`);
    }
    if (this.held.includes(index)) throw new Violation(`${by}, which holds it already`);
    const words = this.#words(index);
    if (from === 'mail' && words[1] !== index) throw new Violation(`${by} without its content`);
    if (from === 'pool' && fresh >= 0) {
      const wrong = this.pool.bytesOf(index).findIndex((byte) => byte !== fresh);
      if (wrong >= 0) throw new Violation(`${by} with byte ${String(wrong)} not ${String(fresh)}`);
    }
    words[0] = this.life;
    words[1] = index;
    words[words.length - 1] = this.life;
    this.held.push(index);
  }

  /** Removes a random held block, and replaces its claim by `claim`. */
  #put(claim: number): number {
    const at = this.#random.below(this.held.length);
    const index = this.held[at]!;
    this.held[at] = this.held.at(-1)!;
    this.held.pop();
    const words = this.#words(index);
    if (words[0] !== this.life || words[1] !== index || words.at(-1) !== this.life) {
      throw new Violation(`block ${String(index)} of ${String(this.life)} was written to by ${String(words[0])}`);
    }
    const found = Atomics.compareExchange(this.#ground.claims, index, this.life, claim);
    if (found !== this.life) {
      throw new Violation(`block ${String(index)} of ${String(this.life)} was claimed by ${String(found)}`);
    }
    return index;
  }

  /** Runs a call that frees or transfers blocks, which must not fail. */
  #giving(what: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      throw new Violation(`${what} failed: ${String(error)}`, { cause: error });
    }
  }

  freeOne(): void {
    if (this.held.length === 0) return;
    const index = this.#put(0);
    this.#giving(`the free of block ${String(index)} by its holder ${String(this.life)}`, () => {
      this.pool.freeIndex(index);
    });
  }

  #takeMany(): void {
    const count = 1 + this.#random.below(12);
    if (!allocIndices(this.pool, this.#scratch, count)) return;
    for (let i = 0; i < count; i++) this.#take(this.#scratch[i]!, 'pool');
  }

  #freeMany(): void {
    const count = Math.min(this.held.length, this.#random.below(12));
    for (let i = 0; i < count; i++) this.#scratch[i] = this.#put(0);
    this.#giving('a bulk free by the holder', () => {
      this.pool.freeIndexBulk(this.#scratch, count);
    });
  }

  #send(): void {
    const count = Math.min(this.held.length, 1 + this.#random.below(4));
    for (let i = 0; i < count; i++) this.#scratch[i] = this.#put(-this.life);
    this.#giving('a transfer by the holder', () => {
      sharePool(this.pool).transferIndexBulk(this.#scratch, this.#tickets, count);
    });
    for (let i = 0; i < count; i++) this.#post(this.#tickets[i]!);
  }

  #post(ticket: number): void {
    this.#sent.add(ticket);
    const { mail } = this.#ground;
    const other = Number(Atomics.exchange(mail, this.#random.below(mail.length), BigInt(ticket)));
    // This holder took the ticket that was there before.
    if (other !== 0) this.accept(other);
  }

  #receive(): void {
    const { mail } = this.#ground;
    const ticket = Number(Atomics.exchange(mail, this.#random.below(mail.length), 0n));
    if (ticket !== 0) this.accept(ticket);
  }

  /** Accepts the block of a ticket from the mail. */
  accept(ticket: number): void {
    let index: number;
    try {
      if (this.#random.chance(0.3)) {
        this.#tickets[0] = ticket;
        sharePool(this.pool).acceptIndexBulk(this.#tickets, this.#scratch, 1);
        index = this.#scratch[0]!;
      } else {
        index = sharePool(this.pool).acceptIndex(ticket);
      }
    } catch (error) {
      // The giver may have exited or destroyed its pool.
      if (error instanceof DmaError && error.code === 'ERR_DMAPOOL_BAD_TICKET') return;
      throw error;
    }
    this.#take(index, 'mail');
    this.#refusesTicket(ticket, 'a ticket that was accepted');
  }

  #refusesTicket(ticket: number, what: string): void {
    try {
      sharePool(this.pool).acceptIndex(ticket);
    } catch (error) {
      if (error instanceof DmaError) return;
      throw error;
    }
    throw new Violation(`${what} was accepted`);
  }

  #acceptNothing(): void {
    const random = this.#random;
    this.#refusesTicket(
      random.pick([0, -1, 1, 2 ** 53 - 1, NaN, random.below(2 ** 20)]),
      'a ticket without a transfer',
    );
  }

  /** Tries to free a block that it does not hold. */
  #freeAnother(): void {
    const index = this.#random.below(this.#ground.claims.length);
    if (this.held.includes(index)) return;
    try {
      if (this.#random.chance(0.5)) this.pool.freeIndex(index);
      else this.pool.freeIndexBulk(Int32Array.of(index));
    } catch (error) {
      if (error instanceof DmaError) return;
      throw error;
    }
    throw new Violation(`block ${String(index)} was freed by ${String(this.life)}, which does not hold it`);
  }

  #look(): void {
    const { active, blocks, quarantined, corrupted } = this.pool.statistics();
    if (active > this.pool.maxBlocks || active > blocks)
      throw new Violation(`${String(active)} active of ${String(blocks)} blocks`);
    if (corrupted > 0 || quarantined > 0) throw new Violation('a block is reported as corrupted');
    for (const index of this.held)
      if (!isAllocated(this.pool, index))
        throw new Violation(`block ${String(index)} is held, but isAllocated() is false`);
  }

  async #wait(): Promise<void> {
    try {
      this.#take(await waitForIndex(this.pool, 1 + this.#random.below(4)), 'pool');
    } catch (error) {
      if (!isRefusal(error)) throw error;
    }
  }
}
