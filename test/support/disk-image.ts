import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** Path of a disk image of zeros that is deleted after the test. */
export function diskImage(t: TestContext, size: number): string {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-test,'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const file = join(folder, 'disk.img');
  const fd = openSync(file, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  return file;
}
