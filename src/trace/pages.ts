/**
 * Why the kernel needed the pages it needed.
 *
 * Neither Linux nor this package takes a page while a block is free, so both need ceil(most blocks out / blocks of a
 * page), whatever order they hand blocks out in. Two things make kernels need more:
 * - before 6.4 their rule for a page skips a block that would end exactly at the boundary;
 * - with no block free all of them drop the pool's lock while they get a page, and then use it even if blocks came free
 *   meanwhile. The trace shows that as a new page at a moment when blocks were free.
 */
import type { TraceCreate } from './events.ts';

/** Major and minor number of a kernel. */
export interface KernelVersion {
  readonly major: number;
  readonly minor: number;
}

/** The version in a `#kernel` header such as `Linux version 6.1.0-56-amd64 (...)`, or null. */
export function kernelVersion(header: string | undefined): KernelVersion | null {
  // Bounded, so that a header of nothing but digits takes no time.
  const match = /(?<!\d)(\d{1,9})\.(\d{1,9})/.exec(header ?? '');
  return match === null ? null : { major: Number(match[1]), minor: Number(match[2]) };
}

/** True if that kernel skips the block that would end at the boundary. Without a version: the traces' kernels do. */
export function skipsExactFit(version: KernelVersion | null): boolean {
  return version === null || version.major < 6 || (version.major === 6 && version.minor < 4);
}

/** True if that kernel hands out blocks in our order, from our pages: from 6.4 on. */
export function ordersAsOurs(version: KernelVersion | null): boolean {
  return !skipsExactFit(version);
}

/** How many blocks the recorded kernel cut from one page of a pool. */
export function kernelBlocksPerPage(
  pool: Pick<TraceCreate, 'effectiveSize' | 'effectiveAllocation' | 'effectiveBoundary'>,
  skips: boolean,
): number {
  const { effectiveSize: size, effectiveAllocation: allocation, effectiveBoundary: boundary } = pool;
  // A page is a whole number of boundaries: either it is 4096 bytes, or one block that is its own boundary.
  const fitting = Math.floor(boundary / size);
  const exact = boundary % size === 0;
  // The first block of a boundary is always made.
  const made = skips && exact ? fitting - 1 : fitting;
  return Math.max(1, Math.floor(allocation / boundary)) * Math.max(1, made);
}

/** What is known of one pool at one moment. */
export interface PageFigures {
  readonly ours: number;
  readonly oursPerPage: number;
  readonly kernel: number;
  readonly kernelPerPage: number;
  /** The most blocks that were out at a time until then. */
  readonly peak: number;
  /** Pages in the trace's own events until then. */
  readonly recorded: number;
  /** Of these, pages that the kernel took although blocks were free. */
  readonly raced: number;
}

/** The reasons, as sentences without full stop; none if we have no fewer pages than the kernel. */
export function explainPages(figures: PageFigures, version: KernelVersion | null): string[] {
  const { ours, oursPerPage, kernel, kernelPerPage, peak, recorded, raced } = figures;
  if (ours >= kernel) return [];
  const who = version === null ? 'the kernel' : `Linux ${String(version.major)}.${String(version.minor)}`;
  const reasons: string[] = [];
  const byRule = Math.ceil(peak / kernelPerPage);
  if (byRule > ours) {
    reasons.push(
      `${who} cuts ${plural(kernelPerPage, 'block')} from a page where ${String(oursPerPage)} fit: ` +
        'it skips the one that would end exactly at the boundary',
    );
  }
  if (kernel > byRule && raced > 0) {
    reasons.push(`${who} took ${plural(raced, 'page')} though blocks came free while it waited for the page`);
  }
  if (kernel > Math.max(byRule, recorded)) {
    reasons.push(`the kernel's text has more pages than its trace, which has ${String(recorded)}`);
  }
  if (reasons.length === 0) reasons.push('the trace does not show why');
  return reasons;
}

function plural(count: number, noun: string): string {
  return `${String(count)} ${noun}${count === 1 ? '' : 's'}`;
}
