/**
 * Follows a guide step by step in the virtual machine that it starts: saves its programs under their names, runs its
 * commands in order, and compares their output with the guide.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';
import { root } from './entry-points.ts';
import { assertPrinted } from './printed.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

/** A step of a guide. */
export interface Step {
  /** Shell commands. */
  readonly commands: string;
  /** Their output in the guide; a line `...` stands for any lines. */
  readonly output: string | null;
}

const CLI = join(root, 'dist', 'scripts', 'vm', 'cli.js');
const BLOCKS =
  /^<!-- file: (?<file>\S+) -->\n\n```ts\n(?<source>.*?)^```$|^```sh\n(?<commands>.*?)^```$(?:\n\n<!-- output: in the virtual machine -->\n\n```text\n(?<output>.*?)^```$)?/gms;
/** The machine's options, on the last command line for the host. */
const MACHINE = /^npm run vm -- (.*)\n$/m;

/** Not on the console, where the commands' output and the shell's mix; and the folder is another one. */
function machineOptions(commands: string, folder: string): string[] {
  const options = MACHINE.exec(commands)?.[1]?.split(' ') ?? [];
  assert.equal(options.pop(), '--console');
  const at = options.indexOf('first-driver');
  assert.equal(options[at - 1], '--writable');
  return options.map((option, index) => (index === at ? folder : option));
}

/**
 * Runs a guide of `docs/`. Its first block of commands starts the machine.
 *
 * @param leastSteps The guide has so many steps or more.
 * @param change Replaces or adds steps that the page does not show.
 */
export async function followGuide(
  context: TestContext,
  page: string,
  leastSteps: number,
  change: (steps: readonly Step[]) => readonly Step[] = (steps) => steps,
): Promise<void> {
  const guide = readFileSync(join(root, 'docs', page), 'utf8');
  const blocks = [...guide.matchAll(BLOCKS)].map(({ groups }) => groups as Record<string, string | undefined>);
  const [outside, ...inside] = blocks;
  const script = ['mkdir -p first-driver'];
  for (const { file, source } of inside) {
    if (file !== undefined) script.push(`cat > ${file} <<'END-OF-FILE'\n${source!}END-OF-FILE`);
  }
  const steps = change(
    inside.flatMap(({ commands, output }) => (commands === undefined ? [] : [{ commands, output: output ?? null }])),
  );
  assert.ok(
    steps.length >= leastSteps && steps.every(({ output }) => output !== null),
    'every command has its output in the guide',
  );
  for (const { commands } of steps) script.push('echo "@step"', `(set -e\n${commands}) 2>&1`, 'echo "@exit $?"');

  const folder = temporaryFolder(context);
  const options = machineOptions(outside!['commands']!, folder);
  const child = spawn(
    process.execPath,
    [CLI, '--quiet', '--timeout', '240', ...options, 'sh', '-c', script.join('\n')],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  assert.equal(stderr, '', stdout);
  const printed = stdout.split('@step\n').slice(1);
  assert.equal(printed.length, steps.length, stdout);
  for (const [index, { commands, output }] of steps.entries()) {
    context.diagnostic(commands.trim());
    const [, shown, exitCode] = /^(.*)@exit (\d+)\n$/s.exec(printed[index]!)!;
    assert.equal(exitCode, '0', `${commands}\n${shown!}`);
    assertPrinted(shown!, output!);
  }
}
