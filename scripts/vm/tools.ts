/** The programs that the virtual machine needs, and how they are run. */

import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { VmError } from './error.ts';

const run = promisify(execFile);

/** Where the program is, or null. Looks in PATH, and where programs for administrators are. */
export function findTool(name: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this one.
    }
  }
  return null;
}

/** Where the program is; the error names the Debian package to install. */
export function needTool(name: string, debianPackage: string): string {
  const path = findTool(name);
  if (path === null) {
    throw new VmError('ERR_VM_TOOL', `${name} is not installed: apt-get install ${debianPackage}`);
  }
  return path;
}

/** Runs a program to its end; gives its output. A failure is an error with what the program said. */
export async function runTool(path: string, args: readonly string[], cwd?: string): Promise<string> {
  try {
    const { stdout } = await run(path, args, { cwd, encoding: 'utf8', maxBuffer: 2 ** 26 });
    return stdout;
  } catch (error) {
    const said = (error as { stderr?: string }).stderr?.trim() ?? '';
    const why = said === '' ? (error as Error).message : said;
    throw new VmError('ERR_VM_TOOL', `${path} ${args.join(' ')} failed: ${why}`, undefined, { cause: error });
  }
}
