/** The memory source, the log and other code of the user's may call the pool back at the worst moment. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CoherentAllocator, Device, type DmaBlock, DmaPool, type DmaPoolOptions, HeapMemory } from 'dmapool';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';

/** A debug pool in which the free blocks `corrupt` were written to, and whose log runs `onReport`. */
function corruptedPool(
  corrupt: readonly number[],
  onReport: (pool: DmaPool, device: Device) => void,
  options: Partial<DmaPoolOptions> = {},
): { pool: DmaPool; device: Device; memory: HeapMemory } {
  const memory = new HeapMemory();
  let armed = false;
  const device = new Device({
    name: 'hc',
    memory,
    log: {
      error: () => {
        if (!armed) return;
        armed = false;
        onReport(pool, device);
      },
      warn: () => undefined,
      info: () => undefined,
    },
  });
  const pool: DmaPool = DmaPool.create('qtd', device, { size: 64, debug: true, ...options });
  const indices = new Int32Array(16);
  pool.allocIndexBulk(indices);
  const views = corrupt.map((index) => pool.bytesOf(index));
  pool.freeIndexBulk(indices.reverse());
  for (const view of views) view[8] = 0;
  armed = true;
  return { pool, device, memory };
}

test('a log that allocates in bulk during a bulk allocation gets other blocks', () => {
  const inner: DmaBlock[] = [];
  const { pool } = corruptedPool([2], (each) => {
    each.allocBulk(inner, 4);
  });
  const outer: DmaBlock[] = [];
  pool.allocBulk(outer, 6);
  assert.equal(new Set([...outer, ...inner]).size, 10);
  assert.equal(pool.counts().active, 10);
});

test('a log that frees everything it finds frees no block that is being checked', () => {
  const { pool } = corruptedPool([0], (each) => {
    for (const index of each.indices()) each.freeIndex(index);
  });
  const out = Array.from({ length: 15 }, () => pool.allocIndex());
  assert.equal(new Set(out).size, 15);
  assert.ok(!out.includes(0));
  assert.equal(pool.statistics().quarantined, 1);
});

for (const quarantine of [true, false]) {
  test(`a log that destroys the pool, ${quarantine ? 'with' : 'without'} quarantine`, () => {
    const { pool, memory } = corruptedPool(
      [0],
      (each) => {
        each.destroy();
      },
      { debug: { quarantine } },
    );
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    assert.equal(pool.counts().active, 0);
    assert.equal(memory.bytesInUse, 0);
  });

  test(`a log that destroys the pool and reclaims, ${quarantine ? 'with' : 'without'} quarantine`, () => {
    const { pool, memory } = corruptedPool(
      [0],
      (each, device) => {
        each.destroy();
        device.reclaim();
      },
      { debug: { quarantine } },
    );
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    const { active, frees, allocations, quarantined } = pool.statistics();
    assert.deepEqual([active, quarantined, frees], [0, 0, allocations]);
    assert.equal(memory.bytesInUse, 0);
  });
}

test('corruption is counted, with quarantine and without', () => {
  for (const quarantine of [true, false]) {
    const { pool } = corruptedPool([0, 3], () => undefined, { debug: { quarantine } });
    for (let i = 0; i < 6; i++) pool.alloc();
    const { corrupted, quarantined, active } = pool.statistics();
    assert.deepEqual([corrupted, quarantined, active], [2, quarantine ? 2 : 0, 6]);
  }
});

test('a source that frees blocks under pressure before it gives up', async () => {
  const memory = new FaultyMemory({ limit: 4096 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  let held = pool.alloc();
  memory.onAlloc = () => {
    if (pool.owns(held)) pool.free(held);
    return 'none';
  };
  held = pool.alloc();
  assert.equal(pool.tryAlloc(), held);
  assert.equal(await pool.allocWait(), held);
  pool.allocIndexBulk(new Int32Array(1));
});

test('a source whose wish for memory fails rejects the wait, and no block is lost', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory: CoherentAllocator = {
    name: 'odd',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
    onceAvailable: () => {
      throw new Error('no wishes');
    },
  };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  await assert.rejects(pool.allocWait(), /no wishes/);
  pool.free(block);
  assert.equal(pool.tryAlloc(), block);
});

test('a source that can’t take a wish back spoils neither free nor destroy', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory: CoherentAllocator = {
    name: 'odd',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
    onceAvailable: () => () => {
      throw new Error('can’t forget');
    },
  };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  const waiting = pool.allocWait();
  pool.free(block);
  pool.free(await waiting);
  pool.destroy();
  assert.equal(heap.bytesInUse, 0);
});

test('what a source answers is checked', () => {
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
    assert.deepEqual(pool.counts(), { active: 0, blocks: 0, pages: 0 });
  }
  const twice = { dma: 4096, size: 4096, buffer, byteOffset: 0 };
  const memory = { name: 'odd', pageSize: 4096, allocCoherent: () => twice, freeCoherent: () => undefined };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  pool.alloc();
  throwsCode('ERR_DMAPOOL_SOURCE', () => pool.alloc());
  assert.deepEqual(pool.counts(), { active: 1, blocks: 1, pages: 1 });
});

test('an array that can’t be written to loses no block', () => {
  const pool = DmaPool.create('p', new Device({ name: 'x', memory: new HeapMemory() }), { size: 64 });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    pool.allocBulk(Object.freeze([]) as unknown as DmaBlock<'p'>[], 3);
  });
  assert.equal(pool.counts().active, 0);
});

/** A source of `pages` pages of heap memory that trims the pool when it is full: `times` times. */
function trimmingPool(pages: number, times: number, options: Partial<DmaPoolOptions> = {}): DmaPool {
  const heap = new HeapMemory({ limit: pages * 4096 });
  let calls = 0;
  const memory: CoherentAllocator = {
    name: 'trimming',
    pageSize: 4096,
    allocCoherent: (request) => {
      assert.ok(++calls < 1000, 'the pool goes on taking pages');
      const given = heap.allocCoherent(request);
      if (given !== null || times-- <= 0) return given;
      pool.trim();
      return heap.allocCoherent(request);
    },
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
  };
  const pool: DmaPool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096, ...options });
  return pool;
}

test('a source that trims the pool during a reservation gets each page back once', () => {
  const pool = trimmingPool(2, 1);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
    pool.reserve(4);
  });
  assert.deepEqual(pool.counts(), { active: 0, blocks: 0, pages: 0 });
  const blocks = [pool.tryAlloc(), pool.tryAlloc(), pool.tryAlloc()];
  assert.equal(new Set(blocks.map((block) => block?.dma)).size, 3);
  assert.equal(pool.counts().active, 2);
});

test('a source that trims the pool while it is shared gets each page back once', () => {
  const pool = trimmingPool(2, 1, { maxBlocks: 4 });
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.share());
  assert.deepEqual(pool.counts(), { active: 0, blocks: 0, pages: 0 });
});

test('a source that trims the pool whenever it is full ends no call in a loop', () => {
  for (const call of [
    (pool: DmaPool) => {
      pool.reserve(4);
    },
    (pool: DmaPool) => {
      pool.allocIndexBulk(new Int32Array(4));
    },
    (pool: DmaPool) => pool.share(),
  ]) {
    const pool = trimmingPool(2, Infinity, { maxBlocks: 4 });
    throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
      call(pool);
    });
    assert.deepEqual(pool.counts(), { active: 0, blocks: 0, pages: 0 });
  }
});

test('a source that trims every pool when it is full makes room for a reservation', () => {
  const heap = new HeapMemory({ limit: 8 * 4096 });
  const pools: DmaPool[] = [];
  const memory: CoherentAllocator = {
    name: 'trimming',
    pageSize: 4096,
    allocCoherent: (request) => {
      const given = heap.allocCoherent(request);
      if (given !== null) return given;
      for (const pool of pools) pool.trim();
      return heap.allocCoherent(request);
    },
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
  };
  const device = new Device({ name: 'x', memory });
  for (const name of ['a', 'b']) pools.push(DmaPool.create(name, device, { size: 4096 }));
  pools[0]!.reserve(5);
  pools[1]!.reserve(8);
  assert.deepEqual(
    pools.map((pool) => pool.counts().pages),
    [0, 8],
  );
});

test('a source that shares the pool in the middle of another call of it is refused', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096, maxBlocks: 4 });
  memory.onAlloc = () => {
    throwsCode('ERR_DMAPOOL_NOT_SHAREABLE', () => pool.share());
    return 'ok';
  };
  const block = pool.alloc();
  pool.reserve(2);
  memory.onAlloc = () => 'ok';
  pool.share();
  assert.equal(pool.counts().active, 1);
  pool.free(block);
  pool.destroy();
  assert.equal(memory.live.size, 0);
});

test('a source that destroys the pool while it is shared ends it', () => {
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
        // Not a shared buffer, so that the pool asks how to share it.
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
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.share());
    assert.equal(live.size, 0);
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    assert.deepEqual(device.attributeNames(), []);
  }
});

test('a log that frees everything it finds frees no block that a bulk call has taken so far', () => {
  const { pool } = corruptedPool([3], (each) => {
    for (const index of each.indices()) each.freeIndex(index);
  });
  const into = new Int32Array(8);
  pool.allocIndexBulk(into);
  assert.equal(new Set(into).size, 8);
  assert.deepEqual(
    [...pool.indices()],
    [...into].sort((a, b) => a - b),
  );
  assert.equal(pool.counts().active, 8);
});

test('a log that destroys the pool and reclaims during a bulk call loses nothing', () => {
  const { pool, memory } = corruptedPool([3], (each, device) => {
    each.destroy();
    device.reclaim();
  });
  throwsCode('ERR_DMAPOOL_DESTROYED', () => {
    pool.allocIndexBulk(new Int32Array(8));
  });
  const { active, frees, allocations } = pool.statistics();
  assert.deepEqual([active, frees], [0, allocations]);
  assert.equal(memory.bytesInUse, 0);
});

test('a source that takes back a wish by waiting anew keeps what was asked', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  let second: Promise<DmaBlock> | undefined;
  const memory: CoherentAllocator = {
    name: 'odd',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
    onceAvailable: () => () => {
      second ??= pool.allocWait();
    },
  };
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

test('a source that says at once that memory came back, and has none, ends the wait', async () => {
  const heap = new HeapMemory({ limit: 4096 });
  const memory: CoherentAllocator = {
    name: 'eager',
    pageSize: 4096,
    allocCoherent: (request) => heap.allocCoherent(request),
    freeCoherent: (each) => {
      heap.freeCoherent(each);
    },
    onceAvailable: (listener) => {
      listener();
      return () => undefined;
    },
  };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const block = pool.alloc();
  await rejectsCode('ERR_DMAPOOL_SOURCE', pool.allocWait());
  pool.free(block);
  assert.equal(pool.statistics().waiting, 0);
});
