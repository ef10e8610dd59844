import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext } from 'node:test';

/** Makes a folder that is removed after the test, or after all tests of the calling file. */
export function temporaryFolder(t?: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-test-'));
  const remove = (): void => {
    rmSync(folder, { recursive: true, force: true });
  };
  if (t === undefined) after(remove);
  else t.after(remove);
  return folder;
}
