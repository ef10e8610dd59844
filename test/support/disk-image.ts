import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** Path of a disk image that is deleted after the test. Its content is given, or zeros of this size in bytes. */
export function diskImage(t: TestContext, content: Uint8Array | number): string {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-test,'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const file = join(folder, 'disk.img');
  writeFileSync(file, typeof content === 'number' ? '' : content);
  if (typeof content === 'number') truncateSync(file, content);
  return file;
}
