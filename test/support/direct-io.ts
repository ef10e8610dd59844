/** A folder on a file system with O_DIRECT. */
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Places to try. DMAPOOL_DIRECT_IO names another one. */
const PLACES: readonly string[] = [
  ...(process.env['DMAPOOL_DIRECT_IO'] === undefined ? [] : [process.env['DMAPOOL_DIRECT_IO']]),
  tmpdir(),
  fileURLToPath(new URL('../../', import.meta.url)),
  homedir(),
  '/var/tmp',
  '/dev/shm',
];

/** True if files of the folder can be opened, written and read with O_DIRECT. */
function supports(folder: string): boolean {
  let trial: string | undefined;
  let fd = -1;
  try {
    trial = mkdtempSync(join(folder, 'dmapool-direct-'));
    fd = openSync(join(trial, 'file'), constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT);
    // A file system may accept the flag and refuse every access. A growable SharedArrayBuffer begins at a page.
    const page = new Uint8Array(new SharedArrayBuffer(4096, { maxByteLength: 8192 }));
    return writeSync(fd, page, 0, 4096, 0) === 4096 && readSync(fd, page, 0, 4096, 0) === 4096;
  } catch {
    return false;
  } finally {
    if (fd >= 0) closeSync(fd);
    if (trial !== undefined) rmSync(trial, { recursive: true });
  }
}

/** The folder; null if no file system here supports O_DIRECT. */
export function directIoFolder(): string | null {
  if (process.platform !== 'linux') return null;
  return PLACES.find(supports) ?? null;
}

/** For the `skip` of a test. With DMAPOOL_REQUIRE_TOOLS=1 the test runs, and fails by itself. */
export function withoutDirectIo(folder: string | null): string | false {
  if (folder !== null || process.env['DMAPOOL_REQUIRE_TOOLS'] === '1') return false;
  return 'no file system with O_DIRECT: DMAPOOL_DIRECT_IO names a folder that has it';
}
