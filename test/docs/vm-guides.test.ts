/**
 * Follows the guides to drivers through VFIO step by step in the virtual machine that each starts: saves its programs
 * under their names, runs its commands in order, and compares their output with the guide.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { itInVm } from '../vm/machine.ts';
import { root } from './entry-points.ts';
import { assertPrinted } from './printed.ts';

interface Step {
  /** Shell commands. */
  readonly commands: string;
  /** Their output in the guide. */
  readonly output: string | null;
}

const CLI = join(root, 'dist', 'scripts', 'vm', 'cli.js');
const BLOCKS =
  /^<!-- file: (?<file>\S+) -->\n\n```ts\n(?<source>.*?)^```$|^```sh\n(?<commands>.*?)^```$(?:\n\n<!-- output: in the virtual machine -->\n\n```text\n(?<output>.*?)^```$)?/gms;
/** The machine's options, on the last command line for the host. */
const MACHINE = /^npm run vm -- (.*)\n$/m;

/** Guides, the heading from which on their commands are for the machine, and how many have an output at least. */
const GUIDES = [
  { page: 'first-vfio-driver.md', from: '# Your first VFIO driver', least: 7 },
  { page: 'first-driver.md', from: '## The same driver through VFIO', least: 1 },
];

/** Not on the console, where the commands' output and the shell's mix; and the writable folder is another one. */
function machineOptions(commands: string, folder: string): string[] {
  const options = MACHINE.exec(commands)?.[1]?.split(' ') ?? [];
  assert.equal(options.pop(), '--console');
  return options.map((option, index) => (options[index - 1] === '--writable' ? folder : option));
}

for (const { page, from, least } of GUIDES) {
  itInVm(`the commands of docs/${page} work as written`, (context) => follow(context, page, from, least));
}

async function follow(context: TestContext, page: string, from: string, least: number): Promise<void> {
  const guide = readFileSync(join(root, 'docs', page), 'utf8');
  const blocks = [...guide.slice(guide.indexOf(from)).matchAll(BLOCKS)].map(
    ({ groups }) => groups as Record<string, string | undefined>,
  );
  const [outside, ...inside] = blocks;
  const steps: Step[] = [];
  const script = ['mkdir -p first-driver'];
  for (const { file, source, commands, output } of inside) {
    if (file !== undefined) {
      script.push(`cat > ${file} <<'END-OF-FILE'\n${source!}END-OF-FILE`);
    } else {
      steps.push({ commands: commands!, output: output ?? null });
      script.push('echo "@step"', `(set -e\n${commands!}) 2>&1`, 'echo "@exit $?"');
    }
  }
  assert.ok(
    steps.length >= least && steps.every(({ output }) => output !== null),
    'every command has its output in the guide',
  );

  const folder = mkdtempSync(join(tmpdir(), 'dmapool-guide-'));
  context.after(() => {
    rmSync(folder, { recursive: true });
  });
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
