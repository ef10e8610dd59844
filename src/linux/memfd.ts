/** Memory files: shared memory without a path, freed when its last descriptor and mapping are gone. */
import { closeSync, ftruncateSync } from 'node:fs';
import {
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  HUGE_SHIFT,
  libc,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  MFD_HUGETLB,
} from './libc.ts';

/**
 * Creates a memory file and seals its size: no process with a descriptor can truncate it.
 *
 * @param name For listings such as `/proc/PID/maps`; need not be unique.
 * @returns The file descriptor.
 * @throws {@link SystemCallError}
 */
export function createMemoryFile(name: string, size: number): number {
  return sized(libc().memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), size);
}

/**
 * Creates a memory file of hugepages and allocates all of them, so that later accesses can't fail.
 *
 * @param size A multiple of `hugepageSize`.
 * @throws {@link SystemCallError} `ENOSPC` or `ENOMEM` when too few are free.
 */
export function createHugepageFile(name: string, size: number, hugepageSize: number): number {
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | (Math.log2(hugepageSize) << HUGE_SHIFT);
  // The size bits may set the sign bit; the call takes an unsigned value.
  const fd = sized(libc().memfdCreate(name, flags >>> 0), size);
  try {
    libc().fallocate(fd, size);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function sized(fd: number, size: number): number {
  try {
    ftruncateSync(fd, size);
    libc().addSeals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
