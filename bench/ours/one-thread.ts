/** Measures the speed as `dmapool bench` does, garbage per pair, and heap per block. Prints one line of JSON. */
import {
  createHeldBlocks,
  createWorkloads,
  FORMS,
  KERNEL_GEOMETRIES,
  measureSpeed,
  round3,
  ROUNDS,
  type SpeedResult,
  warmUp,
} from '../../src/cli/speed.ts';
import { Device, HeapMemory } from '../../src/index.ts';
import { CollectionWatch, garbageOfRound, most, heapReflectsAllocations } from './garbage.ts';
import { heapBytesPerBlock } from './heap.ts';
import { numbersFromArguments, printLine, runtimeName } from './program.ts';

/** Figures of one geometry; null where the runtime does not report them. */
export interface OneThreadResult extends SpeedResult {
  /** Maximum of the three forms. */
  readonly garbageBytesPerPair: number | null;
  readonly heapBytesPerBlock: number | null;
}

export interface OneThreadLine {
  readonly runtime: string;
  readonly results: readonly OneThreadResult[];
}

/** Garbage per pair of each geometry: maximum of all forms. */
async function garbagePerPair(): Promise<(number | null)[]> {
  using watch = new CollectionWatch();
  using device = new Device({ name: 'bench', memory: new HeapMemory() });
  const workloads = createWorkloads(device);
  const held = createHeldBlocks();
  warmUp(Object.values(ROUNDS), workloads, held);
  const visible = heapReflectsAllocations();
  const worst: (number | null)[] = [];
  for (const workload of workloads.slice(0, KERNEL_GEOMETRIES.length)) {
    const found: (number | null)[] = [];
    for (const form of FORMS) found.push(visible ? await garbageOfRound(ROUNDS[form], workload, held, watch) : null);
    worst.push(most(found));
  }
  for (const { pool } of workloads) pool.destroy();
  return worst;
}

const { results } = await measureSpeed(numbersFromArguments({ rounds: 100, repetitions: 15, warmup: 3 }));
const garbage = await garbagePerPair();
const complete: OneThreadResult[] = [];
for (const [i, result] of results.entries()) {
  const heap = await heapBytesPerBlock(KERNEL_GEOMETRIES[i]!, result.blocks);
  complete.push({
    ...result,
    garbageBytesPerPair: garbage[i]!,
    heapBytesPerBlock: heap === null ? null : round3(heap),
  });
}
printLine({ runtime: runtimeName(), results: complete } satisfies OneThreadLine);
