/**
 * Explains the kernel's number of pages.
 *
 *     pages = ceil(maximum of allocated blocks / blocks per page)
 *
 * This holds for every allocator that takes a page only when no block is free, in any order of allocation. Kernels take
 * more pages for two reasons:
 * - before 6.4, a page has no block that would end exactly at the boundary;
 * - a kernel without a free block drops the pool's lock to get a page, and uses the page even if blocks were freed
 *   meanwhile. In the trace, this is a new page while blocks are free.
 */
import type { TraceCreate } from './events.ts';

/** Major and minor number of a kernel. */
export interface KernelVersion {
  readonly major: number;
  readonly minor: number;
}

/** The version in a `#kernel` header such as `Linux version 6.1.0-56-amd64 (...)`, or null. */
export function kernelVersion(header: string | undefined): KernelVersion | null {
  // Bounded: a header of digits alone must not take quadratic time.
  const match = /(?<!\d)(\d{1,9})\.(\d{1,9})/.exec(header ?? '');
  return match === null ? null : { major: Number(match[1]), minor: Number(match[2]) };
}

/** @returns True if the kernel skips the block that would end at the boundary; also for an unknown version. */
export function skipsExactFit(version: KernelVersion | null): boolean {
  return version === null || version.major < 6 || (version.major === 6 && version.minor < 4);
}

/** @returns True if the kernel allocates blocks in our order, from the same pages: from 6.4 on. */
export function ordersAsOurs(version: KernelVersion | null): boolean {
  return !skipsExactFit(version);
}

/** Blocks per page of a pool in the recorded kernel. */
export function kernelBlocksPerPage(
  pool: Pick<TraceCreate, 'effectiveSize' | 'effectiveAllocation' | 'effectiveBoundary'>,
  skips: boolean,
): number {
  const { effectiveSize: size, effectiveAllocation: allocation, effectiveBoundary: boundary } = pool;
  // A page is a multiple of the boundary: it has 4096 bytes, or one larger block whose size is the boundary.
  const fitting = Math.floor(boundary / size);
  const exact = boundary % size === 0;
  // At least one block lies between two boundaries.
  const made = skips && exact ? fitting - 1 : fitting;
  return Math.max(1, Math.floor(allocation / boundary)) * Math.max(1, made);
}

/** One pool at one moment. */
export interface PageFigures {
  readonly ours: number;
  readonly oursPerPage: number;
  readonly kernel: number;
  readonly kernelPerPage: number;
  /** Maximum number of allocated blocks so far. */
  readonly peak: number;
  /** Number of pages in the trace's events so far. */
  readonly recorded: number;
  /** Of these, pages that the kernel took although blocks were free. */
  readonly raced: number;
}

/** @returns The reasons, as sentences without full stop; none unless we have fewer pages than the kernel. */
export function explainPages(figures: PageFigures, version: KernelVersion | null): string[] {
  const { ours, oursPerPage, kernel, kernelPerPage, peak, recorded, raced } = figures;
  if (ours >= kernel) return [];
  const kernelName = version === null ? 'the kernel' : `Linux ${String(version.major)}.${String(version.minor)}`;
  const reasons: string[] = [];
  const byRule = Math.ceil(peak / kernelPerPage);
  if (byRule > ours) {
    reasons.push(
      `${kernelName} cuts ${plural(kernelPerPage, 'block')} from a page where ${String(oursPerPage)} fit: ` +
        'it skips the one that would end exactly at the boundary',
    );
  }
  if (kernel > byRule && raced > 0) {
    reasons.push(`${kernelName} took ${plural(raced, 'page')} although blocks were freed while it waited for the page`);
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
