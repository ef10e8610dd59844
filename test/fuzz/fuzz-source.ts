/** A coherent allocator that fails at random, calls back from each of its methods, and checks what is freed. */
import {
  type CoherentAllocator,
  type CoherentMemory,
  type CoherentRequest,
  type DmaTarget,
  HeapMemory,
  dmaBitMask,
} from 'dmapool';
import type { Random } from '../support/random.ts';

/** The error that a fuzz source throws. It is not a `DmaError` and must reach the caller unchanged. */
export class SourceBroke extends Error {}

/** Maximum calls during one operation. */
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
  /** Live memory, with its device. */
  readonly live = new Map<CoherentMemory, DmaTarget>();
  /** Violations, oldest first. */
  readonly violations: string[] = [];
  /** Failed allocations. */
  failed = 0;
  /** Called in each method, as user code. */
  onCall: () => void = () => undefined;
  /** Called with memory to be freed; returns why it must not be freed, or null. */
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

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    return this.#heap.bytesInUse;
  }

  /** Starts an operation that is not nested in another one. */
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
      // No callback here: if it raised the mask, the device would accept this address of another IOMMU domain.
      this.live.set(refusable, request.device);
      return refusable;
    }
    let memory = this.#heap.allocCoherent(request);
    // Under memory pressure an allocator may let its users free memory, and retry.
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

  /** Sometimes returns memory above the device's mask, which the device must refuse. */
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
      // A device also frees invalid memory that it refused, such as the {} above.
      if (typeof memory.dma === 'number') this.violations.push('memory was freed twice');
      throw new SourceBroke('the source did not allocate this memory');
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

  /** Returns the bytes at a device's address without any check, for a faulty device. */
  bytesAt(dma: number, length: number, device: DmaTarget): Uint8Array | null {
    for (const [memory, owner] of this.live) {
      if (owner !== device || dma < memory.dma || dma + length > memory.dma + memory.size) continue;
      return new Uint8Array(memory.buffer, memory.byteOffset + dma - memory.dma, length);
    }
    return null;
  }
}
