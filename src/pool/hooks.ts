/** What some pools do to a block when it changes hands, how such a pool is set, and the texts of its reports. */
import { hex } from '../errors.ts';

/** What a debug pool does. */
export interface DebugOptions {
  /** Never allocate again a block that was written to while it was free. Default true. */
  readonly quarantine?: boolean;
  /** Record where each block was allocated and freed. Default true; costs a few microseconds a call. */
  readonly sites?: boolean;
}

/** The texts of two reports on the device's log, for a part of the package that words them differently. */
export interface ReportTexts {
  /** Blocks are allocated at destroy; `holders` says who has them. */
  busy(name: string, holders: string): string;
  /**
   * A block was written to while it was free.
   *
   * @param byteOffset Where the block lies in its buffer.
   * @param details What was found.
   */
  corrupted(name: string, byteOffset: number, details: string): string;
}

export const OWN_TEXTS: ReportTexts = {
  busy: (name, holders) => `${name} busy: ${holders}`,
  corrupted: (name, _byteOffset, details) => `${name}: ${details}`,
};

/** What a pool does to blocks that change hands. */
export interface PoolModes {
  /** Debug mode, null for off. */
  readonly debug: DebugOptions | null;
  readonly initOnAlloc: boolean;
  readonly initOnFree: boolean;
  readonly texts: ReportTexts;
}

/** Called when a block changes hands. A pool with hooks keeps its list held: every call is slow. */
export interface BlockHooks {
  /** Each allocation makes a new handle, instead of the block's one. */
  readonly renewsHandles: boolean;
  /** A page came from the memory source, zeroed. */
  pageOpened(page: number): void;
  /** A block that fails its inspection is never handed out again. */
  readonly quarantines: boolean;
  /** A block was taken from the list. Returns what is wrong with it, for the log, or null. Changes nothing. */
  inspect(index: number): string | null;
  /** The block is handed out now. */
  allocated(index: number): void;
  /** A block came back. */
  freed(index: number): void;
  /** Makes a block's bytes those of a free one, where its holder died and may not have got so far. */
  scrub(index: number): void;
  /** What is known of the block's past, for a message; may be empty. Begins with a separator. */
  history(index: number): string;
  /** Who holds these blocks, for a message. */
  holders(indices: readonly number[]): string;
}

/** Most blocks that one message names. */
const NAMED = 8;

/** Names blocks by index and address. */
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
  readonly #zero: (index: number) => void;

  constructor(modes: PoolModes, zero: (index: number) => void) {
    this.#modes = modes;
    this.#zero = zero;
  }

  pageOpened(): void {
    // Memory comes zeroed.
  }

  inspect(): null {
    return null;
  }

  allocated(index: number): void {
    if (this.#modes.initOnAlloc) this.#zero(index);
  }

  freed(index: number): void {
    this.scrub(index);
  }

  scrub(index: number): void {
    if (this.#modes.initOnFree) this.#zero(index);
  }

  history(): string {
    return '';
  }

  holders(): string {
    return '';
  }
}
