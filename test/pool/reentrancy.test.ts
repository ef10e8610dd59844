/** Every call of a pool from within every other call, compared with a model. */
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
import { indicesOf, tryAllocBulk } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';

test('a read-only array loses no block', () => {
  const pool = DmaPool.create('p', new Device({ name: 'x', memory: new HeapMemory() }), { size: 64 });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    pool.allocBulk(Object.freeze([]) as unknown as DmaBlock<'p'>[], 3);
  });
  assert.equal(pool.statistics().active, 0);
});

/** The points in a call at which user code runs. */
const sites = ['beforeAlloc', 'afterAlloc', 'beforeFree', 'afterFree', 'wish', 'unwish', 'log'] as const;
type Site = (typeof sites)[number];

/** A pool of 4 blocks a page and at most 16, on a source of 5 pages, and a plain model of the allocated blocks. */
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
        assert.ok(live.delete(each), 'a page is returned once');
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
    assert.ok(!this.held.has(index), `block ${String(index)} was allocated twice`);
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

  /** Compares the pool with the model. */
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

/** Every public call that changes something; each records the blocks that it allocates or frees. */
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

/** The state of the pool before the call. */
const states: Record<string, (world: World) => void> = {
  empty: () => undefined,
  mixed: (world) => {
    const into = new Int32Array(9);
    world.pool.allocIndexBulk(into);
    for (const index of into.subarray(0, 3)) world.took(index);
    world.pool.freeIndexBulk(into.slice(3));
    // Detected in debug mode: a write to a free block.
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
  test(`each call works at each site within each other call: ${mode}`, async () => {
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

/** Counts the visits of a call to each site. */
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

/** Makes a call, compares with the model, and frees everything. */
async function runAndEnd(world: World, call: (world: World) => void): Promise<void> {
  quiet(() => {
    call(world);
  });
  await ticks();
  world.act = () => undefined;
  world.controller.abort();
  await ticks();
  // A pool that ended with its pages has reclaimed the allocated blocks.
  if (world.live.size === 0) world.held.clear();
  world.check();
  while (world.held.size > 0) {
    for (const index of [...world.held]) world.free(index);
    // Includes the blocks that went to waiters.
    await ticks();
  }
  world.pool.destroy();
  world.device.reclaim();
  assert.equal(world.live.size, 0);
  assert.equal(world.heap.bytesInUse, 0);
  assert.equal(world.pool.statistics().active, 0);
}
