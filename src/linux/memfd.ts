/** Memory files: shared memory without a name in any folder, which is gone with its last user however that one ended. */
import { closeSync, ftruncateSync } from 'node:fs';
import { F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, libc, MFD_ALLOW_SEALING, MFD_CLOEXEC } from './libc.ts';

/**
 * Makes a memory file whose size is fixed for good: nobody who is given it can cut it short under our feet.
 *
 * @param name For listings such as `/proc/PID/maps`; need not be unique.
 * @returns The file's descriptor.
 * @throws {@link SystemCallError}
 */
export function createMemoryFile(name: string, size: number): number {
  const fd = libc().memfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  try {
    ftruncateSync(fd, size);
    libc().addSeals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
