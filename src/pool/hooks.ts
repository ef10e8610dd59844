/** Hooks at the allocation and free of blocks, their modes, and the texts of reports. */
import { hex } from '../errors.ts';

/** Options of debug mode. */
export interface DebugOptions {
  /** Quarantine a block that was written to while free: never allocate it again. Default true. */
  readonly quarantine?: boolean;
  /** Record the call sites of allocations and frees. Default true. Costs a few microseconds per call. */
  readonly sites?: boolean;
}

/** Texts of two reports on the device's log. `kernel/` replaces them with Linux's wording. */
export interface ReportTexts {
  /** The pool is destroyed while blocks are allocated. `holders` lists them. */
  busy(name: string, holders: string): string;
  /**
   * A block was written to while free.
   *
   * @param byteOffset Offset of the block in its buffer, in bytes.
   * @param details Description of the corruption.
   */
  corrupted(name: string, byteOffset: number, details: string): string;
}

export const OWN_TEXTS: ReportTexts = {
  busy: (name, holders) => `${name} busy: ${holders}`,
  corrupted: (name, _byteOffset, details) => `${name}: ${details}`,
};

/** Modes of a pool. */
export interface PoolModes {
  /** Options of debug mode; null if it is off. */
  readonly debug: DebugOptions | null;
  readonly initOnAlloc: boolean;
  readonly initOnFree: boolean;
  readonly texts: ReportTexts;
}

/** Called when blocks are allocated and freed. A pool with hooks holds its list, so every call takes the slow path. */
export interface BlockHooks {
  /** Each allocation creates a new handle. */
  readonly renewsHandles: boolean;
  /** A page came from the memory source, zeroed. */
  pageOpened(page: number): void;
  /** Blocks that fail {@link inspect} are quarantined. */
  readonly quarantines: boolean;
  /** Checks a block just taken from the list. Returns a report for the log, or null. Changes nothing. */
  inspect(index: number): string | null;
  /** The block is allocated. */
  allocated(index: number): void;
  /** The block is freed. */
  freed(index: number): void;
  /** Overwrites a block as at a free. For blocks whose owner exited, perhaps in the middle of a free. */
  scrub(index: number): void;
  /** History of the block, for messages. Empty or begins with a separator. */
  history(index: number): string;
  /** Lists allocated blocks by allocation site, for messages. Empty if sites are not recorded. */
  holders(indices: readonly number[]): string;
}

/** Limit of blocks, and of sites, in a message. */
export const NAMED = 8;

/** Lists blocks by index and address. */
export function listBlocks(indices: readonly number[], pages: { dmaOf(index: number): number }): string {
  const named = indices.slice(0, NAMED).map((index) => `block ${index} at ${hex(pages.dmaOf(index))}`);
  if (indices.length > NAMED) named.push(`${indices.length - NAMED} more`);
  return named.join(', ');
}

/** Init-on-alloc and init-on-free (Linux: the boot parameters `init_on_alloc`, `init_on_free`). */
export class InitHooks implements BlockHooks {
  readonly renewsHandles: boolean = false;
  readonly quarantines: boolean = false;
  readonly #modes: PoolModes;
  readonly #pages: { fill(index: number, value: number): void };

  constructor(modes: PoolModes, pages: { fill(index: number, value: number): void }) {
    this.#modes = modes;
    this.#pages = pages;
  }

  pageOpened(): void {
    // Memory sources zero new memory.
  }

  inspect(): null {
    return null;
  }

  allocated(index: number): void {
    if (this.#modes.initOnAlloc) this.#pages.fill(index, 0);
  }

  freed(index: number): void {
    this.scrub(index);
  }

  scrub(index: number): void {
    if (this.#modes.initOnFree) this.#pages.fill(index, 0);
  }

  history(): string {
    return '';
  }

  holders(): string {
    return '';
  }
}
