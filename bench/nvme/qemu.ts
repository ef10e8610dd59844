/**
 * `npm run bench:qemu`: throughput of the NVMe driver on QEMU's device model, and the share of its pools in CPU time.
 *
 *     npm run bench:qemu -- [--seconds N] [--json]
 *
 * The share of alloc and free is measured by two independent methods: V8's sampling profiler, and the price of a block
 * (the same calls on the same pools, alone in a loop) times the number of blocks. CPU time is that of this process with
 * all its threads, without QEMU.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { DmaBlock, DmaPool } from 'dmapool';
import { NvmeController, type NvmeNamespace } from 'dmapool/drivers/nvme';
import { QemuMachine } from 'dmapool/qemu';
import { median } from '../../src/cli/speed.ts';
import { table } from '../../src/cli/style.ts';
import { type CpuShare, profileShare } from './profile.ts';
import { readAtRandom } from './random-reads.ts';

const KIB = 1024;
const DISK_SIZE = 256 * KIB * KIB;
const ROUNDS = 5;
/** Length factor of the profiled round, for enough samples. */
const PROFILED = 3;
/** Maximum share of alloc and free in CPU time. */
const ALLOWED = 0.02;
/** Number of allocations to measure the price of a block. */
const PRICED = 200_000;

interface Load {
  readonly depth: number;
  readonly bytes: number;
}

const LOADS: readonly Load[] = [
  { depth: 1, bytes: 4 * KIB },
  { depth: 32, bytes: 4 * KIB },
  { depth: 32, bytes: 64 * KIB },
];

/** One round of one load. */
interface Round {
  readonly requests: number;
  readonly seconds: number;
  /** CPU time of this process, in seconds. */
  readonly cpu: number;
  /** Allocated blocks of each pool. */
  readonly blocks: readonly number[];
}

interface Result extends Load {
  /** Requests a second: median, and the slowest and fastest round. */
  readonly rate: number;
  readonly slowest: number;
  readonly fastest: number;
  /** Microseconds of CPU time a request. */
  readonly cpu: number;
  /** Blocks a request. */
  readonly blocks: number;
  /** Share of CPU time in alloc and free, 0 to 1. */
  readonly profiled: CpuShare;
  readonly priced: number;
}

/** Runs one round of a load. */
async function runRound(
  nvme: NvmeController,
  disk: NvmeNamespace,
  { depth, bytes }: Load,
  seconds: number,
): Promise<Round> {
  const allocated = (): number[] => nvme.pools.map((pool) => pool.statistics().allocations);
  const before = allocated();
  const { cpu, ...reads } = await readAtRandom(disk, depth, bytes, seconds);
  const blocks = allocated().map((count, i) => count - before[i]!);
  return { ...reads, cpu: (cpu.user + cpu.system) / 1e6, blocks };
}

/** Seconds for one allocation and its free, with `width` blocks held at a time, as a command of the driver does. */
function priceOf(pool: DmaPool, width: number): number {
  if (pool.statistics().blocks < width) pool.reserve(width);
  const blocks: DmaBlock[] = [];
  const prices: number[] = [];
  for (let repetition = 0; repetition < 7; repetition++) {
    const begin = performance.now();
    for (let done = 0; done < PRICED; done += width) {
      for (let i = 0; i < width; i++) blocks[i] = pool.alloc();
      for (let i = width - 1; i >= 0; i--) pool.free(blocks[i]!);
    }
    prices.push((performance.now() - begin) / 1000 / PRICED);
  }
  return median(prices);
}

async function measure(nvme: NvmeController, disk: NvmeNamespace, seconds: number): Promise<Result[]> {
  for (const load of LOADS) await runRound(nvme, disk, load, seconds / 2);
  const rounds: Round[][] = LOADS.map(() => []);
  // Interleave the loads: machine speed drifts.
  for (let i = 0; i < ROUNDS; i++) {
    for (const [k, load] of LOADS.entries()) rounds[k]!.push(await runRound(nvme, disk, load, seconds));
  }
  const results: Result[] = [];
  for (const [k, load] of LOADS.entries()) {
    const profiled = await profileShare(async () => {
      await runRound(nvme, disk, load, PROFILED * seconds);
    });
    const mine = rounds[k]!;
    const rates = mine.map((round) => round.requests / round.seconds);
    const sum = (of: (round: Round) => number): number => mine.reduce((total, round) => total + of(round), 0);
    const requests = sum((round) => round.requests);
    const prices = nvme.pools.map((pool, i) => priceOf(pool, i === 0 ? load.bytes / 4096 : 1));
    const allocating = sum(({ blocks }) => blocks.reduce((total, count, i) => total + count * prices[i]!, 0));
    results.push({
      ...load,
      rate: median(rates),
      slowest: Math.min(...rates),
      fastest: Math.max(...rates),
      cpu: (sum((round) => round.cpu) / requests) * 1e6,
      blocks: sum(({ blocks }) => blocks.reduce((total, count) => total + count, 0)) / requests,
      profiled,
      priced: allocating / sum((round) => round.cpu),
    });
  }
  return results;
}

function print(results: readonly Result[]): void {
  const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
  const percent = (value: number): string => `${(value * 100).toFixed(2)} %`;
  const heading = [
    'reads of',
    'depth',
    'a second',
    'slowest',
    'fastest',
    'CPU us each',
    'blocks each',
    'alloc+free: profiled',
    'priced',
  ];
  const rows = results.map((result) => [
    `${String(result.bytes / KIB)} KiB`,
    String(result.depth),
    whole(result.rate),
    whole(result.slowest),
    whole(result.fastest),
    result.cpu.toFixed(1),
    result.blocks.toFixed(1),
    `${percent(result.profiled.share)} of ${whole(result.profiled.samples)}`,
    percent(result.priced),
  ]);
  console.log(table([heading, ...rows], { rule: true }).join('\n'));
  const most = Math.max(...results.flatMap(({ profiled, priced }) => [profiled.share, priced]));
  console.log(
    `\nAllocation and free take at most ${percent(most)} of the CPU time: ${most < ALLOWED ? 'less' : 'MORE'} than ${percent(ALLOWED)}.`,
  );
  if (most >= ALLOWED) process.exitCode = 1;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seconds: { type: 'string', default: '1' }, json: { type: 'boolean', default: false } },
  });
  const seconds = Number(values.seconds);
  if (!(seconds > 0 && seconds <= 60)) throw new Error('--seconds takes a number above 0, to 60');
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-bench-'));
  let machine: QemuMachine;
  try {
    const file = join(folder, 'disk.img');
    writeFileSync(file, '');
    truncateSync(file, DISK_SIZE);
    machine = await QemuMachine.start({
      drives: [{ id: 'disk0', file }],
      devices: [{ driver: 'nvme', id: 'nvme0', drive: 'disk0', serial: 'bench' }],
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
  try {
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci, { queues: 1, queueDepth: 64 });
    const results = await measure(nvme, await nvme.namespace(1), seconds);
    if (values.json) console.log(JSON.stringify(results));
    else print(results);
    await nvme.close();
    await pci.close();
  } finally {
    await machine.close();
  }
}

await main();
