/**
 * Checks every block that is allocated in a replay. Uses only the block and the coherent memory that the pool allocated,
 * not the pool's state.
 */
import { hex } from '../errors.ts';
import {
  type CoherentAllocator,
  type CoherentMemory,
  type CoherentRequest,
  type Device,
  type DmaBlock,
  type HeapMemory,
  IommuFaultError,
} from '../index.ts';

/** Rules for blocks, by their names in a report. */
export type BlockRule = 'align' | 'boundary' | 'contained' | 'overlap' | 'zero' | 'kept';

/** A broken rule. */
export interface BrokenRule {
  readonly rule: BlockRule;
  readonly message: string;
}

/** The pool's geometry. */
export interface BlockDemand {
  /** Bytes of a block, rounded. */
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
}

interface Held {
  readonly dma: number;
  readonly size: number;
  readonly stamp: number;
}

/** Observes one device: the coherent memory of its pools, and the allocated blocks. */
export class BlockOracle implements CoherentAllocator {
  readonly name: string;
  readonly pageSize: number;
  readonly #memory: HeapMemory;
  /** By page number: the coherent memory that contains it. */
  readonly #granted = new Map<number, CoherentMemory>();
  /** By page number: the allocated blocks that overlap it. */
  readonly #out = new Map<number, Set<Held>>();
  readonly #held = new Map<number, Held>();

  constructor(memory: HeapMemory) {
    this.#memory = memory;
    this.name = memory.name;
    this.pageSize = memory.pageSize;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    const memory = this.#memory.allocCoherent(request);
    if (memory !== null) for (const page of this.#pages(memory)) this.#granted.set(page, memory);
    return memory;
  }

  freeCoherent(memory: CoherentMemory): void {
    this.#memory.freeCoherent(memory);
    for (const page of this.#pages(memory)) this.#granted.delete(page);
  }

  onceAvailable(listener: () => void): () => void {
    return this.#memory.onceAvailable(listener);
  }

  /** Checks an allocated block and fills its bytes. @returns The broken rules. */
  taken(slot: number, block: DmaBlock, demand: BlockDemand, zeroed: boolean, device: Device): BrokenRule[] {
    const broken: BrokenRule[] = [];
    const { dma, bytes } = block;
    const { size, align, boundary } = demand;
    const last = dma + size - 1;
    const report = (rule: BlockRule, message: string): void => {
      broken.push({ rule, message: `block at ${hex(dma)} of ${String(size)} bytes ${message}` });
    };

    if (align > 1 && dma % align !== 0) report('align', `is not aligned to ${String(align)}`);
    if (boundary > 0 && Math.floor(dma / boundary) !== Math.floor(last / boundary)) {
      report('boundary', `crosses a multiple of ${String(boundary)}`);
    }
    const outside = this.#outside(block, size, device);
    if (outside !== null) report('contained', outside);

    const held: Held = { dma, size, stamp: 1 + (slot % 255) };
    for (const page of this.#pages(held)) {
      const others = this.#out.get(page) ?? new Set<Held>();
      this.#out.set(page, others);
      for (const other of others) {
        if (other.dma <= last && dma <= other.dma + other.size - 1) {
          report('overlap', `overlaps the allocated block at ${hex(other.dma)}`);
        }
      }
      others.add(held);
    }
    this.#held.set(slot, held);
    if (zeroed && !isFilled(bytes, 0)) report('zero', 'is not zero');
    bytes.fill(held.stamp);
    return broken;
  }

  /** Checks, before a block is freed, that its bytes are unchanged. @returns The broken rules. */
  given(slot: number, block: DmaBlock): BrokenRule[] {
    const held = this.#held.get(slot);
    if (held === undefined) return [];
    this.#held.delete(slot);
    for (const page of this.#pages(held)) this.#out.get(page)?.delete(held);
    if (isFilled(block.bytes, held.stamp)) return [];
    return [{ rule: 'kept', message: `block at ${hex(held.dma)} was written to while it was allocated` }];
  }

  /** Address of the page that contains this address; -1 if there is none. */
  pageAt(dma: number): number {
    return this.#granted.get(Math.floor(dma / this.pageSize))?.dma ?? -1;
  }

  /** @returns Null if a block is within one page of its pool, in memory that the device reaches; else the reason. */
  #outside({ dma, bytes }: DmaBlock, size: number, device: Device): string | null {
    const page = this.#granted.get(Math.floor(dma / this.pageSize));
    if (page === undefined) return 'lies in no coherent memory';
    if (dma < page.dma || dma + size > page.dma + page.size) {
      return `leaves its page, ${hex(page.dma)} to ${hex(page.dma + page.size - 1)}`;
    }
    if (bytes.buffer !== page.buffer || bytes.byteOffset - page.byteOffset !== dma - page.dma) {
      return 'has its bytes elsewhere in memory than its address says';
    }
    try {
      const seen = this.#memory.translate(device, dma, size);
      return seen.byteOffset === bytes.byteOffset ? null : 'is not what the device sees at its address';
    } catch (error) {
      if (error instanceof IommuFaultError) return 'is not mapped for the device';
      throw error;
    }
  }

  *#pages({ dma, size }: { readonly dma: number; readonly size: number }): Generator<number> {
    const last = Math.floor((dma + size - 1) / this.pageSize);
    for (let page = Math.floor(dma / this.pageSize); page <= last; page++) yield page;
  }
}

function isFilled(bytes: Uint8Array, value: number): boolean {
  // Not `every`: its callback per byte would take most of the time of a checking pass.
  for (const byte of bytes) if (byte !== value) return false;
  return true;
}
