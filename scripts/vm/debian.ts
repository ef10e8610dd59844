/** Debian packages: found and fetched through this machine's apt, unpacked without installing them. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { VmError } from './error.ts';
import { needTool, runTool } from './tools.ts';

/** The folder that keeps what was fetched. */
export function cacheFolder(): string {
  const base = process.env['XDG_CACHE_HOME'];
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'dmapool-vm');
}

/** The packages that a package depends on, of which apt may choose others; empty if apt does not know the package. */
export async function dependencies(name: string): Promise<string[]> {
  const answer = await runTool(needTool('apt-cache', 'apt'), ['depends', name]).catch(() => '');
  return [...answer.matchAll(/^\s*\|?Depends:\s*(\S+)$/gm)].map((match) => match[1]!);
}

/** Downloads packages into a folder; returns their files in the order of the names. */
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
 * @param paths What of it, as `./usr/bin/name`; default: all. @returns Those of them that the package lacks.
 */
export async function unpack(file: string, into: string, paths: readonly string[] = []): Promise<string[]> {
  const source = spawn(needTool('dpkg-deb', 'dpkg'), ['--fsys-tarfile', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  const sink = spawn(needTool('tar', 'tar'), ['-x', '-C', into, '--no-same-owner', ...paths], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  // tar may be gone before all of it arrived; its exit code says so.
  sink.stdin.on('error', () => undefined);
  source.stdout.pipe(sink.stdin);
  let said = '';
  source.stderr.on('data', (data: Buffer) => (said += data.toString()));
  sink.stderr.on('data', (data: Buffer) => (said += data.toString()));
  await Promise.all([once(source, 'close'), once(sink, 'close')]);
  const missing = [...said.matchAll(/^.*: (\S+): Not found in archive$/gm)].map((match) => match[1]!);
  const other = said.split('\n').filter((line) => !/Not found in archive|previous errors|^$/.test(line));
  if (source.exitCode !== 0 || other.length > 0) {
    throw new VmError('ERR_VM_KERNEL', `${file} can't be unpacked: ${said.trim()}`);
  }
  return missing;
}

/** Makes a folder by `fill`, which gets a temporary one beside it: whole or not at all, whoever else makes it. */
export async function makeFolder(folder: string, fill: (work: string) => Promise<void>): Promise<void> {
  mkdirSync(cacheFolder(), { recursive: true });
  const work = mkdtempSync(join(cacheFolder(), 'new-'));
  try {
    // So that apt's own user may write there; it warns otherwise.
    chmodSync(work, 0o755);
    await fill(work);
    renameSync(work, folder);
  } catch (error) {
    // Another process was faster, and its folder is as good.
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
