/**
 * Debug mode: poison, quarantine, and allocation sites.
 *
 *     free       a7 a7 a7 a7 a7 a7 a7 a7     a reader sees a freed block
 *     allocated  a9 a9 a9 a9 a9 a9 a9 a9     a reader sees uninitialised bytes
 *
 * Invariant: all bytes of a free block are 0xa7, checked at each allocation. Linux can't check the first 16 bytes,
 * where its links are.
 */
import { roundUp } from '../arguments.ts';
import { hex } from '../errors.ts';
import { observer } from '../memory/observer.ts';
import { type BlockHooks, InitHooks, listBlocks, NAMED, type PoolModes } from './hooks.ts';
import { captureSite, type Site } from './site.ts';

/** Byte of a free block (Linux: POOL_POISON_FREED). */
const POISON_FREED = 0xa7;
/** Byte of an allocated block that was not zeroed (Linux: POOL_POISON_ALLOCATED). */
const POISON_ALLOCATED = 0xa9;

/** The part of a pool's pages that the hooks use. */
export interface DebugPages {
  dmaOf(index: number): number;
  pageOf(index: number): number;
  offsetOf(index: number): number;
  viewOf(page: number): Uint8Array;
  fill(index: number, value: number): void;
}

export class DebugHooks implements BlockHooks {
  readonly renewsHandles: boolean = true;
  readonly quarantines: boolean;
  readonly #name: string;
  readonly #blockSize: number;
  readonly #pages: DebugPages;
  readonly #sites: boolean;
  readonly #modes: PoolModes;
  /** Debug records of each block. */
  readonly book: DebugBook;

  constructor(name: string, blockSize: number, pages: DebugPages, modes: PoolModes, book: DebugBook) {
    this.book = book;
    this.#name = name;
    this.#blockSize = blockSize;
    this.#pages = pages;
    this.#modes = modes;
    this.quarantines = modes.debug?.quarantine !== false;
    this.#sites = modes.debug?.sites !== false;
  }

  pageOpened(page: number): void {
    this.#pages.viewOf(page).fill(POISON_FREED);
  }

  allocated(index: number): void {
    this.#pages.fill(index, this.#modes.initOnAlloc ? 0 : POISON_ALLOCATED);
    this.book.allocated(index, this.#sites ? captureSite() : undefined);
  }

  freed(index: number): void {
    this.scrub(index);
    this.book.freed(index, this.#sites ? captureSite() : undefined);
  }

  scrub(index: number): void {
    // Poison takes precedence over init-on-free, as in Linux.
    this.#pages.fill(index, POISON_FREED);
  }

  inspect(index: number): string | null {
    const offset = this.#pages.offsetOf(index);
    const page = this.#pages.viewOf(this.#pages.pageOf(index));
    const end = offset + this.#blockSize;
    let first = offset;
    while (first < end && page[first] === POISON_FREED) first++;
    if (first === end) return null;
    let wrong = 0;
    for (let at = first; at < end; at++) if (page[at] !== POISON_FREED) wrong++;
    const freedAt = this.book.freedAt(index);
    const details =
      `block ${index} at ${hex(this.#pages.dmaOf(index))} was written to while free: ` +
      `${wrong} bytes changed from offset ${first - offset}` +
      (freedAt === undefined ? '' : `; freed at ${freedAt}`) +
      (this.quarantines ? '; in quarantine' : '') +
      `\n${hexDump(page.subarray(offset, end), first - offset)}`;
    return this.#modes.texts.corrupted(this.#name, page.byteOffset + offset, details);
  }

  history(index: number): string {
    const freed = this.book.freedAt(index);
    const allocated = this.book.allocatedAt(index);
    return (
      (allocated === undefined ? '' : `; last allocated at ${allocated}`) +
      (freed === undefined ? '' : `; last freed at ${freed}`)
    );
  }

  holders(indices: readonly number[]): string {
    if (!this.#sites) return '';
    const bySite = new Map<string, number[]>();
    for (const index of indices) {
      const site = this.book.allocatedAt(index) ?? 'unknown';
      const blocks = bySite.get(site);
      if (blocks === undefined) bySite.set(site, [index]);
      else blocks.push(index);
    }
    const sites = [...bySite].sort(([, a], [, b]) => b.length - a.length);
    const lines = sites.slice(0, NAMED).map(([site, blocks]) => {
      const named = listBlocks(blocks, this.#pages);
      return `\n  ${blocks.length} allocated at ${site}: ${named}`;
    });
    if (sites.length > NAMED) lines.push(`\n  ${sites.length - NAMED} more`);
    return lines.join('');
  }
}

/** Debug records of each block. */
export interface DebugBook {
  /** Records an allocation, and its site if sites are recorded. */
  allocated(index: number, site: Site | undefined): void;
  freed(index: number, site: Site | undefined): void;
  /** Number of allocations of the block. It distinguishes the handles of successive allocations. */
  generationOf(index: number): number;
  /** Sites of the last allocation and of the last free; undefined if not recorded. */
  allocatedAt(index: number): string | undefined;
  freedAt(index: number): string | undefined;
  /** Time of the last allocation, in ms as `Date.now()`; undefined if there was no observer. */
  allocatedWhen(index: number): number | undefined;
}

/** The records of a pool of one thread. */
export class LocalBook implements DebugBook {
  readonly #allocatedAt: (Site | undefined)[] = [];
  readonly #freedAt: (Site | undefined)[] = [];
  readonly #generations: number[] = [];
  readonly #times: number[] = [];

  allocated(index: number, site: Site | undefined): void {
    this.#generations[index] = this.generationOf(index) + 1;
    if (site !== undefined) this.#allocatedAt[index] = site;
    if (observer !== undefined) this.#times[index] = Date.now();
  }

  freed(index: number, site: Site | undefined): void {
    if (site !== undefined) this.#freedAt[index] = site;
  }

  generationOf(index: number): number {
    return this.#generations[index] ?? 0;
  }

  allocatedAt(index: number): string | undefined {
    return this.#allocatedAt[index]?.describe();
  }

  freedAt(index: number): string | undefined {
    return this.#freedAt[index]?.describe();
  }

  allocatedWhen(index: number): number | undefined {
    return this.#times[index];
  }
}

const PER_ROW = 16;
/** Limit of bytes in a dump, so that the report of a large block stays readable. */
const MOST_SHOWN = 16 * PER_ROW;

/**
 * Dumps rows of 16 bytes in hex and ASCII, as the kernel's `print_hex_dump`. The dump of a long block has
 * {@link MOST_SHOWN} bytes, byte `from` included, and the block's size.
 */
export function hexDump(bytes: Uint8Array, from = 0): string {
  const { length } = bytes;
  const first = Math.min(from, roundUp(Math.max(0, length - MOST_SHOWN), PER_ROW)) & -PER_ROW;
  const last = Math.min(length, first + MOST_SHOWN);
  const rows: string[] = [];
  for (let at = first; at < last; at += PER_ROW) {
    const part = [...bytes.subarray(at, at + PER_ROW)];
    const numbers = part.map((byte) => padHex(byte, 2)).join(' ');
    const text = part.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    rows.push(`  ${padHex(at, 8)}: ${numbers.padEnd(PER_ROW * 3 - 1)}  ${text}`);
  }
  if (length > MOST_SHOWN) rows.push(`  of ${length} bytes`);
  return rows.join('\n');
}

function padHex(value: number, width: number): string {
  return value.toString(16).padStart(width, '0');
}

/** Creates the hooks for these modes; null if none are needed. `book` is null if and only if debug mode is off. */
export function makeHooks(
  name: string,
  blockSize: number,
  pages: DebugPages,
  modes: PoolModes,
  book: DebugBook | null,
): BlockHooks | null {
  if (book !== null) return new DebugHooks(name, blockSize, pages, modes, book);
  if (!modes.initOnAlloc && !modes.initOnFree) return null;
  return new InitHooks(modes, pages);
}
