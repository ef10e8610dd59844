/**
 * Debug mode: poison, quarantine, and who did what.
 *
 *     free       a7 a7 a7 a7 a7 a7 a7 a7     whoever reads it sees that it is free
 *     allocated  a9 a9 a9 a9 a9 a9 a9 a9     whoever reads it sees that it was never written
 *
 * On each allocation every byte must still be 0xa7; Linux can't check the first sixteen, because its links are there.
 */
import { roundUp } from '../arguments.ts';
import { hex } from '../errors.ts';
import { observer } from '../memory/observer.ts';
import { type BlockHooks, InitHooks, listBlocks, type PoolModes } from './hooks.ts';
import { captureSite, type Site } from './site.ts';

/** Byte of a free block (Linux: POOL_POISON_FREED). */
const POISON_FREED = 0xa7;
/** Byte of a block that was handed out and not zeroed (Linux: POOL_POISON_ALLOCATED). */
const POISON_ALLOCATED = 0xa9;

/** What the hooks need of the pages of the pool they belong to. */
export interface DebugPages {
  dmaOf(index: number): number;
  pageOf(index: number): number;
  offsetOf(index: number): number;
  viewOf(page: number): Uint8Array;
  fill(index: number, value: number): void;
}

/** Most sites one message names. */
const NAMED = 8;

export class DebugHooks implements BlockHooks {
  readonly renewsHandles: boolean = true;
  readonly quarantines: boolean;
  readonly #name: string;
  readonly #blockSize: number;
  readonly #pages: DebugPages;
  readonly #sites: boolean;
  readonly #modes: PoolModes;
  /** What is known of each block's past. */
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
    // Poison wins over init-on-free, as in Linux.
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
      `block ${index} at ${hex(this.#pages.dmaOf(index))} was written to while it was free: ` +
      `${wrong} bytes changed, the first at offset ${first - offset}` +
      (freedAt === undefined ? '' : `; freed at ${freedAt}`) +
      (this.quarantines ? '; it is now in quarantine' : '') +
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
      const site = this.book.allocatedAt(index) ?? 'an unknown place';
      const blocks = bySite.get(site);
      if (blocks === undefined) bySite.set(site, [index]);
      else blocks.push(index);
    }
    const sites = [...bySite].sort(([, a], [, b]) => b.length - a.length);
    const lines = sites.slice(0, NAMED).map(([site, blocks]) => {
      const named = listBlocks(blocks, this.#pages);
      return `\n  ${blocks.length} allocated at ${site}: ${named}`;
    });
    if (sites.length > NAMED) lines.push(`\n  ${sites.length - NAMED} more places`);
    return lines.join('');
  }
}

/** What debug mode remembers of each block. */
export interface DebugBook {
  /** It was handed out once more, by this place in the program if that is recorded. */
  allocated(index: number, site: Site | undefined): void;
  freed(index: number, site: Site | undefined): void;
  /** How often it was handed out: what tells one holder's handle from the next one's. */
  generationOf(index: number): number;
  /** Where it was handed out last, and where it was freed last, if that is known. */
  allocatedAt(index: number): string | undefined;
  freedAt(index: number): string | undefined;
  /** When it was handed out last, in milliseconds as `Date.now()` counts, if it was while an observer was there. */
  allocatedWhen(index: number): number | undefined;
}

/** The book of one thread. */
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
/** Bytes shown, so that a report of a large block stays readable. */
const MOST_SHOWN = 16 * PER_ROW;

/**
 * Rows of 16 bytes in hex and ASCII, as the kernel's `print_hex_dump` has them. Of a long block only the rows from
 * the one with byte `from` on, and how many bytes there are.
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
  if (length > MOST_SHOWN) rows.push(`  ... of ${length} bytes`);
  return rows.join('\n');
}

function padHex(value: number, width: number): string {
  return value.toString(16).padStart(width, '0');
}

/** The hooks for these modes, null if none is needed. `book` is not null exactly in debug mode. */
export function makeHooks(
  name: string,
  blockSize: number,
  pages: DebugPages,
  modes: PoolModes,
  book: DebugBook | null,
): BlockHooks | null {
  if (book !== null) return new DebugHooks(name, blockSize, pages, modes, book);
  if (!modes.initOnAlloc && !modes.initOnFree) return null;
  return new InitHooks(modes, (index) => {
    pages.fill(index, 0);
  });
}
