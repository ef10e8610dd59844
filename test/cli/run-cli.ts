import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { run } from '../../src/cli/main.ts';

/** The output and exit code of a run of the command. */
export interface CliRun {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command in this process. */
export async function runCli(
  argv: readonly string[],
  surroundings: { tty?: boolean; env?: Record<string, string> } = {},
): Promise<CliRun> {
  const { tty = false, env = {} } = surroundings;
  let out = '';
  let err = '';
  const code = await run(argv, {
    stdout: { write: (text) => void (out += text), isTTY: tty },
    stderr: { write: (text) => void (err += text), isTTY: tty, columns: 80 },
    env,
  });
  return { code, out, err };
}

/** Calls `action` with paths of files with this content, in a directory that is removed afterwards. */
export async function withFiles(
  files: Readonly<Record<string, string | Uint8Array>>,
  action: (path: (name: string) => string) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'dmapool-cli-'));
  try {
    for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
    await action((name) => join(directory, name));
  } finally {
    rmSync(directory, { recursive: true });
  }
}
