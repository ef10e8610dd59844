/** Every command has `--json`, prints one document a line with it, and docs/command-line.md describes the document. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { TourDocument } from '../../src/cli/demo-document.ts';
import { privateFolder, type Program, root, startProgram } from '../observe/program.ts';
import { withoutQemu } from '../qemu/qemu.ts';
import { checkoutPath, tracePath } from '../trace/hand-made.ts';
import { runCli } from './run-cli.ts';

const COMMAND = join(root, 'bin', 'dmapool.js');
let program: Program;
const folder = privateFolder();

before(async () => {
  program = await startProgram(`
    const pool = DmaPool.create('rx', device, { size: 2048, maxBlocks: 64 });
    setInterval(() => pool.alloc().free(), 10);
    console.log('up');
  `);
});

after(async () => {
  await program.stop();
  rmSync(folder, { recursive: true });
});

/** Names of the commands, from the help. */
async function commandNames(): Promise<string[]> {
  const { out } = await runCli(['--help']);
  const [, list = ''] = out.split('Commands:\n');
  const names = [...list.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name!);
  return names.filter((name) => name !== 'help');
}

const pid = (): string => String(program.pid);
const trace = tracePath('6.1/e100.trace.gz');

/** How to run each command, and what its document must have. Without arguments: it can't run in a test. */
const RUNS: Readonly<Record<string, (() => readonly string[]) | string>> = {
  replay: () => ['replay', trace, '--repeat', '1'],
  layout: () => ['layout', '--size', '68'],
  bench: () => ['bench', '--rounds', '1', '--repetitions', '1'],
  demo: () => ['demo', 'ehci'],
  ps: () => ['ps'],
  top: () => ['top', pid(), '-n', '1'],
  cat: () => ['cat', pid(), '/sys/devices/0000:00:09.0/pools'],
  metrics: () => ['metrics', pid()],
  web: 'runs until it is interrupted',
  record: () => ['record', pid(), '-o', join(folder, 'x.trace'), '--seconds', '1'],
  advise: () => ['advise', trace],
  devices: () => ['devices'],
  bind: 'changes the machine',
  unbind: 'changes the machine',
};

test('every command is covered here', async () => {
  assert.deepEqual((await commandNames()).sort(), Object.keys(RUNS).sort());
});

test('every command has --json, and the guide describes its document', async () => {
  const guide = readFileSync(checkoutPath('docs/command-line.md'), 'utf8');
  const [, documents = ''] = guide.split('## JSON\n');
  for (const name of await commandNames()) {
    const { out } = await runCli([name, '--help']);
    assert.match(out, /^ +--json +print /m, name);
    assert.match(documents, new RegExp(`^\\| .*\`${name}\``, 'm'), name);
  }
});

/** Members of the documents of a command, by the table in the guide. */
function documentedMembers(name: string): string[] {
  const guide = readFileSync(checkoutPath('docs/command-line.md'), 'utf8');
  const row = guide.split('\n').find((line) => line.startsWith('|') && line.split('|')[1]!.includes(`\`${name}\``));
  return [...row!.split('|')[2]!.matchAll(/`([a-zA-Z]+)`/g)].map(([, member]) => member!);
}

for (const [name, args] of Object.entries(RUNS)) {
  if (typeof args === 'string') continue;
  const skip = name === 'demo' ? withoutQemu : false;
  test(`dmapool ${name} --json prints the members that the guide names`, { skip, timeout: 120_000 }, () => {
    const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
    const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, ...args(), '--json'], {
      encoding: 'utf8',
      env,
    });
    assert.deepEqual([status, stderr], [0, '']);
    assert.match(stdout, /^[^\n]+\n$/);
    const document = JSON.parse(stdout) as object | readonly object[];
    const [first] = Array.isArray(document) ? (document as readonly object[]) : [document];
    // A machine may have no PCI functions.
    if (first === undefined) assert.equal(name, 'devices');
    else assert.deepEqual(Object.keys(first).sort(), documentedMembers(name).sort());
  });
}

test('dmapool demo --json prints the steps of the tour', async () => {
  const { code, out } = await runCli(['demo', '--json']);
  const { driver, steps } = JSON.parse(out) as TourDocument;
  assert.deepEqual([code, driver], [0, null]);
  assert.ok(steps.length > 3 && steps.every(({ heading, lines }) => heading !== '' && lines.length > 0));
  assert.match(steps.flatMap(({ reports }) => reports).join('\n'), /allocated at/);
});

test('dmapool web --json prints the members that the guide names', async () => {
  const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
  const child = spawn(process.execPath, [COMMAND, 'web', pid(), '--json'], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const line = await new Promise<string>((resolve) => child.stdout.setEncoding('utf8').once('data', resolve));
    assert.deepEqual(Object.keys(JSON.parse(line) as object).sort(), documentedMembers('web').sort());
  } finally {
    child.kill();
  }
});
