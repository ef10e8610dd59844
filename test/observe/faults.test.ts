/**
 * 100 faults in a generated program. `holders`, the log, an error or `dmapool advise` names each, with its pool and, except
 * for a pool that is too small, its line.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Holder } from 'dmapool/observe';
import type { PoolAdvice } from '../../src/cli/advice.ts';
import { Random } from '../support/random.ts';
import { privateFolder, root } from './program.ts';

const FAULTS = 100;
const KINDS = ['leak', 'double free', 'late write', 'holder', 'too small'] as const;

interface Fault {
  readonly kind: (typeof KINDS)[number];
  readonly pool: string;
  /** The line of the fault in the program, or of the free before it. */
  readonly line: number;
  /** Blocks of a leak or a holder. */
  readonly blocks: number;
}

/** Generates the program line by line, to record the line of each fault. */
class Program {
  readonly lines: string[] = [];
  readonly faults: Fault[] = [];

  /** Returns the number of the line. */
  add(line: string): number {
    return this.lines.push(line);
  }
}

function generate(seed: number): Program {
  const random = new Random(seed);
  const program = new Program();
  program.add(`import { Device, DmaPool } from 'dmapool';`);
  program.add(`import { holders } from 'dmapool/observe';`);
  program.add(`const found = {};`);
  program.add(`const log = { error: (text) => { found.last = text; }, warn() {}, info() {} };`);
  program.add(`const note = (pool, what) => { found[pool] = what; };`);
  program.add(`const devices = [0, 1, 2].map((i) => new Device({ name: 'dev' + i, log }));`);
  for (let i = 0; i < FAULTS; i++) addFault(program, random, KINDS[i % KINDS.length]!, i);
  program.add(`console.log(JSON.stringify(found));`);
  program.add(`setInterval(() => {}, 1000);`);
  return program;
}

function addFault(program: Program, random: Random, kind: Fault['kind'], number: number): void {
  const pool = `${kind.replace(' ', '-')}-${String(number)}`;
  const size = random.pick([16, 64, 100, 512, 1024, 4096]);
  const least = random.below(20) + 4;
  const blocks = 1 + random.below(5);
  const limit = kind === 'too small' ? `maxBlocks: ${String(least)}, ` : '';
  program.add(`{`);
  program.add(`  const device = devices[${String(random.below(3))}];`);
  program.add(`  const pool = DmaPool.create('${pool}', device, { size: ${String(size)}, ${limit}debug: true });`);
  // Correct traffic.
  program.add(`  const others = Array.from({ length: ${String(random.below(least))} }, () => pool.alloc());`);
  let line = 0;
  switch (kind) {
    case 'leak':
      line = program.add(`  for (let i = 0; i < ${String(blocks)}; i++) pool.alloc();`);
      program.add(`  pool.freeBulk(others);`);
      program.add(`  device.report = (level, kind, text) => { note('${pool}', text); };`);
      program.add(`  pool.destroy();`);
      program.add(`  delete device.report;`);
      break;
    case 'double free':
      program.add(`  const block = pool.alloc();`);
      line = program.add(`  block.free();`);
      program.add(`  try { block.free(); } catch (error) { note('${pool}', error.message); }`);
      program.add(`  pool.freeBulk(others);`);
      break;
    case 'late write':
      program.add(`  const block = pool.alloc();`);
      program.add(`  const { bytes } = block;`);
      line = program.add(`  block.free();`);
      program.add(`  bytes[${String(random.below(16))}] = 1;`);
      program.add(`  device.report = (level, kind, text) => { note('${pool}', text); };`);
      program.add(`  others.push(pool.alloc());`);
      program.add(`  delete device.report;`);
      program.add(`  pool.freeBulk(others);`);
      break;
    case 'holder':
      line = program.add(`  for (let i = 0; i < ${String(blocks)}; i++) pool.alloc();`);
      program.add(`  for (let i = 0; i < 50; i++) pool.alloc().free();`);
      program.add(`  pool.freeBulk(others);`);
      program.add(`  note('${pool}', holders(pool));`);
      break;
    case 'too small':
      program.add(`  setInterval(() => {`);
      line = program.add(`    const held = []; for (let b; (b = pool.tryAlloc()) !== null; ) held.push(b);`);
      program.add(`    pool.freeBulk(held);`);
      program.add(`  }, 50);`);
      program.add(`  pool.freeBulk(others);`);
      break;
  }
  program.add(`}`);
  program.faults.push({ kind, pool, line, blocks });
}

test('100 seeded faults are each reported, with pool and line', { timeout: 120_000 }, async () => {
  const { lines, faults } = generate(2026);
  const scratch = join(root, 'dist', 'observe-faults');
  mkdirSync(scratch, { recursive: true });
  const file = join(scratch, 'program.mjs');
  writeFileSync(file, lines.join('\n'));
  const folder = privateFolder();
  const env = { ...process.env, XDG_RUNTIME_DIR: folder };
  const child = spawn(process.execPath, ['--import', 'dmapool/observe/register', file], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const text = await new Promise<string>((resolve) => {
      let all = '';
      child.stdout.setEncoding('utf8').on('data', (piece: string) => {
        all += piece;
        if (all.endsWith('\n')) resolve(all);
      });
    });
    const found = JSON.parse(text) as Record<string, unknown>;
    const command = [join(root, 'bin', 'dmapool.js'), 'advise', String(child.pid), '--seconds', '1', '--json'];
    const { stdout, stderr } = spawnSync(process.execPath, command, { env, encoding: 'utf8' });
    assert.equal(stderr, '');
    const advised = new Map((JSON.parse(stdout) as PoolAdvice[]).map((each) => [each.name, each.advice]));
    const place = (line: number): RegExp => new RegExp(`program\\.mjs:${String(line)}:`);
    for (const { kind, pool, line, blocks } of faults) {
      const evidence = found[pool];
      const where = `${pool}, line ${String(line)}: ${JSON.stringify(evidence)}`;
      switch (kind) {
        case 'leak':
          assert.match(evidence as string, new RegExp(`${pool} busy: ${String(blocks)} still out`), where);
          assert.match(evidence as string, place(line), where);
          break;
        case 'double free':
          assert.match(evidence as string, new RegExp(`pool ${pool}: .*(not allocated|not the current one)`), where);
          assert.match(evidence as string, place(line), where);
          break;
        case 'late write':
          assert.match(evidence as string, new RegExp(`^${pool}: block \\d+ at .* written to while free`), where);
          assert.match(evidence as string, place(line), where);
          break;
        case 'holder': {
          const [holder, ...more] = evidence as Holder[];
          assert.deepEqual([holder!.count, more.length], [blocks, 0], where);
          assert.match(holder!.site!, place(line), where);
          break;
        }
        case 'too small': {
          const changes = advised.get(pool)?.map(({ about, change }) => `${about}: ${String(change)}`) ?? [];
          assert.ok(
            changes.some((change) => change.includes('limit: a higher maxBlocks')),
            `${pool}: ${changes.join('; ')}`,
          );
          break;
        }
      }
    }
    // No false positives.
    for (const [name, advice] of advised) {
      if (!name.startsWith('too-small')) assert.ok(!advice.some(({ change }) => change?.includes('too small')), name);
    }
  } finally {
    child.kill();
    rmSync(folder, { recursive: true, force: true });
    rmSync(scratch, { recursive: true, force: true });
  }
});
