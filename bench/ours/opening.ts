/**
 * What it costs to make a pool, a page and a block object, beside floors: the barest code that makes the same things.
 * Prints one line of JSON for each figure.
 */
import { median } from '../../src/cli/speed.ts';
import { Device, type DmaBlock, DmaPool, HeapMemory } from '../../src/index.ts';
import { printLine } from './program.ts';

/** A figure, in nanoseconds for each call. */
export interface OpeningLine {
  readonly name: string;
  readonly best: number;
  readonly median: number;
}

const REPETITIONS = 40;
const WARM_UP = 10;
const PAGE = 4096;
/** Blocks of 16 bytes in a page. */
const SMALL = PAGE / 16;

const device = new Device({ name: 'bench', memory: new HeapMemory({ limit: 2 ** 28 }) });
/** Keeps results alive, so that the engine can't remove the floors' work. */
const kept: unknown[] = new Array<unknown>(SMALL).fill(null);

/** Nanoseconds of one call of `action`, which does `each` things. */
function measure(name: string, calls: number, each: number, action: (call: number) => void): void {
  const times: number[] = [];
  for (let repetition = -WARM_UP; repetition < REPETITIONS; repetition++) {
    const start = performance.now();
    for (let call = 0; call < calls; call++) action(call);
    if (repetition >= 0) times.push(((performance.now() - start) * 1e6) / calls / each);
  }
  const line: OpeningLine = { name, best: Math.min(...times), median: median(times) };
  printLine(line);
}

measure('create and destroy a pool', 200, 1, () => {
  DmaPool.create('made', device, { size: 64 }).destroy();
});
// A pool has a hot path, a backend, pages, a free list, four small tables, two maps and two sets.
measure('floor: its objects', 200, 1, (call) => {
  kept[call % SMALL] = [
    { call, list: new Int32Array(0), made: () => call },
    { call, bases: new Float64Array(4), carved: new Int32Array(4), hash: new Int32Array(8) },
    { call, waiters: new Map(), groups: new Map(), intakes: new Set(), pages: new Set() },
  ];
});

measure('allocCoherent and freeCoherent of a page, warm', 200, 1, () => {
  device.freeCoherent(device.allocCoherent(PAGE)!);
});
const scratch = new Uint8Array(new SharedArrayBuffer(64 * PAGE));
measure('floor: zero a page', 200, 1, (call) => {
  scratch.fill(0, (call % 64) * PAGE, ((call % 64) + 1) * PAGE);
});
{
  // Each repetition takes pages that no call has had before.
  const pages = 200;
  const fresh = new Device({ name: 'fresh', memory: new HeapMemory({ limit: 2 ** 28 }) });
  measure('allocCoherent of a page, fresh', pages, 1, (call) => {
    kept[call % SMALL] = fresh.allocCoherent(PAGE);
  });
}

for (const size of [64, 16]) {
  const pool = DmaPool.create('pages', device, { size });
  measure(`open and trim a page of ${String(PAGE / size)} blocks`, 200, 1, () => {
    pool.freeIndex(pool.allocIndex());
    pool.trim();
  });
  pool.destroy();
}

{
  const pool = DmaPool.create('objects', device, { size: 16 });
  const blocks: DmaBlock<'objects'>[] = [];
  measure(`the same, with ${String(SMALL)} objects allocated and freed`, 20, 1, () => {
    for (let i = 0; i < SMALL; i++) blocks[i] = pool.alloc();
    for (let i = 0; i < SMALL; i++) pool.free(blocks[i]!);
    pool.trim();
  });
  // As many pages as a driver with 4,096 blocks: the collector moves the survivors.
  const many = 4096;
  measure('an object, of 4,096: made, allocated and freed', 4, many, () => {
    for (let i = 0; i < many; i++) blocks[i] = pool.alloc();
    for (let i = 0; i < many; i++) pool.free(blocks[i]!);
    pool.trim();
  });
  pool.destroy();
  class Bare {
    readonly pool: object;
    readonly index: number;
    view: Uint8Array | null = null;

    constructor(owner: object, index: number) {
      this.pool = owner;
      this.index = index;
    }
  }
  const bare: Bare[] = [];
  measure('floor: an object of three fields, of 4,096', 4, many, () => {
    for (let i = 0; i < many; i++) bare[i] = new Bare(pool, i);
  });
}
