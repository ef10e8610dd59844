/** Finds and runs the programs that the virtual machine needs. */

import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { VmError } from './error.ts';

const run = promisify(execFile);

/** Returns the path of a program, or null. Searches PATH, then /usr/sbin and /sbin. */
export function findTool(name: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Try the next folder.
    }
  }
  return null;
}

/** Returns the path of a program. Throws `ERR_VM_TOOL` with the Debian package to install if it is missing. */
export function needTool(name: string, debianPackage: string): string {
  const path = findTool(name);
  if (path === null) {
    throw new VmError('ERR_VM_TOOL', `${name} is not installed: apt-get install ${debianPackage}`);
  }
  return path;
}

/** Runs a program and returns its standard output. Throws `ERR_VM_TOOL` with its standard error if it fails. */
export async function runTool(path: string, args: readonly string[], cwd?: string): Promise<string> {
  try {
    const { stdout } = await run(path, args, { cwd, encoding: 'utf8', maxBuffer: 2 ** 26 });
    return stdout;
  } catch (error) {
    const output = (error as { stderr?: string }).stderr?.trim() ?? '';
    const reason = output === '' ? (error as Error).message : output;
    throw new VmError('ERR_VM_TOOL', `${path} ${args.join(' ')} failed: ${reason}`, undefined, { cause: error });
  }
}
