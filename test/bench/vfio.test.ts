import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { timeSharesOf } from '../../bench/nvme/profile.ts';
import { formatResults, resultsOf } from '../../bench/nvme/results.ts';
import { findTool } from '../../scripts/vm/tools.ts';
import { vmSkip } from '../vm/machine.ts';

const PROGRAM = fileURLToPath(new URL('../../bench/nvme/vfio.js', import.meta.url));
const withoutFio =
  process.env['DMAPOOL_REQUIRE_TOOLS'] !== '1' && findTool('fio') === null
    ? 'fio is not installed (Debian: fio)'
    : vmSkip;

void test('a sample counts for its own module, or for the module that called native code', () => {
  const node = (id: number, functionName: string, url: string, hitCount: number, children: number[] = []): object => ({
    id,
    hitCount,
    children,
    callFrame: { functionName, url, scriptId: '', lineNumber: 0, columnNumber: 0 },
  });
  const nodes = [
    node(1, '(root)', '', 0, [2, 3, 4, 6, 9]),
    node(2, '(idle)', '', 10),
    node(3, '(garbage collector)', '', 5),
    node(4, 'processImmediate', 'node:internal/timers', 15, [5]),
    node(5, '#look', 'file:///x/dist/src/pci/interrupts.js', 20),
    node(6, '#reap', 'file:///x/dist/drivers/nvme/controller.js', 10, [7, 8]),
    node(7, 'set', '', 10),
    node(8, 'free', 'file:///x/dist/src/pool/pool.js', 20),
    node(9, 'worker', 'file:///x/dist/bench/vfio-guest.js', 10),
  ] as unknown as Parameters<typeof timeSharesOf>[0]['nodes'];
  const shares = timeSharesOf({ nodes, startTime: 0, endTime: 0 });
  assert.deepEqual(shares, { epoll: 0.1, pci: 0.2, driver: 0.2, allocator: 0.2, runtime: 0.2, benchmark: 0.1 });
});

void test('ratios are those of rounds, and the bottleneck is the largest cost', () => {
  const time = { epoll: 0.1, pci: 0.1, driver: 0.5, allocator: 0.1, runtime: 0.1, benchmark: 0.1 };
  const run = (rate: number, user: number) => ({
    rate,
    cost: { user, system: 10, interrupts: 1, switches: user / 100 },
  });
  const none = [run(1, 500), run(1, 500), run(1, 500)];
  const rounds = [100, 200, 400].map((kernel) => ({
    kernel: [kernel, kernel, kernel],
    ours: {
      interrupts: [run(50, kernel + 100), run(50, 500), run(50, 500)],
      polling: [run(200, 200), run(200, 200), run(600, 30)],
      'busy polling': none,
      adaptive: none,
    },
  }));
  const profiles = (
    [
      ['interrupts', 1],
      ['polling', 1],
      ['polling', 32],
    ] as const
  ).map(([mode, depth]) => ({ mode, depth, time }));
  const [first, second, third] = resultsOf({ rounds, profiles });
  assert.deepEqual(first!.ratio, { median: 0.25, least: 0.125, most: 0.5 });
  assert.deepEqual(first!.kernel, { median: 200, least: 100, most: 400 });
  assert.deepEqual(third!.ratio, { median: 3, least: 1.5, most: 6 });
  assert.deepEqual(first!.cpu, { median: 310, least: 210, most: 510 });
  assert.deepEqual(first!.sleeps, { median: 3, least: 2, most: 5 });
  assert.match(first!.limit, /interrupt latency/);
  assert.match(second!.limit, /the disk/);
  assert.match(third!.limit, /CPU: driver/);
  assert.match(
    formatResults([first!, second!, third!]),
    /^Best ratio to the kernel's driver: 1\.00 \(polling\) at depth 1, 3\.00 \(polling\) at depth 32\.$/m,
  );
});

void test(
  'bench:vfio compares with the kernel, and names the bottleneck',
  { skip: withoutFio, timeout: 300_000 },
  () => {
    const run = spawnSync(process.execPath, [PROGRAM, '--rounds', '1', '--seconds', '0.1', '--json'], {
      encoding: 'utf8',
    });
    assert.equal(run.status, 0, run.stderr);
    const { results } = JSON.parse(run.stdout) as { results: ReturnType<typeof resultsOf> };
    assert.equal(results.length, 12);
    // The figures themselves need a quiet machine.
    for (const { mode, kernel, rate, cpu, interrupts, limit } of results) {
      assert.ok(kernel.median > 0 && rate.median > 0 && cpu.median > 0 && limit !== '');
      assert.equal(interrupts.median > 0, mode !== 'polling', `interrupts: ${String(interrupts.median)}, by ${mode}`);
    }
  },
);

void test('bench:vfio names a missing program in one line', () => {
  const run = spawnSync(process.execPath, [PROGRAM], { encoding: 'utf8', env: { PATH: '/nowhere' } });
  assert.equal(run.status, 1);
  // Administrators' programs are searched in further folders, which do not have fio.
  assert.match(run.stderr, /^bench:vfio: fio is not installed: apt-get install fio\n$/);
});
