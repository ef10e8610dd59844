/**
 * Measures workers on one pool, threads on their own pools for comparison, and blocks that pass from worker to worker.
 * Prints one line of JSON.
 */
import {
  BULK,
  blocksOf,
  type Geometry,
  KERNEL_GEOMETRIES,
  median,
  round3,
  type Sample,
  sampleOf,
  USED_GEOMETRIES,
} from '../../src/cli/speed.ts';
import { Device, DmaPool, HeapMemory } from '../../src/index.ts';
import { type SharedPoolHandle, sharePool } from '../../src/shared/index.ts';
import { ThreadGroup, type Garbage, type Job, type Span } from './thread-group.ts';
import { most } from './garbage.ts';
import { Barrier } from './barrier.ts';
import { type Batch, BATCHES, createRing, PIPELINE_BLOCKS, PIPELINE_CALL, PIPELINE_GEOMETRY } from './pipeline.ts';
import { numbersFromArguments, printLine, runtimeName } from './program.ts';

/** Nanoseconds of wall time over the pairs of all threads. */
export interface WorkersResult extends Geometry {
  /** Blocks that all workers together hold at once. */
  readonly blocks: number;
  readonly shared: Sample;
  /** One thread on an unshared pool, with all the blocks. */
  readonly unshared: Sample;
  /** The same number of threads, each with its share of the blocks in its own pool: the capacity of these CPUs. */
  readonly apart: Sample;
  /** A worker's time over its own pairs: mean of the workers, median of the repetitions. */
  readonly nsPerPairPerWorker: number;
  /** Maximum of the workers; null where the runtime does not report it. */
  readonly garbageBytesPerPair: number | null;
}

/** Alloc and transfer in one worker, accept and free in another. */
export interface PipelineResult {
  /** Blocks that pass together. */
  readonly batch: Batch;
  /** Wall time over the transferred blocks: a pair is a block here. */
  readonly block: Sample;
  readonly garbageBytesPerBlock: number | null;
}

export interface WorkersLine {
  readonly runtime: string;
  /** Minimum fraction of a figure's repetitions, 0 to 1, in which no worker waited for a CPU. */
  readonly undisturbed: number;
  readonly results: readonly WorkersResult[];
  readonly pipeline: readonly PipelineResult[];
}

/** Milliseconds of one repetition. */
interface Times {
  /** From the first start to the last end. */
  readonly wall: number;
  /** Mean of the threads' times. */
  readonly own: number;
  readonly disturbed: boolean;
}

/** Milliseconds after which no further repetition starts. */
const BUDGET = 40_000;

/** Minimum number of undisturbed repetitions for a median. */
const MIN_UNDISTURBED = 3;

/** Default magazine size of a worker. */
const DEFAULT_MAGAZINE = 256;

function share(device: Device, geometry: Geometry, maxBlocks: number, magazine?: number): SharedPoolHandle {
  const pool = DmaPool.create<string>(String(geometry.size), device, { ...geometry, maxBlocks });
  return sharePool(pool, magazine === undefined ? {} : { magazine }).handle;
}

/** Runs timed jobs on several threads at once. */
class Stopwatch {
  readonly #group: ThreadGroup;
  #arrivals = 0;

  constructor(group: ThreadGroup) {
    this.#group = group;
  }

  /** Starts a job on each member at the same time; `jobFor` receives the number that completes the barrier. */
  async time(members: readonly number[], jobFor: (member: number, complete: number) => Job): Promise<Times> {
    const complete = (this.#arrivals += members.length);
    const spans = (await Promise.all(
      members.map((member) => this.#group.do(member, jobFor(member, complete))),
    )) as Span[];
    const own = spans.map(({ start, end }) => end - start).reduce((sum, time) => sum + time, 0);
    return {
      wall: Math.max(...spans.map(({ end }) => end)) - Math.min(...spans.map(({ start }) => start)),
      own: own / members.length,
      disturbed: spans.some(({ disturbed }) => disturbed),
    };
  }
}

/**
 * Runs the workload of Linux's `dmapool_test` with N workers on one pool, with one thread on its own pool, and with N
 * threads that each have a pool, in turns. Then runs the pipeline.
 *
 * Each worker has an equal share of the blocks, like the threads of the C peer. All start together, allocate their
 * shares and free them, round after round. The pools have room for the workers' magazines too: blocks idle in one
 * magazine would otherwise be missing in another. Unused room opens no page. The threads with their own pools have
 * never attached to a shared one. All times are wall time, because the threads' waits for each other count. Waits for a
 * CPU do not: such repetitions are excluded where the system reports them and enough remain.
 */
async function measureWorkers(): Promise<WorkersLine> {
  const settings = numbersFromArguments({ workers: 2, magazine: NaN, rounds: 100, repetitions: 15, warmup: 5 });
  const { workers, rounds, repetitions, warmup } = settings;
  const magazine = Number.isNaN(settings.magazine) ? undefined : settings.magazine;
  const deadline = performance.now() + BUDGET;
  using device = new Device({ name: 'bench', memory: new HeapMemory({ limit: 2 ** 28 }) });
  const blocks = USED_GEOMETRIES.map(({ size }) => blocksOf(size));
  const shares = blocks.map((count) => Math.max(1, Math.floor(count / workers)));
  const handles = USED_GEOMETRIES.map((geometry, i) =>
    share(device, geometry, workers * (Math.max(shares[i]!, BULK) + (magazine ?? DEFAULT_MAGAZINE)), magazine),
  );
  const pools = { handles, pipeline: share(device, PIPELINE_GEOMETRY, PIPELINE_BLOCKS), ring: createRing() };
  const barrier = Barrier.createBuffer();
  // The pipeline needs two workers, even if one runs the rest.
  const threads = Math.max(workers, 2);
  const apart = Array.from({ length: workers }, (_, lone) => threads + lone);
  const together = Array.from({ length: workers }, (_, worker) => worker);

  await using group = new ThreadGroup([
    ...Array.from({ length: threads }, () => ({ shared: pools, shares, barrier })),
    ...apart.map(() => ({ shared: null, shares: blocks, barrier })),
  ]);
  for (let member = 0; member < group.size; member++) await group.do(member, { kind: 'warm-up' });

  const stopwatch = new Stopwatch(group);
  const shared = USED_GEOMETRIES.map((): Times[] => []);
  const unshared = USED_GEOMETRIES.map((): Times[] => []);
  const separate = USED_GEOMETRIES.map((): Times[] => []);
  const calls = rounds * 16;
  const pipeline: Readonly<Record<Batch, Times[]>> = { 1: [], 32: [] };
  for (let repetition = -warmup; repetition < repetitions; repetition++) {
    if (repetition > 0 && performance.now() > deadline) break;
    const counts = repetition >= 0;
    for (const pool of USED_GEOMETRIES.keys()) {
      const jobFor =
        (held: number) =>
        (_member: number, complete: number): Job => ({ kind: 'rounds', pool, blocks: held, rounds, complete, counts });
      const single = await stopwatch.time(apart.slice(0, 1), jobFor(blocks[pool]!));
      const times = await stopwatch.time(together, jobFor(shares[pool]!));
      const ceiling = await stopwatch.time(apart, jobFor(shares[pool]!));
      if (!counts) continue;
      unshared[pool]!.push(single);
      shared[pool]!.push(times);
      separate[pool]!.push(ceiling);
    }
    for (const batch of BATCHES) {
      const times = await stopwatch.time([0, 1], (member, complete) => {
        return { kind: 'pipeline', half: member === 0 ? 'give' : 'take', batch, calls, complete, counts };
      });
      if (counts) pipeline[batch].push(times);
    }
  }

  const garbage: Garbage[] = [];
  for (let worker = 0; worker < threads; worker++) {
    garbage.push((await group.do(worker, { kind: 'garbage' })) as Garbage);
  }
  await group.end();

  const all = [...shared, ...unshared, ...separate, pipeline[1], pipeline[32]];
  return {
    runtime: runtimeName(),
    undisturbed: Math.min(...all.map((times) => times.filter(({ disturbed }) => !disturbed).length / times.length)),
    results: KERNEL_GEOMETRIES.map((geometry, i) => {
      const pairs = shares[i]! * rounds;
      return {
        ...geometry,
        blocks: shares[i]! * workers,
        shared: figures(shared[i]!, pairs * workers),
        unshared: figures(unshared[i]!, blocks[i]! * rounds),
        apart: figures(separate[i]!, pairs * workers),
        nsPerPairPerWorker: round3(median(quiet(shared[i]!).map(({ own }) => (own * 1e6) / pairs))),
        garbageBytesPerPair: most(garbage.slice(0, workers).map(({ pools }) => pools[i]!)),
      };
    }),
    pipeline: BATCHES.map((batch) => ({
      batch,
      block: figures(pipeline[batch], calls * PIPELINE_CALL),
      garbageBytesPerBlock: most(garbage.slice(0, 2).map((each) => each.pipeline[batch])),
    })),
  };
}

/** The undisturbed repetitions; all of them if too few are undisturbed. */
function quiet(times: readonly Times[]): readonly Times[] {
  const undisturbed = times.filter(({ disturbed }) => !disturbed);
  return undisturbed.length >= MIN_UNDISTURBED ? undisturbed : times;
}

/** Nanoseconds per pair or block. */
function figures(times: readonly Times[], count: number): Sample {
  return sampleOf(quiet(times).map(({ wall }) => (wall * 1e6) / count));
}

printLine(await measureWorkers());
