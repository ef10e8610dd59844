/**
 * Replays the calls of a recording on this package's pools.
 *
 *     node replay.js FILE object|index
 *
 * FILE is what call-stream.ts describes. Prints one line of JSON, as bench/peers/intrusive-replay.c.
 */
import { readFileSync } from 'node:fs';
import { median } from '../../src/cli/speed.ts';
import { Device, type DmaBlock, dmaBitMask, DmaPool, HeapMemory } from '../../src/index.ts';
import { type CallStream, decodeStream, OPERATION } from './call-stream.ts';
import { printLine } from './program.ts';

/** Nanoseconds for each call. */
export interface ReplayLine {
  readonly first: number;
  readonly best: number;
  readonly median: number;
  /** Of the page and the offset of each allocation. */
  readonly hash: number;
}

const silent = { error: () => undefined, warn: () => undefined, info: () => undefined };
const zeroed = { zero: true } as const;

/** All runs use the same memory, as in the C peer. */
const device = new Device({ name: 'replay', memory: new HeapMemory(), dmaMask: dmaBitMask(64), log: silent });

/** Pools of one run. */
class Run {
  readonly pools: DmaPool[] = [];
  readonly #geometries: CallStream['geometries'];

  constructor({ geometries }: CallStream) {
    this.#geometries = geometries;
  }

  create(index: number): void {
    this.pools[index] = DmaPool.create<string>('pool', device, this.#geometries[index]!);
  }

  end(): void {
    for (const pool of this.pools) pool.destroy();
    device.reclaim();
  }
}

function replayObjects({ operations, poolOf, slotOf }: CallStream, run: Run, held: (DmaBlock | undefined)[]): void {
  const { pools } = run;
  for (let i = 0; i < operations.length; i++) {
    const index = poolOf[i]!;
    switch (operations[i]) {
      case OPERATION.alloc:
        held[slotOf[i]!] = pools[index]!.alloc();
        break;
      case OPERATION.zalloc:
        held[slotOf[i]!] = pools[index]!.alloc(zeroed);
        break;
      case OPERATION.free:
        pools[index]!.free(held[slotOf[i]!]!);
        break;
      case OPERATION.create:
        run.create(index);
        break;
      default:
        pools[index]!.destroy();
        break;
    }
  }
}

function replayIndices({ operations, poolOf, slotOf }: CallStream, run: Run, held: Int32Array): void {
  const { pools } = run;
  for (let i = 0; i < operations.length; i++) {
    const index = poolOf[i]!;
    switch (operations[i]) {
      case OPERATION.alloc:
        held[slotOf[i]!] = pools[index]!.allocIndex();
        break;
      case OPERATION.zalloc:
        held[slotOf[i]!] = pools[index]!.allocIndex(zeroed);
        break;
      case OPERATION.free:
        pools[index]!.freeIndex(held[slotOf[i]!]!);
        break;
      case OPERATION.create:
        run.create(index);
        break;
      default:
        pools[index]!.destroy();
        break;
    }
  }
}

/** FNV-1a over 32-bit words. */
function mix(hash: number, word: number): number {
  return Math.imul(hash ^ word, 0x0100_0193);
}

/** As {@link replayIndices}, call by call, and hashes the place of each allocation. */
function hashOf(stream: CallStream): number {
  const run = new Run(stream);
  const held = new Int32Array(stream.slots);
  let hash = 0x811c_9dc5 | 0;
  stream.operations.forEach((operation, i) => {
    const poolOf = stream.poolOf.subarray(i, i + 1);
    const slotOf = stream.slotOf.subarray(i, i + 1);
    replayIndices({ ...stream, operations: Uint8Array.of(operation), poolOf, slotOf }, run, held);
    if (operation !== OPERATION.alloc && operation !== OPERATION.zalloc) return;
    const { geometry } = run.pools[poolOf[0]!]!;
    const index = held[slotOf[0]!]!;
    hash = mix(hash, Math.floor(index / geometry.blocksPerPage));
    hash = mix(hash, geometry.offsetOf(index % geometry.blocksPerPage));
  });
  run.end();
  return hash >>> 0;
}

/** Milliseconds of runs before those that count: the engine compiles for much longer than one run takes. */
const WARM_UP = 400;
/** Milliseconds of the runs that count, and their smallest number. */
const MEASURED = 400;
const MIN_RUNS = 20;

const [file, form] = process.argv.slice(2);
if (file === undefined || (form !== 'object' && form !== 'index')) throw new Error('usage: replay FILE object|index');
const stream = decodeStream(Uint8Array.from(readFileSync(file)));
const objects = new Array<DmaBlock | undefined>(stream.slots).fill(undefined);
const indices = new Int32Array(stream.slots);

/** Nanoseconds for each call of one run. */
function measureRun(): number {
  const run = new Run(stream);
  const start = performance.now();
  if (form === 'object') replayObjects(stream, run, objects);
  else replayIndices(stream, run, indices);
  const elapsed = performance.now() - start;
  run.end();
  return (elapsed * 1e6) / stream.operations.length;
}

const first = measureRun();
const begin = performance.now();
while (performance.now() - begin < WARM_UP) measureRun();
const warm: number[] = [];
while (warm.length < MIN_RUNS || performance.now() - begin < WARM_UP + MEASURED) warm.push(measureRun());
const line: ReplayLine = { first, best: Math.min(...warm), median: median(warm), hash: hashOf(stream) };
printLine(line);
