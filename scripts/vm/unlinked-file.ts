/** Unlinked temporary files. The kernel frees them when the last descriptor closes, also after SIGKILL. */

import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Returns a descriptor of a new unlinked file with this content, or of this many zero bytes (sparse). The caller closes it. */
export function unlinkedFile(content: Uint8Array | number): number {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-vm-'));
  try {
    const fd = openSync(join(folder, 'file'), 'wx+', 0o600);
    try {
      if (typeof content === 'number') ftruncateSync(fd, content);
      else for (let at = 0; at < content.length;) at += writeSync(fd, content, at);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}
