/** A memory source that fails at random, calls back at each of its calls, and checks what it is given back. */
import {
  type CoherentAllocator,
  type CoherentMemory,
  type CoherentRequest,
  type DmaTarget,
  HeapMemory,
  dmaBitMask,
} from 'dmapool';
import type { Random } from '../support/random.ts';

/** What a fuzz source throws: a user's own error, which passes through. */
export class SourceBroke extends Error {}

/** Calls during one operation after which it is taken for endless. */
const ENDLESS = 3000;

export interface SourceOptions {
  readonly limit: number;
  readonly pageSize: number;
  /** Share of calls that fail, 0 to 1. */
  readonly failing: number;
}

export class FuzzSource implements CoherentAllocator {
  readonly name: string = 'fuzz';
  readonly pageSize: number;
  /** Memory that is handed out, and to whom. */
  readonly live = new Map<CoherentMemory, DmaTarget>();
  /** What was broken, the first first. */
  readonly violations: string[] = [];
  /** Calls that did not give memory. */
  failed = 0;
  /** The user's code, at each call. */
  onCall: () => void = () => undefined;
  /** Called with memory that comes back; returns what is wrong with that, or null. */
  onBack: (memory: CoherentMemory) => string | null = () => null;
  readonly #heap: HeapMemory;
  readonly #random: Random;
  readonly #failing: number;
  #calls = 0;

  constructor(random: Random, { limit, pageSize, failing }: SourceOptions) {
    this.#heap = new HeapMemory({ limit, pageSize });
    this.pageSize = pageSize;
    this.#random = random;
    this.#failing = failing;
  }

  /** Bytes that the heap behind it counts as handed out. */
  get bytesInUse(): number {
    return this.#heap.bytesInUse;
  }

  /** An operation begins that is not nested in another one. */
  beginOperation(): void {
    this.#calls = 0;
  }

  #enter(): void {
    if (this.#calls++ > ENDLESS) {
      const message = `one operation makes more than ${String(ENDLESS)} calls of the memory source`;
      if (this.#calls === ENDLESS + 2) this.violations.push(message);
      throw new SourceBroke(message);
    }
    this.onCall();
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    this.#enter();
    if (this.#random.chance(this.#failing)) {
      this.failed++;
      if (this.#random.chance(0.5)) throw new SourceBroke('the source broke');
      return this.#random.chance(0.2) ? ({} as CoherentMemory) : null;
    }
    const refusable = this.#aboveMask(request);
    if (refusable !== null) {
      // No call from here: one that raises the mask would make it fit, at an address of another domain of the heap.
      this.live.set(refusable, request.device);
      return refusable;
    }
    let memory = this.#heap.allocCoherent(request);
    // A source under pressure asks its users to give memory back, and tries again.
    if (memory === null && this.#random.chance(0.5)) {
      this.onCall();
      memory = this.#heap.allocCoherent(request);
    }
    if (memory === null) {
      this.failed++;
      return null;
    }
    this.live.set(memory, request.device);
    if (this.#random.chance(0.3)) this.onCall();
    return memory;
  }

  /** Now and then memory that the device does not reach, which it must refuse. */
  #aboveMask(request: CoherentRequest): CoherentMemory | null {
    const { dmaMask, name } = request.device;
    if (!this.#random.chance(this.#failing / 4)) return null;
    const memory = this.#heap.allocCoherent({ ...request, device: { name, dmaMask: dmaBitMask(64) } });
    if (memory === null) return null;
    if (memory.dma > dmaMask) {
      this.failed++;
      return memory;
    }
    this.#heap.freeCoherent(memory);
    return null;
  }

  freeCoherent(memory: CoherentMemory): void {
    const device = this.live.get(memory);
    if (device === undefined) {
      // What it never gave, such as the {} above, may be offered by a device that found it wrong.
      if (typeof memory.dma === 'number') this.violations.push('memory was given back to the source twice');
      throw new SourceBroke('the source does not know this memory');
    }
    const wrong = this.onBack(memory);
    if (wrong !== null) this.violations.push(wrong);
    this.live.delete(memory);
    this.#heap.freeCoherent(memory);
    this.#enter();
    if (this.#random.chance(this.#failing / 2)) throw new SourceBroke('the source broke while freeing');
  }

  onceAvailable(listener: () => void): () => void {
    if (this.#random.chance(0.2)) this.onCall();
    return this.#heap.onceAvailable(listener);
  }

  /** Bytes at an address that a device sees, past all checks: what a faulty device does. */
  bytesAt(dma: number, length: number, device: DmaTarget): Uint8Array | null {
    for (const [memory, owner] of this.live) {
      if (owner !== device || dma < memory.dma || dma + length > memory.dma + memory.size) continue;
      return new Uint8Array(memory.buffer, memory.byteOffset + dma - memory.dma, length);
    }
    return null;
  }
}
