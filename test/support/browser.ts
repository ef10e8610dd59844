import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Why a test without a browser is skipped. */
export const NO_BROWSER = 'Chromium is not installed: apt-get install chromium';

/** The browser that `DMAPOOL_CHROMIUM` names, or Chromium on the PATH. */
export function findBrowser(): string | undefined {
  return process.env['DMAPOOL_CHROMIUM'] ?? findProgram('chromium', 'chromium-browser', 'google-chrome');
}

/** The path of the first of these programs that is on the PATH. */
export function findProgram(...names: readonly string[]): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path));
}
