/** Allocates memory files of hugepages in the sizes that the system has. */
import { DmaArgumentError } from '../errors.ts';
import { HugepageError, SystemCallError } from './error.ts';
import { type HugepagePool, hugepagePools, sizeName } from './hugepages.ts';
import { createHugepageFile } from './memfd.ts';
import { onNode } from './numa.ts';

/** A memory file of hugepages of one size. */
export interface HugepageFile {
  readonly fd: number;
  readonly size: number;
  readonly hugepageSize: number;
}

/**
 * Returns the hugepage pools to try, largest page first.
 *
 * @throws {@link HugepageError} when the system has no hugepages. @throws {@link DmaArgumentError} for an unknown size.
 */
export function hugepagePoolsFor(size: number, hugepageSize: number | undefined, node: number): HugepagePool[] {
  const all = hugepagePools(node);
  const sizes = all.map((pool) => pool.size);
  if (hugepageSize !== undefined && !sizes.includes(hugepageSize) && sizes.length > 0) {
    throw new DmaArgumentError('hugepageSize', hugepageSize, `a size that this system has: ${sizes.join(', ')}`);
  }
  if (all.length === 0) {
    const where = node === -1 ? 'this system has' : `NUMA node ${String(node)} does not exist or has`;
    throw new HugepageError('ERR_DMAPOOL_NO_HUGEPAGES', `${where} no hugepages of any size`);
  }
  const smallest = Math.min(...sizes);
  return all.filter((pool) =>
    hugepageSize === undefined ? pool.size <= size || pool.size === smallest : pool.size === hugepageSize,
  );
}

/**
 * Allocates hugepages for `size` bytes. Appends a file for each hugepage size to `files`; the caller closes them, also
 * after an error.
 *
 * @param name For listings such as `/proc/PID/maps`.
 * @throws {@link HugepageError} when too few are free, with the command that reserves more.
 */
export function takeHugepages(
  name: string,
  size: number,
  pools: readonly HugepagePool[],
  node: number,
  files: HugepageFile[],
): void {
  let left = size;
  for (const pool of pools) {
    const last = pool === pools.at(-1);
    const wanted = last ? Math.ceil(left / pool.size) : Math.floor(left / pool.size);
    // Try the full count first, since the kernel may be allowed to allocate more pages; then the free ones.
    for (const count of last ? [wanted] : [wanted, Math.min(wanted, pool.free)]) {
      if (count === 0) continue;
      const fd = tryHugepageFile(name, count * pool.size, pool.size, node);
      if (fd === null) continue;
      files.push({ fd, size: count * pool.size, hugepageSize: pool.size });
      left -= count * pool.size;
      break;
    }
  }
  if (left > 0) throw tooFew(size, pools, left, node);
}

function tryHugepageFile(name: string, size: number, hugepageSize: number, node: number): number | null {
  try {
    return onNode(node, () => createHugepageFile(name, size, hugepageSize));
  } catch (error) {
    const full = error instanceof SystemCallError && (error.errnoName === 'ENOSPC' || error.errnoName === 'ENOMEM');
    if (full && error.syscall === 'fallocate') return null;
    throw error;
  }
}

function tooFew(size: number, pools: readonly HugepagePool[], left: number, node: number): HugepageError {
  const { size: bytes, total, free, file } = pools.at(-1)!;
  const missing = Math.ceil(left / bytes) - free;
  const where = node === -1 ? '' : ` on NUMA node ${String(node)}`;
  const there = pools.map((pool) => `${String(pool.free)} of ${String(pool.total)} of ${sizeName(pool.size)}`);
  const message =
    `${sizeName(size)} of hugepages needed${where}, but only ${there.join(', ')} are free; reserve more, as root: ` +
    `echo ${String(total + Math.max(1, missing))} > ${file}`;
  return new HugepageError('ERR_DMAPOOL_NO_HUGEPAGES', message);
}
