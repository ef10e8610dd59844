/**
 * The cost of observation: `npm run build:all && node dist/bench/observe.js`, or only of recording with `--recording`.
 *
 * - Recording: nanoseconds and bytes of garbage per call, in a pool of one thread, and in a shared pool.
 * - Ten clients with an interval of one second: their share of a processor.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Device, DmaPool } from '../src/index.ts';
import { recordPool } from '../src/observe/index.ts';
import { sharePool } from '../src/shared/index.ts';

const BLOCKS = 4096;
const ROUNDS = 300;
const CLIENTS = 10;
const SECONDS = 10;

function round(pool: DmaPool, held: Int32Array): void {
  for (let i = 0; i < BLOCKS; i++) held[i] = pool.allocIndex();
  for (let i = 0; i < BLOCKS; i++) pool.freeIndex(held[i]!);
}

/** Nanoseconds per call: best and median of many rounds. */
function measure(pool: DmaPool, held: Int32Array): { readonly best: number; readonly median: number } {
  const times: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const begin = performance.now();
    round(pool, held);
    times.push(((performance.now() - begin) * 1e6) / (2 * BLOCKS));
  }
  times.sort((a, b) => a - b);
  return { best: times[0]!, median: times[times.length >> 1]! };
}

/** Bytes of garbage per call, the least of several measurements: the engine allocates too when it compiles. */
function garbage(pool: DmaPool, held: Int32Array): number {
  const bytes: number[] = [];
  for (let attempt = 0; attempt < 10; attempt++) {
    const before = process.memoryUsage().heapUsed;
    // Less garbage than the young generation holds, so no collection runs.
    for (let i = 0; i < 20; i++) round(pool, held);
    bytes.push((process.memoryUsage().heapUsed - before) / (20 * 2 * BLOCKS));
  }
  return Math.min(...bytes.filter((each) => each >= 0));
}

function recording(shared: boolean): void {
  const device = new Device({ name: 'bench' });
  const pool = DmaPool.create(shared ? 'shared' : 'local', device, { size: 128, maxBlocks: 2 * BLOCKS });
  if (shared) sharePool(pool);
  const held = new Int32Array(BLOCKS);
  const plain = measure(pool, held);
  const recorder = recordPool(pool);
  const recorded = measure(pool, held);
  const bytes = garbage(pool, held);
  recorder.stop();
  const show = ({ best, median }: { best: number; median: number }): string =>
    `${best.toFixed(1)} (median ${median.toFixed(1)})`;
  console.log(
    `recording, ${shared ? 'shared pool' : 'one thread'}: ${show(plain)} ns per call without, ${show(recorded)} with; ` +
      `${bytes.toFixed(2)} bytes of garbage per call`,
  );
}

/** An idle program with pools, one of them shared. It prints the microseconds of processor time of each second. */
const PROGRAM = `
  import { Device, DmaPool } from 'dmapool';
  import { sharePool } from 'dmapool/shared';
  for (const name of ['a', 'b', 'c', 'd']) {
    const pool = DmaPool.create(name, new Device({ name }), { size: 2048, maxBlocks: 1000 });
    pool.reserve(1000);
    if (name === 'd') sharePool(pool);
  }
  let before = process.cpuUsage();
  setInterval(() => {
    const { user, system } = process.cpuUsage(before);
    before = process.cpuUsage();
    console.log(user + system);
  }, 1000);
`;

async function clients(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-bench-'));
  const child = spawn(
    process.execPath,
    ['--import', 'dmapool/observe/register', '--input-type=module', '-e', PROGRAM],
    { env: { ...process.env, XDG_RUNTIME_DIR: folder }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let costs: number[] = [];
  child.stdout.setEncoding('utf8').on('data', (text: string) => costs.push(...text.trim().split('\n').map(Number)));
  const share = async (): Promise<number> => {
    costs = [];
    await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000));
    return costs.reduce((a, b) => a + b) / costs.length / 1e6;
  };
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const idle = await share();
  const streams = Array.from({ length: CLIENTS }, () =>
    get(
      { socketPath: join(folder, `dmapool-${String(child.pid)}.sock`), path: '/events?interval=1000', agent: false },
      (answer) => {
        answer.resume();
      },
    ),
  );
  const followed = await share();
  for (const stream of streams) stream.on('error', () => undefined).destroy();
  child.kill();
  rmSync(folder, { recursive: true });
  const percent = (part: number): string => `${(part * 100).toFixed(2)} %`;
  console.log(
    `${String(CLIENTS)} clients, one snapshot per second each: ${percent(followed - idle)} of a processor (${percent(idle)} without)`,
  );
}

recording(false);
recording(true);
if (!process.argv.includes('--recording')) await clients();
