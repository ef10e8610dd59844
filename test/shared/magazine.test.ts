/** The magazine of a worker follows its bursts, and gives blocks back when another worker needs them. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { DmaPool } from 'dmapool';
import { H_SUPPLY } from '../../src/shared/layout.ts';
import { Workers } from '../../src/shared/workers.ts';
import { range, sharedPool } from './fixture.ts';
import type { RemoteWorker } from './remote.ts';

const BURST = 1024;
/** Room for one burst and little more: the share of each of two workers is about half a burst. */
const MAX_BLOCKS = BURST + 32;

/** Allocates up to `count` blocks and frees them. */
function burst(pool: DmaPool, count: number): void {
  const taken: number[] = [];
  while (taken.length < count) {
    const index = pool.tryAllocIndex();
    if (index < 0) break;
    taken.push(index);
  }
  for (const index of taken) pool.freeIndex(index);
}

interface Bursts {
  readonly pool: DmaPool;
  readonly worker: RemoteWorker;
  /** Moves of blocks to the depot so far, by all workers. */
  readonly moves: () => number;
  /** Idle blocks in this thread's magazine, at its last slow call. */
  readonly idle: () => number;
}

/** A pool of which this thread allocates alone, in bursts; another worker has allocated before. */
async function bursts(t: TestContext): Promise<Bursts> {
  const { pool, handle, workers } = await sharedPool(t, { size: 64, maxBlocks: MAX_BLOCKS });
  const worker = workers[0]!;
  await worker.call('free', await worker.call('alloc', 1));
  const header = new Int32Array(handle.control);
  for (let i = 0; i < 64; i++) burst(pool, BURST);
  return { pool, worker, moves: () => Atomics.load(header, H_SUPPLY), idle: () => new Workers(header).idleOf(1) };
}

test('each burst of a worker that allocates alone moves few blocks, but some', async (t) => {
  const { pool, moves } = await bursts(t);
  for (let i = 0; i < 16; i++) {
    const before = moves();
    burst(pool, BURST);
    const count = moves() - before;
    assert.ok(count >= 1 && count <= 3, `${String(count)} moves`);
  }
});

test('a burst that grows is followed, and so is one that shrinks', async (t) => {
  const { pool, moves } = await bursts(t);
  for (const size of [600, 900, BURST - 1, 700]) {
    for (let i = 0; i < 64; i++) burst(pool, size);
    const before = moves();
    for (let i = 0; i < 16; i++) burst(pool, size);
    assert.ok(moves() - before <= 3 * 16, `bursts of ${String(size)}: ${String(moves() - before)} moves`);
  }
});

test('another worker gets blocks from a magazine beyond its share, although its thread does not yield', async (t) => {
  const { pool, worker } = await bursts(t);
  const answers = range(0, 150).map(() => worker.call('wait'));
  const deadline = performance.now() + 20_000;
  while (pool.statistics().active < 150 && performance.now() < deadline) burst(pool, BURST);
  assert.ok(pool.statistics().active >= 150, `${String(pool.statistics().active)} blocks`);
  await Promise.all(answers);
});

test('a magazine shrinks to its share when another worker needs its blocks', async (t) => {
  const { pool, worker, idle, moves } = await bursts(t);
  assert.ok(idle() > MAX_BLOCKS / 2, 'it was alone before');
  await worker.call('wait');
  await worker.call('alloc', 300);
  const before = moves();
  burst(pool, BURST - 300);
  assert.ok(moves() - before >= 2, `${String(moves() - before)} moves`);
  assert.ok(idle() <= MAX_BLOCKS / 2, `${String(idle())} blocks`);
});
