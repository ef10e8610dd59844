/** What hugepages the system has reserved, and how to reserve more (Documentation/admin-guide/mm/hugetlbpage.rst). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where the kernel tells; another folder in tests. */
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
  /** How many are reserved. */
  readonly total: number;
  /** How many of them nobody has. */
  readonly free: number;
  /** The file to which the wanted total is written. */
  readonly file: string;
}

/** The sizes of hugepages that there are, largest first; of one node, or of all (-1). None where there are none. */
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
    // Pages promised to somebody still count as free; a single node does not know of promises.
    const promised = node === -1 ? number('resv_hugepages') : 0;
    const total = number('nr_hugepages');
    const free = Math.max(0, number('free_hugepages') - promised);
    pools.push({ size: Number(kib) * 1024, total, free, file: join(parent, name, 'nr_hugepages') });
  }
  return pools.sort((a, b) => b.size - a.size);
}

/** Such as `2 MiB`. */
export function sizeName(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && bytes % 1024 === 0 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${String(bytes)} ${units[unit]!}`;
}
