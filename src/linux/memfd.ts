/** Memory files: shared memory without a name in any folder, which is gone with its last user however that one ended. */
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
 * Makes a memory file whose size is fixed for good: nobody who is given it can cut it short under our feet.
 *
 * @param name For listings such as `/proc/PID/maps`; need not be unique.
 * @returns The file's descriptor.
 * @throws {@link SystemCallError}
 */
export function createMemoryFile(name: string, size: number): number {
  return sized(libc().memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), size);
}

/**
 * The same of hugepages, which are taken at once: touching the file never fails later.
 *
 * @param size A multiple of `hugepageSize`.
 * @throws {@link SystemCallError} `ENOSPC` or `ENOMEM` when there are not so many free.
 */
export function createHugepageFile(name: string, size: number, hugepageSize: number): number {
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | (Math.log2(hugepageSize) << HUGE_SHIFT);
  // The size's bits may reach the sign; the call takes them unsigned.
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
