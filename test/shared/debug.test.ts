/** Debug mode across workers: poison, quarantine, handles and reports. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool, HeapMemory } from 'dmapool';
import { attachPool, sharePool } from 'dmapool/shared';
import { attachControl } from '../../src/shared/layout.ts';
import { EMPTY } from '../../src/pool/free-list.ts';
import { throwsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { attachedWorker, until } from './fixture.ts';

/** Two attachments to one debug pool in one thread. They share the same state as two threads do. */
function twoSides(): { here: DmaPool; there: DmaPool; log: RecordingLog; other: RecordingLog } {
  const log = new RecordingLog();
  const other = new RecordingLog();
  const here: DmaPool = DmaPool.create('rx', new Device({ name: 'nic', memory: new HeapMemory(), log }), {
    size: 64,
    maxBlocks: 128,
    debug: true,
  });
  const handle = sharePool(here).handle;
  const there: DmaPool = attachPool(handle, { device: new Device({ name: 'nic', log: other }) }).pool;
  return { here, there, log, other };
}

test('blocks are poisoned, and generations continue across workers', () => {
  const { here, there } = twoSides();
  const block = here.alloc();
  assert.ok(block.bytes.every((byte) => byte === 0xa9));
  assert.equal(block.generation, 1);
  block.bytes.fill(7);
  const moved = sharePool(there).accept(sharePool(here).transfer(block));
  assert.ok(moved.bytes.every((byte) => byte === 7));
  assert.equal(moved.index, block.index);
  throwsCode('ERR_DMAPOOL_NOT_OWNER', () => {
    here.free(block);
  });
  there.free(moved);
  assert.ok(there.bytesOf(moved.index).every((byte) => byte === 0xa7));
  const again = there.alloc();
  assert.equal(again.index, moved.index);
  assert.equal(again.generation, 2);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    there.free(moved);
  });
});

test('the next allocation finds a write to a free block and names the site of the free', () => {
  const { here, there, other } = twoSides();
  const block = there.alloc();
  const bytes = there.bytesOf(block.index);
  const freeIt = (): void => {
    there.free(block);
  };
  freeIt();
  bytes[5] = 0;
  const next = there.alloc();
  assert.notEqual(next.index, block.index);
  assert.match(other.text, /rx: block \d+ at .* was written to while free.*freed at freeIt \(.*debug\.test/s);
  assert.match(other.text, /found by worker 2/);
  for (const pool of [here, there]) {
    const { corrupted, quarantined, active } = pool.statistics();
    assert.deepEqual([corrupted, quarantined, active], [1, 1, 1]);
  }
});

test('reports name the owner and the allocation site, for blocks of other workers too', () => {
  const { here, there, log } = twoSides();
  const holdHere = (): unknown => here.alloc();
  const holdThere = (): unknown => there.alloc();
  holdHere();
  holdThere();
  holdThere();
  here.destroy();
  assert.match(
    log.text,
    /rx busy: 3 blocks are still out:\n {2}1 with worker 1 \(thread \d+\):\s+1 allocated at holdHere/,
  );
  assert.match(log.text, /2 with worker 2 \(thread \d+\):\s+2 allocated at holdThere/);
});

test('init-on-alloc and init-on-free apply in every worker', () => {
  const memory = new HeapMemory();
  const here: DmaPool = DmaPool.create('rx', new Device({ name: 'nic', memory }), {
    size: 64,
    maxBlocks: 128,
    initOnAlloc: true,
  });
  const there: DmaPool = attachPool(sharePool(here).handle).pool;
  const block = there.alloc();
  block.bytes.fill(1);
  there.free(block);
  assert.ok(there.alloc().bytes.every((byte) => byte === 0));
});

test('a quarantined block stays in quarantine when the pool is shared', () => {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  const pool: DmaPool = DmaPool.create('rx', device, { size: 64, maxBlocks: 64, debug: true });
  const block = pool.alloc();
  const bytes = pool.bytesOf(block.index);
  pool.free(block);
  bytes[5] = 0;
  pool.free(pool.alloc());
  // The byte has the poison value again; the quarantine must remain.
  bytes[5] = 0xa7;
  const there: DmaPool = attachPool(sharePool(pool).handle).pool;
  const taken = new Set<number>();
  for (let index = there.tryAllocIndex(); index >= 0; index = there.tryAllocIndex()) taken.add(index);
  for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) taken.add(index);
  assert.ok(!taken.has(block.index));
  assert.equal(taken.size, 63);
  assert.equal(there.statistics().quarantined, 1);
});

/** Kills a worker that wrote to three blocks; one is in transit and one is half-way through a bulk free. */
async function killHolder(pool: DmaPool): Promise<void> {
  const handle = sharePool(pool).handle;
  const worker = await attachedWorker(handle);
  const indices = await worker.call('alloc', 3);
  for (const index of indices) await worker.call('write', index, 0x4242_4242);
  await worker.call('transfer', [indices[0]!]);
  // The state that a kill in the middle of freeIndexBulk leaves: a free word, and the bytes of the last holder.
  attachControl(handle.control).words[indices[1]!] = EMPTY;
  await worker.kill();
  assert.equal(sharePool(pool).reclaim(), 2);
}

function takeAll(pool: DmaPool): number[] {
  const taken: number[] = [];
  for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) taken.push(index);
  return taken;
}

test('the blocks of a dead worker are poisoned after recovery, and none is reported as corrupted', async () => {
  const log = new RecordingLog();
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log });
  const pool: DmaPool = DmaPool.create('rx', device, { size: 64, maxBlocks: 16, debug: true });
  await killHolder(pool);
  assert.equal(takeAll(pool).length, 16);
  assert.equal(pool.statistics().corrupted, 0, log.text);
});

test('the blocks that a leaving worker held are poisoned after recovery', () => {
  const { here, there, log, other } = twoSides();
  there.alloc().bytes.fill(1);
  there.destroy();
  assert.equal(sharePool(here).reclaim(), 1);
  assert.equal(takeAll(here).length, 128);
  assert.equal(here.statistics().corrupted, 0, log.text + other.text);
});

test('init-on-free: the next holder sees no byte of a dead worker', async () => {
  const device = new Device({ name: 'nic', memory: new HeapMemory(), log: new RecordingLog() });
  const pool: DmaPool = DmaPool.create('rx', device, { size: 64, maxBlocks: 16, initOnFree: true });
  await killHolder(pool);
  for (const index of takeAll(pool)) assert.ok(pool.bytesOf(index).every((byte) => byte === 0));
});

test('a write to a block after reclaim is detected', () => {
  const { here, there, log } = twoSides();
  const block = there.alloc();
  const { bytes } = block;
  there.destroy();
  const takeBack = (): number => sharePool(here).reclaim();
  assert.equal(takeBack(), 1);
  bytes[3] = 0;
  assert.equal(takeAll(here).length, 127);
  assert.match(log.text, /was written to while free.*freed at takeBack/s);
});

// ---- waits that end while a block is checked

/**
 * All blocks are allocated here. Each block that `there` waits for is corrupted when it is freed, so that the log runs
 * during the check of that block.
 */
function spoiling(quarantine: boolean): {
  here: DmaPool;
  there: DmaPool;
  spoilOne: () => void;
  onSpoiled: (call: () => void) => void;
} {
  let call = (): void => undefined;
  const log = {
    error: () => {
      call();
    },
    warn: () => undefined,
    info: () => undefined,
  };
  const here: DmaPool = DmaPool.create('rx', new Device({ name: 'nic', memory: new HeapMemory(), log }), {
    size: 64,
    maxBlocks: 4,
    debug: { quarantine },
  });
  const { handle } = sharePool(here, { magazine: 2 });
  const there = attachPool(handle, { device: new Device({ name: 'nic', log }) }).pool;
  const held = [here.alloc(), here.alloc(), here.alloc(), here.alloc()];
  const spoilOne = (): void => {
    const block = held.pop()!;
    const bytes = here.bytesOf(block.index);
    here.free(block);
    bytes[5] = 0;
  };
  return {
    here,
    there,
    spoilOne,
    onSpoiled: (next) => {
      call = next;
    },
  };
}

test('a block is not lost when the log aborts the wait that it was for', async () => {
  const { here, there, spoilOne, onSpoiled } = spoiling(false);
  const controller = new AbortController();
  const waiting = there.allocWait({ signal: controller.signal });
  onSpoiled(() => {
    controller.abort(new Error('enough'));
  });
  spoilOne();
  await assert.rejects(waiting, /enough/);
  const got = await here.allocWait({ timeout: 2000 });
  assert.equal(here.statistics().active, 4);
  here.free(got);
});

test('when the log aborts a wait, the next waiter and those after it are served', async () => {
  const { there, spoilOne, onSpoiled } = spoiling(false);
  const controller = new AbortController();
  const first = there.allocWait({ signal: controller.signal });
  const second = there.allocWait({ timeout: 2000 });
  onSpoiled(() => {
    controller.abort(new Error('enough'));
  });
  spoilOne();
  await assert.rejects(first, /enough/);
  await second;
  assert.equal(there.statistics().waiting, 0);
  const third = there.allocWait({ timeout: 2000 });
  spoilOne();
  await third;
});

test('a wait whose block goes to quarantine does not stop the waiters behind it', async () => {
  const { there, spoilOne, here, onSpoiled } = spoiling(true);
  const waits = [there.allocWait({ timeout: 2000 }), there.allocWait({ timeout: 2000 })];
  const order: number[] = [];
  for (const [at, wait] of waits.entries())
    void wait.then(
      () => order.push(at),
      () => undefined,
    );
  let spoiled = 0;
  onSpoiled(() => {
    spoiled++;
  });
  spoilOne();
  await until('the block is in quarantine', () => spoiled === 1);
  for (const block of [...here.allocated()]) here.free(block);
  await Promise.all(waits);
  assert.deepEqual(order, [0, 1]);
});
