/**
 * What it costs to make a pool, a page and a block object, beside floors: the barest code that makes the same objects
 * and writes the same memory, without checks. Prints one line of JSON for each figure.
 */
import { median } from '../../src/cli/speed.ts';
import { Device, type DmaBlock, DmaPool, HeapMemory } from '../../src/index.ts';
import { printLine } from './program.ts';

/** A figure, in nanoseconds for each call or object. */
export interface OpeningLine {
  readonly name: string;
  readonly best: number;
  readonly median: number;
  /** Best time of the floor. */
  readonly floor: number;
}

const REPETITIONS = 100;
const WARM_UP = 100;
const PAGE = 4096;
const SMALL = 16;
/** Small blocks in a page. */
const IN_PAGE = PAGE / SMALL;
/** Objects of a driver with many small blocks: the collector moves those that live. */
const MANY = 4096;

/** Nanoseconds for each of `each` things that a call of `action` does. */
function timesOf(calls: number, each: number, action: (call: number) => void): number[] {
  const times: number[] = [];
  for (let repetition = -WARM_UP; repetition < REPETITIONS; repetition++) {
    const start = performance.now();
    for (let call = 0; call < calls; call++) action(call);
    if (repetition >= 0) times.push(((performance.now() - start) * 1e6) / calls / each);
  }
  return times;
}

function measure(
  name: string,
  calls: number,
  each: number,
  action: (call: number) => void,
  floor: (call: number) => void,
): void {
  const times = timesOf(calls, each, action);
  const line: OpeningLine = {
    name,
    best: Math.min(...times),
    median: median(times),
    floor: Math.min(...timesOf(calls, each, floor)),
  };
  printLine(line);
}

// ---- floors

/** Keeps results alive, so that the engine can't remove the floors' work. */
const kept: unknown[] = new Array<unknown>(IN_PAGE).fill(null);
const scratch = new SharedArrayBuffer(64 * PAGE);

/** A block object or an allocation of the memory source. */
class Bare {
  readonly owner: object;
  readonly index: number;
  views: object | null = null;

  constructor(owner: object, index: number) {
    this.owner = owner;
    this.index = index;
  }
}

/** A pool has a hot path, a backend, pages, a free list, four small tables, two maps and two sets. */
function barePool(call: number): void {
  kept[call % IN_PAGE] = [
    { call, list: new Int32Array(0), made: () => call },
    { call, bases: new Float64Array(4), carved: new Int32Array(4), hash: new Int32Array(8) },
    { call, waiters: new Map(), groups: new Map(), intakes: new Set(), pages: new Set() },
    // The default of the option `debug`.
    process.env['DMAPOOL_DEBUG'],
  ];
}

function bareAllocation(call: number): void {
  kept[call % IN_PAGE] = new Bare(kept, call);
}

function barePage(call: number): void {
  bareAllocation(call);
  new Float64Array(scratch, (call % 64) * PAGE, PAGE / 8).fill(0);
}

function link(words: Int32Array, first: number, count: number): void {
  for (let i = first; i < first + count; i++) words[i] = i + 1;
}

/** Makes `count` objects in a table. */
function bareObjects(table: object[], count: number): void {
  for (let i = 0; i < count; i++) table[i] = new Bare(table, i);
}

// ---- figures

const device = new Device({ name: 'bench', memory: new HeapMemory({ limit: 2 ** 28 }) });

measure(
  'a pool: create, destroy',
  200,
  1,
  () => {
    DmaPool.create('made', device, { size: 64 }).destroy();
  },
  barePool,
);

measure(
  'a page: allocCoherent, freeCoherent',
  200,
  1,
  () => {
    device.freeCoherent(device.allocCoherent(PAGE)!);
  },
  barePage,
);
{
  const fresh = new Device({ name: 'fresh', memory: new HeapMemory({ limit: 2 ** 28 }) });
  // Never used before, so the memory source does not clear it.
  measure('a fresh page: allocCoherent', 200, 1, (call) => (kept[call] = fresh.allocCoherent(PAGE)), bareAllocation);
}

for (const size of [64, SMALL]) {
  const count = PAGE / size;
  const pool = DmaPool.create('pages', device, { size });
  const words = new Int32Array(count);
  measure(
    `a page of ${String(count)} blocks: open, trim`,
    200,
    1,
    () => {
      pool.freeIndex(pool.allocIndex());
      pool.trim();
    },
    (call) => {
      barePage(call);
      link(words, 0, count);
    },
  );
  pool.destroy();
}

const blocks: (DmaBlock<'objects'> | null)[] = new Array<null>(MANY).fill(null);

function allocAndFree(pool: DmaPool<'objects'>, count: number): void {
  for (let i = 0; i < count; i++) blocks[i] = pool.alloc();
  for (let i = 0; i < count; i++) pool.free(blocks[i]!);
}

{
  const pool = DmaPool.create('objects', device, { size: SMALL });
  const words = new Int32Array(MANY);
  const table: object[] = [];
  for (const [count, calls] of [
    [IN_PAGE, 20],
    [MANY, 4],
  ] as const) {
    measure(
      `${String(count)} objects: make, alloc, free, trim; for each`,
      calls,
      count,
      () => {
        allocAndFree(pool, count);
        pool.trim();
      },
      (call) => {
        for (let first = 0; first < count; first += IN_PAGE) barePage(call);
        link(words, 0, count);
        bareObjects(table, count);
      },
    );
  }
  pool.destroy();
}

measure(
  `${String(MANY)} objects in a new pool; for each`,
  4,
  MANY,
  () => {
    const pool = DmaPool.create('objects', device, { size: SMALL });
    allocAndFree(pool, MANY);
    pool.destroy();
  },
  (call) => {
    for (let first = 0; first < MANY; first += IN_PAGE) barePage(call);
    link(new Int32Array(MANY), 0, MANY);
    bareObjects([], MANY);
  },
);
