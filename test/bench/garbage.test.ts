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

// Proves that the figure 0 for the pool is a measurement: a round that leaves garbage is detected.

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

test('an object per pair is detected, to its size', async () => {
  const garbage = await measure(wasteful, 3);
  // One field and its header: 16 bytes where pointers are compressed, up to 56 with the engine's spare fields.
  assert.ok(garbage !== null && garbage >= 12 && garbage <= 64, String(garbage));
});

test('an object in a hundred pairs is detected', async () => {
  const garbage = await measure(onceIn100, 20);
  assert.ok(garbage !== null && garbage >= 0.1 && garbage <= 0.7, String(garbage));
});

test('a round that allocates nothing leaves 0', async () => {
  const garbage = await measure(idle, 20);
  assert.ok(garbage !== null && garbage < 0.0005, String(garbage));
});

test('readings disturbed by a collection are discarded', async () => {
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

test('this runtime’s heap figure counts objects at once', () => {
  assert.ok(heapReflectsAllocations());
});

test('a pair on a pool leaves no garbage, and a block uses at most 64 bytes of heap and its share of 128 per page', () => {
  const program = fileURLToPath(new URL('../../bench/ours/one-thread.js', import.meta.url));
  const settings = ['--rounds', '2', '--repetitions', '2', '--warmup', '1'];
  const [line] = runJsonLines([], [process.execPath, program, ...settings]) as [OneThreadLine];
  assert.equal(line.runtime, `Node ${process.version}`);
  assert.equal(line.results.length, KERNEL_GEOMETRIES.length);
  for (const { size, blocksPerPage, garbageBytesPerPair, heapBytesPerBlock: heap } of line.results) {
    // No timings: these two figures are the same on any machine, unless the allocator regressed.
    assert.equal(garbageBytesPerPair, 0, `${String(size)}: garbage`);
    const limit = 64 + 128 / blocksPerPage;
    assert.ok(
      heap !== null && heap > 0 && heap <= limit,
      `${String(size)}: ${String(heap)} bytes a block, at most ${String(limit)}`,
    );
  }
});
