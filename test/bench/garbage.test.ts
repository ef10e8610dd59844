import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import {
  CollectionWatch,
  garbagePerPair,
  readRounds,
  type Reading,
  heapReflectsAllocations,
} from '../../bench/ours/garbage.ts';
import type { OneThreadLine } from '../../bench/ours/one-thread.ts';
import { runJsonLines } from '../../bench/processes.ts';
import { createHeldBlocks, KERNEL_GEOMETRIES, type Round } from '../../src/cli/speed.ts';
import { Device, DmaPool, HeapMemory } from '../../src/index.ts';

// Proof that the figure which is 0 for the pool is not 0 by construction: a round that leaves garbage is seen to.

const rubbish: { current: unknown } = { current: null };

const wasteful: Round = (_pool, _held, count) => {
  for (let i = 0; i < count; i++) rubbish.current = { i };
};
const onceIn100: Round = (_pool, _held, count) => {
  for (let i = 0; i < count; i += 100) rubbish.current = { i };
};
const idle: Round = (_pool, held, count) => {
  for (let i = 0; i < count; i++) held.indices[i] = i;
};

async function measure(round: Round, rounds: number): Promise<number | null> {
  using watch = new CollectionWatch();
  using device = new Device({ name: 'test', memory: new HeapMemory() });
  const pool = DmaPool.create<string>('test', device, { size: 64 });
  const held = createHeldBlocks();
  const readings: Reading[] = [];
  const empty: Reading[] = [];
  for (let i = -20; i < 9; i++) {
    const none = readRounds(round, pool, held, 1000, 0);
    const some = readRounds(round, pool, held, 1000, rounds);
    if (i < 0) continue;
    empty.push(none);
    readings.push(some);
  }
  await watch.settle();
  return garbagePerPair(readings, empty, watch);
}

test('an object a pair is seen, to its size', async () => {
  const garbage = await measure(wasteful, 3);
  // One field and its header: 16 bytes where pointers are compressed, up to 56 with the engine's spare fields.
  assert.ok(garbage !== null && garbage >= 12 && garbage <= 64, String(garbage));
});

test('an object in a hundred pairs is seen', async () => {
  const garbage = await measure(onceIn100, 20);
  assert.ok(garbage !== null && garbage >= 0.1 && garbage <= 0.7, String(garbage));
});

test('a round that allocates nothing leaves 0', async () => {
  const garbage = await measure(idle, 20);
  assert.ok(garbage !== null && garbage < 0.0005, String(garbage));
});

test('readings that a collection disturbed are left out', async () => {
  using watch = new CollectionWatch();
  const start = performance.now();
  const chunks: unknown[] = [];
  for (let i = 0; i < 200_000; i++) chunks[i % 1000] = new Array(64).fill(i);
  const end = performance.now();
  await watch.settle();
  assert.ok(watch.collectedWithin(start, end));
  assert.ok(!watch.collectedWithin(end + 1e6, end + 2e6));
  const disturbed: Reading = { start: { wall: start, cpu: 0 }, end: { wall: end, cpu: 0 }, pairs: 1, heapGrowth: -5 };
  assert.equal(garbagePerPair([disturbed], [], watch), null);
});

test("this runtime's heap figure sees objects at once", () => {
  assert.ok(heapReflectsAllocations());
});

test('a pair on a pool leaves none, and a block takes at most 64 bytes of heap and its part of 128 a page', () => {
  const program = fileURLToPath(new URL('../../bench/ours/one-thread.js', import.meta.url));
  const settings = ['--rounds', '2', '--repetitions', '2', '--warmup', '1'];
  const [line] = runJsonLines([], [process.execPath, program, ...settings]) as [OneThreadLine];
  assert.equal(line.runtime, `Node ${process.version}`);
  assert.equal(line.results.length, KERNEL_GEOMETRIES.length);
  for (const { size, blocksPerPage, garbageBytesPerPair, heapBytesPerBlock: heap } of line.results) {
    // No timings: these two hold on any machine, or the allocator got worse.
    assert.equal(garbageBytesPerPair, 0, `${String(size)}: garbage`);
    const limit = 64 + 128 / blocksPerPage;
    assert.ok(
      heap !== null && heap > 0 && heap <= limit,
      `${String(size)}: ${String(heap)} bytes a block, at most ${String(limit)}`,
    );
  }
});
