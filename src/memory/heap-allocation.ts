/** The record of one allocation of `HeapMemory`. */

import type { Arena } from './arena.ts';
import type { CoherentMemory } from './coherent.ts';
import type { IommuDomain } from './iommu.ts';

/**
 * Memory from `HeapMemory`. There may be one of these for each page in use, so it holds five words and computes the
 * rest: page numbers are small integers to the engine, where an address above 2^31 would be an object of its own.
 */
export class HeapAllocation implements CoherentMemory {
  readonly #arena: Arena;
  readonly #domain: IommuDomain;
  readonly #page: number;
  readonly #iovaPage: number;
  /** Bytes asked for; negative once the memory was given back. */
  #size: number;

  constructor(arena: Arena, domain: IommuDomain, page: number, iovaPage: number, size: number) {
    this.#arena = arena;
    this.#domain = domain;
    this.#page = page;
    this.#iovaPage = iovaPage;
    this.#size = size;
  }

  get dma(): number {
    return this.#iovaPage * this.#arena.pageSize;
  }

  get size(): number {
    return Math.abs(this.#size);
  }

  get buffer(): ArrayBuffer | SharedArrayBuffer {
    return this.#arena.buffer;
  }

  get byteOffset(): number {
    return this.#page * this.#arena.pageSize;
  }

  /**
   * Marks memory as given back and returns its device's domain; null, and nothing is changed, unless it is live memory
   * of this arena, and of domain `owner` if one is given. Static, so that those who hold the memory have no method to spoil it with.
   */
  static retire(memory: unknown, arena: Arena, owner: IommuDomain | null): IommuDomain | null {
    if (typeof memory !== 'object' || memory === null || !(#arena in memory)) return null;
    if (memory.#arena !== arena || memory.#size < 0) return null;
    if (owner !== null && memory.#domain !== owner) return null;
    memory.#size = -memory.#size;
    return memory.#domain;
  }
}
