/** A memory source that calls the pool during a call of the pool, or returns wrong values. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CoherentAllocator, Device, type DmaBlock, DmaPool, type DmaPoolOptions, HeapMemory } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { countsOf, owns } from '../support/pools.ts';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';

/** A source of heap memory with some methods replaced. */
function overHeap(heap: HeapMemory, methods: Partial<CoherentAllocator>): CoherentAllocator {
  return {
    name: 'odd',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
    ...methods,
  };
}

test('a source can free blocks of the pool before it refuses an allocation', async () => {
  const memory = new FaultyMemory({ limit: 4096 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  let held = pool.alloc();
  memory.onAlloc = () => {
    if (owns(pool, held)) pool.free(held);
    return 'none';
  };
  held = pool.alloc();
  assert.equal(pool.tryAlloc(), held);
  assert.equal(await pool.allocWait(), held);
  pool.allocIndexBulk(new Int32Array(1));
});

test('the wait is rejected and no block is lost when onceAvailable throws', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory = overHeap(heap, {
    onceAvailable: () => {
      throw new Error('no wishes');
    },
  });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  await assert.rejects(pool.allocWait(), /no wishes/);
  pool.free(block);
  assert.equal(pool.tryAlloc(), block);
});

test('free and destroy succeed when the source’s unsubscribe function throws', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory = overHeap(heap, {
    onceAvailable: () => () => {
      throw new Error('can’t forget');
    },
  });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  const waiting = pool.allocWait();
  pool.free(block);
  pool.free(await waiting);
  pool.destroy();
  assert.equal(heap.bytesInUse, 0);
});

test('the memory that a source returns is checked', () => {
  const buffer = new ArrayBuffer(4096);
  const answers: unknown[] = [
    undefined,
    5,
    {},
    { dma: -4096, size: 4096, buffer, byteOffset: 0 },
    { dma: 4096.5, size: 4096, buffer, byteOffset: 0 },
    { dma: 4096, size: 4096, buffer: null, byteOffset: 0 },
    { dma: 4096, size: 4096, buffer, byteOffset: 4 },
    { dma: 4096, size: 4096, buffer, byteOffset: 8 },
    { dma: 4096, size: 4096, buffer, byteOffset: -8 },
  ];
  for (const answer of answers) {
    const memory = { name: 'odd', pageSize: 4096, allocCoherent: () => answer, freeCoherent: () => undefined };
    const pool = DmaPool.create('p', new Device({ name: 'x', memory: memory as unknown as CoherentAllocator }), {
      size: 64,
    });
    assert.match(throwsCode('ERR_DMAPOOL_SOURCE', () => pool.alloc()).message, /x: memory source odd gave /);
    assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  }
  const twice = { dma: 4096, size: 4096, buffer, byteOffset: 0 };
  const memory = { name: 'odd', pageSize: 4096, allocCoherent: () => twice, freeCoherent: () => undefined };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  pool.alloc();
  throwsCode('ERR_DMAPOOL_SOURCE', () => pool.alloc());
  assert.deepEqual(countsOf(pool), { active: 1, blocks: 1, pages: 1 });
});

/** A source of `pages` pages of heap memory that trims the pool when it is full: `times` times. */
function trimmingPool(pages: number, times: number, options: Partial<DmaPoolOptions> = {}): DmaPool {
  const heap = new HeapMemory({ limit: pages * 4096 });
  let calls = 0;
  const memory = overHeap(heap, {
    allocCoherent: (request) => {
      assert.ok(++calls < 1000, 'the pool continues to take pages');
      const given = heap.allocCoherent(request);
      if (given !== null || times-- <= 0) return given;
      pool.trim();
      return heap.allocCoherent(request);
    },
  });
  const pool: DmaPool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096, ...options });
  return pool;
}

test('a source that trims the pool during a reservation gets each page back once', () => {
  const pool = trimmingPool(2, 1);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
    pool.reserve(4);
  });
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  const blocks = [pool.tryAlloc(), pool.tryAlloc(), pool.tryAlloc()];
  assert.equal(new Set(blocks.map((block) => block?.dma)).size, 3);
  assert.equal(pool.statistics().active, 2);
});

test('a source that trims the pool during sharing gets each page back once', () => {
  const pool = trimmingPool(2, 1, { maxBlocks: 4 });
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => sharePool(pool).handle);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
});

test('a source that trims the pool whenever it is full causes no endless loop', () => {
  for (const call of [
    (pool: DmaPool) => {
      pool.reserve(4);
    },
    (pool: DmaPool) => {
      pool.allocIndexBulk(new Int32Array(4));
    },
    (pool: DmaPool) => sharePool(pool).handle,
  ]) {
    const pool = trimmingPool(2, Infinity, { maxBlocks: 4 });
    throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
      call(pool);
    });
    assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  }
});

test('a source that trims every pool when it is full makes room for a reservation', () => {
  const heap = new HeapMemory({ limit: 8 * 4096 });
  const pools: DmaPool[] = [];
  const memory = overHeap(heap, {
    allocCoherent: (request) => {
      const given = heap.allocCoherent(request);
      if (given !== null) return given;
      for (const pool of pools) pool.trim();
      return heap.allocCoherent(request);
    },
  });
  const device = new Device({ name: 'x', memory });
  for (const name of ['a', 'b']) pools.push(DmaPool.create(name, device, { size: 4096 }));
  pools[0]!.reserve(5);
  pools[1]!.reserve(8);
  assert.deepEqual(
    pools.map((pool) => pool.statistics().pages),
    [0, 8],
  );
});

test('a source cannot share the pool during another call of it', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096, maxBlocks: 4 });
  memory.onAlloc = () => {
    throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => sharePool(pool).handle);
    return 'ok';
  };
  const block = pool.alloc();
  pool.reserve(2);
  memory.onAlloc = () => 'ok';
  sharePool(pool);
  assert.equal(pool.statistics().active, 1);
  pool.free(block);
  pool.destroy();
  assert.equal(memory.live.size, 0);
});

test('a source that destroys the pool during sharing ends the share', () => {
  for (const at of ['allocCoherent', 'shareBuffer'] as const) {
    const heap = new HeapMemory();
    const live = new Set<unknown>();
    const act = (site: string): void => {
      if (site === at) pool.destroy();
    };
    const memory: CoherentAllocator = {
      name: 'odd',
      pageSize: 4096,
      allocCoherent: ({ size }) => {
        act('allocCoherent');
        const given = heap.allocCoherent({ device, size, node: -1 })!;
        // Not a shared buffer, so that the pool calls shareBuffer.
        const plain = { dma: given.dma, size, buffer: new ArrayBuffer(size), byteOffset: 0 };
        live.add(plain);
        return plain;
      },
      freeCoherent: (each) => {
        assert.ok(live.delete(each));
      },
      shareBuffer: () => {
        act('shareBuffer');
        return { kind: 'none', name: 'none', address: 0, size: 4096 };
      },
    };
    const device = new Device({ name: 'x', memory });
    const pool = DmaPool.create('p', device, { size: 4096, maxBlocks: 4 });
    throwsCode('ERR_DMAPOOL_DESTROYED', () => sharePool(pool).handle);
    assert.equal(live.size, 0);
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    assert.deepEqual(device.attributeNames(), []);
  }
});

test('a new wait during unsubscribe keeps its own subscription', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  let second: Promise<DmaBlock> | undefined;
  const memory = overHeap(heap, {
    onceAvailable: () => () => {
      second ??= pool.allocWait();
    },
  });
  const pool: DmaPool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  const first = pool.allocWait();
  pool.free(block);
  assert.equal(await first, block);
  assert.equal(pool.statistics().waiting, 1);
  pool.free(block);
  assert.equal(await second, block);
  assert.equal(pool.statistics().waiting, 0);
});

test('a source that reports memory at once and has none ends the wait', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory = overHeap(heap, {
    onceAvailable: (listener) => {
      listener();
      return () => undefined;
    },
  });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  await rejectsCode('ERR_DMAPOOL_SOURCE', pool.allocWait());
  pool.free(block);
  assert.equal(pool.statistics().waiting, 0);
});
