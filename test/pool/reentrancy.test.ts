/** The memory source, the log and other code of the user's may call the pool back at the worst moment. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type CoherentAllocator,
  type CoherentMemory,
  Device,
  type DmaBlock,
  DmaError,
  DmaPool,
  type DmaPoolOptions,
  HeapMemory,
  type WaitOptions,
} from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { countsOf, indicesOf, owns, tryAllocBulk } from '../support/pools.ts';
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
  assert.equal(pool.statistics().active, 10);
});

test('a log that frees everything it finds frees no block that is being checked', () => {
  const { pool } = corruptedPool([0], (each) => {
    for (const index of indicesOf(each)) each.freeIndex(index);
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
    assert.equal(pool.statistics().active, 0);
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
    if (owns(pool, held)) pool.free(held);
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
    assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  }
  const twice = { dma: 4096, size: 4096, buffer, byteOffset: 0 };
  const memory = { name: 'odd', pageSize: 4096, allocCoherent: () => twice, freeCoherent: () => undefined };
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  pool.alloc();
  throwsCode('ERR_DMAPOOL_SOURCE', () => pool.alloc());
  assert.deepEqual(countsOf(pool), { active: 1, blocks: 1, pages: 1 });
});

test('an array that can’t be written to loses no block', () => {
  const pool = DmaPool.create('p', new Device({ name: 'x', memory: new HeapMemory() }), { size: 64 });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    pool.allocBulk(Object.freeze([]) as unknown as DmaBlock<'p'>[], 3);
  });
  assert.equal(pool.statistics().active, 0);
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
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  const blocks = [pool.tryAlloc(), pool.tryAlloc(), pool.tryAlloc()];
  assert.equal(new Set(blocks.map((block) => block?.dma)).size, 3);
  assert.equal(pool.statistics().active, 2);
});

test('a source that trims the pool while it is shared gets each page back once', () => {
  const pool = trimmingPool(2, 1, { maxBlocks: 4 });
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => sharePool(pool).handle);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
});

test('a source that trims the pool whenever it is full ends no call in a loop', () => {
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
    pools.map((pool) => pool.statistics().pages),
    [0, 8],
  );
});

test('a source that shares the pool in the middle of another call of it is refused', () => {
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
    throwsCode('ERR_DMAPOOL_DESTROYED', () => sharePool(pool).handle);
    assert.equal(live.size, 0);
    throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
    assert.deepEqual(device.attributeNames(), []);
  }
});

test('a log that frees everything it finds frees no block that a bulk call has taken so far', () => {
  const { pool } = corruptedPool([3], (each) => {
    for (const index of indicesOf(each)) each.freeIndex(index);
  });
  const into = new Int32Array(8);
  pool.allocIndexBulk(into);
  assert.equal(new Set(into).size, 8);
  assert.deepEqual(
    [...indicesOf(pool)],
    [...into].sort((a, b) => a - b),
  );
  assert.equal(pool.statistics().active, 8);
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

// ---- every call at every place

/** Where the user's code runs in the middle of a call. */
const sites = ['beforeAlloc', 'afterAlloc', 'beforeFree', 'afterFree', 'wish', 'unwish', 'log'] as const;
type Site = (typeof sites)[number];

/** A pool of 4 blocks a page and at most 16, on a source of 5 pages, and a plain model of who has which block. */
class World {
  readonly heap = new HeapMemory({ limit: 5 * 4096, step: 4096 });
  readonly live = new Set<CoherentMemory>();
  readonly held = new Set<number>();
  readonly device: Device;
  readonly pool: DmaPool;
  readonly controller = new AbortController();
  /** Runs at each site. */
  act: (site: Site) => void = () => undefined;
  visits = 0;
  shared = false;
  #depth = 0;

  constructor(options: Partial<DmaPoolOptions>) {
    const { heap, live } = this;
    const memory: CoherentAllocator = {
      name: 'model',
      pageSize: 4096,
      allocCoherent: (request) => {
        this.#visit('beforeAlloc');
        const given = heap.allocCoherent(request);
        if (given !== null) live.add(given);
        this.#visit('afterAlloc');
        return given;
      },
      freeCoherent: (each) => {
        this.#visit('beforeFree');
        heap.freeCoherent(each);
        assert.ok(live.delete(each), 'a page is given back once');
        this.#visit('afterFree');
      },
      onceAvailable: (listener) => {
        this.#visit('wish');
        const takeBack = heap.onceAvailable(listener);
        return () => {
          this.#visit('unwish');
          takeBack();
        };
      },
    };
    const report = (): void => {
      this.#visit('log');
    };
    this.device = new Device({ name: 'x', memory, log: { error: report, warn: report, info: report } });
    this.pool = DmaPool.createManaged('p', this.device, { size: 1024, maxBlocks: 16, ...options });
  }

  #visit(site: Site): void {
    assert.ok(++this.visits < 2000, 'the call does not end');
    if (this.#depth > 0) return;
    this.#depth++;
    try {
      this.act(site);
    } finally {
      this.#depth--;
    }
  }

  took(index: number): void {
    assert.ok(!this.held.has(index), `block ${String(index)} is in two hands`);
    this.held.add(index);
  }

  free(index: number | undefined): void {
    if (index === undefined || !this.held.delete(index)) return;
    this.pool.freeIndex(index);
  }

  wait(options: WaitOptions = {}): void {
    void this.pool.allocWait(options).then(
      (block) => {
        this.took(block.index);
      },
      () => undefined,
    );
  }

  /** What the pool says is what the model says. */
  check(): void {
    const { active, pages, blocks } = this.pool.statistics();
    const { allocations, frees, highWater, waiting, quarantined } = this.pool.statistics();
    assert.equal(active, this.held.size);
    assert.deepEqual(
      [...indicesOf(this.pool)],
      [...this.held].sort((a, b) => a - b),
    );
    // A shared pool reserves more pages than it has opened.
    assert.ok(this.shared ? pages <= this.live.size : pages === this.live.size);
    assert.equal(blocks, pages * 4);
    assert.equal(allocations - frees, active);
    assert.ok(highWater >= active && waiting >= 0 && quarantined >= 0);
    for (const index of this.held) assert.ok(this.pool.dmaOf(index) > 0);
  }
}

/** Every public call that changes something; what it gets or gives is written down. */
const calls: Record<string, (world: World) => void> = {
  alloc: (world) => {
    world.took(world.pool.alloc().index);
  },
  atomic: (world) => {
    const index = world.pool.tryAllocIndex({ zero: true, grow: false });
    if (index >= 0) world.took(index);
  },
  bulk: (world) => {
    const into = new Int32Array(6);
    world.pool.allocIndexBulk(into);
    for (const index of into) world.took(index);
  },
  blocks: (world) => {
    const into: DmaBlock[] = [];
    if (tryAllocBulk(world.pool, into, 11)) for (const { index } of into) world.took(index);
  },
  free: (world) => {
    world.free([...world.held].at(-1));
  },
  freeBulk: (world) => {
    const going = Int32Array.from(world.held);
    world.held.clear();
    world.pool.freeIndexBulk(going);
  },
  wait: (world) => {
    world.wait();
  },
  waitSignal: (world) => {
    world.wait({ signal: world.controller.signal, zero: true });
  },
  abort: (world) => {
    world.controller.abort();
  },
  reserve: (world) => {
    world.pool.reserve(8);
  },
  reserveAll: (world) => {
    world.pool.reserve(16);
  },
  trim: (world) => {
    world.pool.trim();
  },
  share: (world) => {
    sharePool(world.pool, { magazine: 4 });
    world.shared = true;
  },
  destroy: (world) => {
    world.pool.destroy();
  },
  reclaim: (world) => {
    world.device.reclaim();
  },
  endAll: (world) => {
    world.pool.destroy();
    world.device.reclaim();
  },
  detach: (world) => {
    world.device.detach();
  },
  mask: (world) => {
    world.device.setDmaMask(0xffff_ffff);
  },
  sibling: (world) => {
    DmaPool.create('q', world.device, { size: 4096 }).destroy();
  },
};

/** What the pool looks like before the call. */
const states: Record<string, (world: World) => void> = {
  empty: () => undefined,
  mixed: (world) => {
    const into = new Int32Array(9);
    world.pool.allocIndexBulk(into);
    for (const index of into.subarray(0, 3)) world.took(index);
    world.pool.freeIndexBulk(into.slice(3));
    // Seen in debug mode: a free block was written to.
    world.pool.bytesOf(into[4]!)[5] = 1;
  },
  waiting: (world) => {
    const other = DmaPool.create('other', world.device, { size: 4096 });
    other.reserve(3);
    for (let i = 0; i < 8; i++) world.took(world.pool.allocIndex());
    world.wait({ signal: world.controller.signal });
    other.destroy();
  },
};

function quiet(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof DmaError)) throw error;
  }
}

const ticks = async (): Promise<void> => {
  for (let i = 0; i < 6; i++) await Promise.resolve();
};

for (const [mode, options] of Object.entries<Partial<DmaPoolOptions>>({
  plain: {},
  debug: { debug: { sites: false } },
  'debug without quarantine': { debug: { sites: false, quarantine: false } },
})) {
  test(`each call at each place of each call: ${mode}`, async () => {
    let met = 0;
    for (const [state, prepare] of Object.entries(states)) {
      for (const [outer, call] of Object.entries(calls)) {
        const reached = await visitsOf(options, prepare, call);
        for (const site of sites) {
          const visits = reached.get(site) ?? 0;
          const which = visits === 0 ? [] : visits === 1 ? [0] : [0, 1, Infinity];
          for (const [inner, nested] of Object.entries(calls)) {
            for (const at of which) {
              met++;
              const world = new World(options);
              prepare(world);
              let seen = 0;
              let left = 40;
              world.act = (here) => {
                if (here !== site || (seen++ !== at && at !== Infinity) || left-- <= 0) return;
                quiet(() => {
                  nested(world);
                });
              };
              try {
                await runAndEnd(world, call);
              } catch (error) {
                throw new Error(`${state}: ${outer}, and ${inner} at ${site} ${String(at)}`, { cause: error });
              }
            }
          }
        }
      }
    }
    assert.ok(met > 500, `${String(met)} calls were made within others`);
  });
}

/** How often a call comes to each place. */
async function visitsOf(
  options: Partial<DmaPoolOptions>,
  prepare: (world: World) => void,
  call: (world: World) => void,
): Promise<Map<Site, number>> {
  const visits = new Map<Site, number>();
  const world = new World(options);
  prepare(world);
  world.act = (site) => visits.set(site, (visits.get(site) ?? 0) + 1);
  quiet(() => {
    call(world);
  });
  const reached = new Map(visits);
  await runAndEnd(world, () => undefined);
  return reached;
}

/** Makes a call, compares with the model, and gives everything back. */
async function runAndEnd(world: World, call: (world: World) => void): Promise<void> {
  quiet(() => {
    call(world);
  });
  await ticks();
  world.act = () => undefined;
  world.controller.abort();
  await ticks();
  // A pool that ended with its pages has taken back what was out.
  if (world.live.size === 0) world.held.clear();
  world.check();
  while (world.held.size > 0) {
    for (const index of [...world.held]) world.free(index);
    // Blocks that went to waiters.
    await ticks();
  }
  world.pool.destroy();
  world.device.reclaim();
  assert.equal(world.live.size, 0);
  assert.equal(world.heap.bytesInUse, 0);
  assert.equal(world.pool.statistics().active, 0);
}
