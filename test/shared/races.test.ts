/** Pools of one device that are created, shared, attached to and destroyed concurrently. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { type SharedPoolHandle, sharePool } from 'dmapool/shared';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';
import { until } from './fixture.ts';
import type { Outcome, Visit } from './passer-by.ts';

/** Few blocks per pool, so that the visitors contend. */
const BLOCKS = 64;

class PasserBy {
  readonly worker: Worker = new Worker(new URL('./passer-by.js', import.meta.url));
  readonly outcomes: Outcome[] = [];
  asked = 0;

  constructor() {
    this.worker.on('message', (outcome: Outcome) => this.outcomes.push(outcome));
  }

  send(handle: SharedPoolHandle, pairs: number): void {
    this.asked++;
    this.worker.postMessage({ handle, pairs } satisfies Visit);
  }

  get isDone(): boolean {
    return this.outcomes.length === this.asked;
  }
}

async function passersBy(t: TestContext, count: number): Promise<PasserBy[]> {
  const all = Array.from({ length: count }, () => new PasserBy());
  t.after(() => Promise.all(all.map(({ worker }) => worker.terminate())));
  await Promise.all(all.map(({ worker }) => once(worker, 'online')));
  return all;
}

test('nothing is lost when create, share, attach and destroy race, in any order', { timeout: 60_000 }, async (t) => {
  const visitors = await passersBy(t, 3);
  const memory = new HeapMemory();
  const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
  const pools: DmaPool[] = [];
  for (let round = 0; round < 120; round++) {
    const pool = DmaPool.create<string>(`p${String(round)}`, device, { size: 256, maxBlocks: BLOCKS });
    pools.push(pool);
    const handle = sharePool(pool).handle;
    for (const visitor of visitors) visitor.send(handle, (round * 7) % 300);
    // Each pool is destroyed before, during or after the attach.
    if (round % 3 !== 0) await new Promise((resolve) => setTimeout(resolve, round % 3));
    const index = pool.tryAllocIndex();
    pool.destroy();
    if (index >= 0) pool.freeIndex(index);
  }
  await until('all visits have ended', () => visitors.every(({ isDone }) => isDone), 30_000);
  await until('the memory is returned', () => memory.bytesInUse === 0);
  assert.equal(device.readAttribute('pools'), undefined);
  const codes = new Set(visitors.flatMap(({ outcomes }) => outcomes));
  codes.delete('ERR_DMAPOOL_LIMIT');
  assert.deepEqual([...codes].sort(), ['ERR_DMAPOOL_DESTROYED', 'left'], 'both orders occurred, and no other error');
  for (const pool of pools) assert.equal(pool.statistics().active, 0);
});

test(
  'pools of one device can be shared and destroyed by turns while others are in use',
  { timeout: 60_000 },
  async (t) => {
    const visitors = await passersBy(t, 2);
    const memory = new HeapMemory();
    const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
    const lasting = DmaPool.create('lasting', device, { size: 256, maxBlocks: BLOCKS });
    const handle = sharePool(lasting).handle;
    for (let round = 0; round < 60; round++) {
      for (const visitor of visitors) visitor.send(handle, 50);
      const passing = DmaPool.create('passing', device, { size: 64, maxBlocks: BLOCKS });
      assert.match(device.readAttribute('pools') ?? '', /^poolinfo - 0\.1\npassing .*\nlasting /);
      sharePool(passing);
      passing.destroy();
      assert.match(device.readAttribute('pools') ?? '', /^poolinfo - 0\.1\nlasting /);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until('all visits have ended', () => visitors.every(({ isDone }) => isDone), 30_000);
    lasting.destroy();
    await until('the memory is returned', () => memory.bytesInUse === 0);
    assert.equal(device.readAttribute('pools'), undefined);
  },
);

test('a create or a share that fails at any step is rolled back', () => {
  for (const fate of ['none', 'throw'] as const) {
    for (let failing = 0; ; failing++) {
      const memory = new FaultyMemory();
      memory.onAlloc = (call) => (call === failing ? fate : 'ok');
      const device = new Device({ name: 'nic', memory, log: new RecordingLog() });
      const pool = DmaPool.create('rx', device, { size: 1024, maxBlocks: 32 });
      let failed = false;
      try {
        pool.reserve(8);
        sharePool(pool);
      } catch {
        failed = true;
        assert.equal(pool.statistics().active, 0);
        pool.freeIndex(pool.allocIndex());
      }
      pool.destroy();
      assert.equal(device.readAttribute('pools'), undefined, `call ${String(failing)}: ${fate}`);
      assert.equal(memory.live.size, 0, `call ${String(failing)}: ${fate}`);
      if (!failed) {
        assert.equal(failing, 8, 'each page was refused once');
        break;
      }
    }
  }
});
