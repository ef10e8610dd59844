/** Downloads Debian packages through apt and unpacks them without installing them. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { VmError } from './error.ts';
import { needTool, runTool } from './tools.ts';

/** The cache folder: `$XDG_CACHE_HOME/dmapool-vm`, by default `~/.cache/dmapool-vm`. */
export function cacheFolder(): string {
  const base = process.env['XDG_CACHE_HOME'];
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'dmapool-vm');
}

/** Returns the direct dependencies of a package, alternatives included; an empty list for an unknown package. */
export async function dependencies(name: string): Promise<string[]> {
  const output = await runTool(needTool('apt-cache', 'apt'), ['depends', name]).catch(() => '');
  return [...output.matchAll(/^\s*\|?Depends:\s*(\S+)$/gm)].map((match) => match[1]!);
}

/** Downloads packages into a folder. Returns the paths of their files, in the order of `names`. */
export async function download(names: readonly string[], folder: string): Promise<string[]> {
  await runTool(needTool('apt-get', 'apt'), ['download', '-qq', ...names], folder);
  const files = readdirSync(folder);
  return names.map((name) =>
    join(
      folder,
      files.find((file) => file.startsWith(`${name}_`))!,
    ),
  );
}

/**
 * Unpacks a package below `into`.
 *
 * @param paths Files and folders of the package, such as `./usr/bin/name`; by default all. @returns The paths that the
 * package does not contain.
 */
export async function unpack(file: string, into: string, paths: readonly string[] = []): Promise<string[]> {
  const source = spawn(needTool('dpkg-deb', 'dpkg'), ['--fsys-tarfile', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  const sink = spawn(needTool('tar', 'tar'), ['-x', '-C', into, '--no-same-owner', ...paths], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  // EPIPE if tar ends early. Its exit code reports the failure.
  sink.stdin.on('error', () => undefined);
  source.stdout.pipe(sink.stdin);
  let errors = '';
  source.stderr.on('data', (data: Buffer) => (errors += data.toString()));
  sink.stderr.on('data', (data: Buffer) => (errors += data.toString()));
  await Promise.all([once(source, 'close'), once(sink, 'close')]);
  const missing = [...errors.matchAll(/^.*: (\S+): Not found in archive$/gm)].map((match) => match[1]!);
  const other = errors.split('\n').filter((line) => !/Not found in archive|previous errors|^$/.test(line));
  if (source.exitCode !== 0 || other.length > 0) {
    throw new VmError('ERR_VM_KERNEL', `can't unpack ${file}: ${errors.trim()}`);
  }
  return missing;
}

/**
 * Creates a folder atomically: `fill` writes to a temporary folder, which is then renamed. If another process creates the
 * folder first, its folder remains.
 */
export async function makeFolder(folder: string, fill: (work: string) => Promise<void>): Promise<void> {
  mkdirSync(cacheFolder(), { recursive: true });
  const work = mkdtempSync(join(cacheFolder(), 'new-'));
  try {
    // apt-get downloads as the user _apt, and warns if that user can't enter the folder.
    chmodSync(work, 0o755);
    await fill(work);
    renameSync(work, folder);
  } catch (error) {
    // Another process created an equal folder.
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
