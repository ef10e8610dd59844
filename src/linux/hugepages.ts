/** Reads the system's hugepage pools (Documentation/admin-guide/mm/hugetlbpage.rst). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Folders of the kernel's hugepage counters; tests pass others. */
export interface HugepageFolders {
  readonly all: string;
  readonly node: (node: number) => string;
}

export const SYSFS: HugepageFolders = {
  all: '/sys/kernel/mm/hugepages',
  node: (node) => `/sys/devices/system/node/node${String(node)}/hugepages`,
};

/** Hugepages of one size. */
export interface HugepagePool {
  /** Bytes of a hugepage. */
  readonly size: number;
  /** Number of reserved hugepages. */
  readonly total: number;
  /** Number of free ones among them. */
  readonly free: number;
  /** The file that sets `total`. */
  readonly file: string;
}

/** Hugepage pools of a NUMA node, or of all (-1), largest page first; empty without hugepages. */
export function hugepagePools(node: number, folders: HugepageFolders = SYSFS): HugepagePool[] {
  const parent = node === -1 ? folders.all : folders.node(node);
  let names: string[];
  try {
    names = readdirSync(parent);
  } catch {
    return [];
  }
  const pools: HugepagePool[] = [];
  for (const name of names) {
    const kib = /^hugepages-(\d+)kB$/.exec(name)?.[1];
    if (kib === undefined) continue;
    const number = (file: string): number => Number(readFileSync(join(parent, name, file), 'utf8'));
    // free_hugepages includes pages reserved for existing mappings. The counters of a node do not show reservations.
    const promised = node === -1 ? number('resv_hugepages') : 0;
    const total = number('nr_hugepages');
    const free = Math.max(0, number('free_hugepages') - promised);
    pools.push({ size: Number(kib) * 1024, total, free, file: join(parent, name, 'nr_hugepages') });
  }
  return pools.sort((a, b) => b.size - a.size);
}

/** Formats bytes, such as `2 MiB`. */
export function sizeName(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && bytes % 1024 === 0 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${String(bytes)} ${units[unit]!}`;
}
