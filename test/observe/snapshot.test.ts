import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type CoherentAllocator, Device, DmaPool, HeapMemory } from 'dmapool';
import { BLOCK_STATE, blockSnapshot, holders, snapshot } from 'dmapool/observe';
import { sharePool } from 'dmapool/shared';
import { throwsCode } from '../support/errors.ts';
import { blockStates, checkSnapshot, quietDevice, seenOf, silent } from './fixture.ts';

test('a snapshot has the figures of statistics()', () => {
  const pool = DmaPool.create('figures', quietDevice(), { size: 100, align: 32, boundary: 4096, maxBlocks: 40 });
  const blocks = Array.from({ length: 40 }, () => pool.alloc());
  assert.equal(pool.tryAlloc(), null);
  for (const block of blocks.slice(7)) block.free();
  const seen = seenOf(pool);
  const { name, size, align, boundary, blockSize, maxBlocks, debug, shared, state, map } = seen;
  assert.deepEqual(
    { name, size, align, boundary, blockSize, maxBlocks, debug, shared, state, map },
    {
      name: 'figures',
      size: 100,
      align: 32,
      boundary: 4096,
      blockSize: 128,
      maxBlocks: 40,
      debug: false,
      shared: null,
      state: 'open',
      map: null,
    },
  );
  for (const [figure, value] of Object.entries(pool.statistics())) {
    assert.equal(seen[figure as keyof typeof seen], value, figure);
  }
  assert.deepEqual(seen.workers, [
    { worker: 0, thread: 0, state: 'attached', held: 7, cached: 33, inTransit: 0, allocations: 40 },
  ]);
});

test('devices have path, mask, node and attributes, also without pools', () => {
  const controller = new Device({ name: '0000:00:1d.7', dmaMask: 2 ** 36 - 1, numaNode: 1, log: silent });
  const disk = new Device({ name: '1-1', parent: controller, log: silent });
  const { devices } = checkSnapshot(snapshot());
  const found = devices.find(({ path }) => path === disk.path);
  assert.deepEqual(
    { ...found, id: 0, source: 0 },
    {
      id: 0,
      thread: 0,
      name: '1-1',
      path: '/sys/devices/0000:00:1d.7/1-1',
      dmaMask: 2 ** 32 - 1,
      numaNode: -1,
      source: 0,
      bytes: 0,
      attributes: [],
      pools: [],
    },
  );
  const above = devices.find(({ path }) => path === controller.path);
  assert.equal(above?.dmaMask, 2 ** 36 - 1);
  assert.equal(above.numaNode, 1);
});

test('a memory source occurs once, with its figures', () => {
  const memory = new HeapMemory({ limit: 1024 * 1024 });
  const [a, b] = ['src-a', 'src-b'].map((name) => new Device({ name, memory, log: silent }));
  DmaPool.create('one', a!, { size: 4096 }).alloc();
  const { devices, sources } = checkSnapshot(snapshot());
  const ids = ['src-a', 'src-b'].map((name) => devices.find((device) => device.name === name)!.source);
  assert.equal(ids[0], ids[1]);
  assert.ok(b !== undefined);
  const [source, ...more] = sources.filter(({ id }) => id === ids[0]);
  assert.deepEqual(more, []);
  const { bytesCommitted, bytesInUse, limit } = memory;
  assert.deepEqual(
    { ...source, id: 0 },
    {
      id: 0,
      thread: 0,
      name: 'heap',
      pageSize: 4096,
      committed: bytesCommitted,
      inUse: bytesInUse,
      limit,
      mappings: null,
      faults: 0,
    },
  );
});

test('a figure is null if the memory source throws', () => {
  const heap = new HeapMemory();
  const memory: CoherentAllocator & { readonly limit: number } = {
    name: 'odd',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (given) => {
      heap.freeCoherent(given);
    },
    get limit(): number {
      throw new Error('not today');
    },
  };
  new Device({ name: 'odd-source', memory, log: silent });
  const { sources } = checkSnapshot(snapshot());
  assert.equal(sources.find(({ name }) => name === 'odd')?.limit, null);
});

test('each block has a state, on request', async () => {
  const pool = DmaPool.create('states', quietDevice(), { size: 1024, debug: true, maxBlocks: 8 });
  const blocks = Array.from({ length: 6 }, () => pool.alloc());
  blocks[1]!.free();
  // A write after the free, detected at the next allocation.
  const late = blocks[3]!.bytes;
  blocks[3]!.free();
  late[5] = 1;
  pool.alloc();
  pool.alloc();
  const { allocated, free, unusable } = BLOCK_STATE;
  const states = blockStates(pool).map(({ state }) => state);
  assert.equal(states.length, 8);
  assert.equal(states[0], allocated);
  assert.equal(states[3], unusable);
  assert.equal(states.filter((state) => state === free).length, 8 - 1 - pool.statistics().active);
  assert.equal(blockSnapshot(pool, 3)?.state, 'quarantined');
  const shown = blockSnapshot(pool, 0)!;
  assert.equal(shown.state, 'allocated');
  assert.equal(shown.dma, blocks[0]!.dma);
  assert.match(shown.site!, /snapshot\.test/);
  assert.ok(shown.age! >= 0 && shown.age! < 60_000);
  assert.equal(blockSnapshot(pool, 8), null);
  assert.equal(blockSnapshot(pool, -1), null);
  await Promise.resolve();
});

test('a pool is visible until it has returned its memory', () => {
  const device = quietDevice();
  const pool = DmaPool.create('ends', device, { size: 64 });
  const block = pool.alloc();
  pool.destroy();
  assert.equal(seenOf(pool).state, 'destroyed');
  block.free();
  const { devices } = snapshot();
  assert.deepEqual(devices.find(({ path }) => path === device.path)?.pools, []);
});

test('waits are counted by duration, also when the pool becomes shared between them', async () => {
  const pool = DmaPool.create('waits', quietDevice(), { size: 64, maxBlocks: 1 });
  const wait = async (): Promise<void> => {
    const block = pool.alloc();
    const waiting = pool.allocWait();
    setTimeout(() => {
      block.free();
    }, 20);
    (await waiting).free();
  };
  await wait();
  sharePool(pool);
  await wait();
  const { waitTimes, waits, waiting } = seenOf(pool);
  assert.deepEqual({ waits, waiting }, { waits: 2, waiting: 0 });
  const { bounds, counts, sum } = waitTimes;
  assert.equal(counts.length, bounds.length + 1);
  assert.equal(
    counts.reduce((a, b) => a + b),
    2,
  );
  // Both waits took 20 ms or more.
  assert.deepEqual(counts.slice(0, bounds.indexOf(10) + 1), [0, 0, 0, 0, 0]);
  assert.ok(sum >= 39, String(sum));
});

test('holders have site, count and age', async () => {
  const pool = DmaPool.create('held', quietDevice(), { size: 64, debug: true });
  for (let i = 0; i < 3; i++) pool.alloc();
  await new Promise((resolve) => setTimeout(resolve, 30));
  const later = pool.alloc();
  const [three, one, ...more] = holders(pool);
  assert.deepEqual(more, []);
  assert.deepEqual([three!.count, three!.blocks], [3, [0, 1, 2]]);
  assert.deepEqual([one!.count, one!.blocks, one!.thread], [1, [later.index], null]);
  assert.match(three!.site!, /snapshot\.test\.ts:\d+|snapshot\.test\.js:\d+/);
  assert.notEqual(three!.site, one!.site);
  assert.ok(three!.oldest! >= 29 && one!.oldest! < three!.oldest!, JSON.stringify([three, one]));
});

test('without debug mode holders have neither site nor age', () => {
  const pool = DmaPool.create('plain', quietDevice(), { size: 64 });
  pool.alloc();
  assert.deepEqual(holders(pool), [
    { worker: 0, thread: null, site: null, count: 1, inTransit: 0, oldest: null, newest: null, blocks: [0] },
  ]);
});

test('wrong arguments are refused', () => {
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => holders({} as DmaPool));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => snapshot({ blocks: {} as DmaPool }));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => snapshot({ pages: true } as object));
});

test('observed devices are collected', () => {
  const program = `
    import { Device, DmaPool, HeapMemory } from 'dmapool';
    import { snapshot } from 'dmapool/observe';
    const log = { error() {}, warn() {}, info() {} };
    const make = (i) => {
      const device = new Device({ name: 'd' + i, memory: new HeapMemory({ limit: 4096 }), log });
      DmaPool.create('p', device, { size: 64 }).allocIndex();
    };
    for (let i = 0; i < 500; i++) make(i);
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
    console.log(snapshot().devices.length);
  `;
  const args = ['--expose-gc', '--input-type=module', '-e', program];
  const cwd = fileURLToPath(new URL('../../../', import.meta.url));
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd, encoding: 'utf8' });
  assert.equal(stderr, '');
  assert.ok(Number(stdout) < 50, stdout);
});
