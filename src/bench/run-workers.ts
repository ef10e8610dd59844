import { Device, DmaPool, HeapMemory, type SharedPoolHandle } from '../index.ts';
import { Crew } from './crew.ts';
import { type BenchGeometry, COMPANION_GEOMETRIES, KERNEL_GEOMETRIES, benchBlocks } from './geometries.ts';
import type { Garbage, Job, Span } from './jobs.ts';
import { median } from './measure.ts';
import { Meeting } from './meeting.ts';
import { type Batch, BATCHES, PIPELINE_BLOCKS, PIPELINE_CALL, PIPELINE_GEOMETRY } from './pipeline.ts';
import { BULK } from './rounds.ts';
import type { BenchOptions } from './run.ts';
import { createRing } from './ticket-ring.ts';

export interface WorkersBenchOptions extends BenchOptions {
  /** Threads that use each shared pool, 1 to {@link MAX_BENCH_WORKERS}. */
  readonly workers: number;
  /** Most free blocks of a pool that a worker keeps at hand, but for the pipeline. Default: the pool's. */
  readonly magazine?: number;
}

/** Most workers: a shared pool takes 62 with its creator and the thread that runs beside. */
export const MAX_BENCH_WORKERS = 60;

/** The figures that `dmapool bench --workers N --json` prints. */
export interface WorkersResult extends BenchGeometry {
  /** Blocks that all workers together hold at once. */
  readonly blocks: number;
  /** Wall time of all workers, divided by the pairs of all. */
  readonly nsPerPairMedian: number;
  readonly nsPerPairBest: number;
  /** What a pair takes the worker that does it: its own time by its own pairs, the mean of the workers; the median. */
  readonly nsPerPairPerWorker: number;
  /** One thread on a pool that is not shared, with all the blocks; the median. */
  readonly nsPerPairUnshared: number;
}

export interface PipelineResult {
  /** Blocks that go from worker to worker together. */
  readonly batch: Batch;
  /** Alloc and transfer in one worker, accept and free in another: wall time by the blocks that came through; the median. */
  readonly nsPerBlock: number;
}

/** What people are told beside. */
export interface WorkersDetails {
  readonly nsPerPairUnsharedBest: number;
  /** As many threads, each with its share of the blocks in a pool of its own: what the processors have to give. */
  readonly nsPerPairApart: number;
  readonly nsPerPairApartBest: number;
  /** Of the worker that leaves most; null where the runtime does not tell. */
  readonly garbageBytesPerPair: number | null;
}

export interface PipelineDetails {
  readonly nsPerBlockBest: number;
  readonly garbageBytesPerBlock: number | null;
}

export interface WorkersBenchReport {
  readonly node: string;
  readonly workers: number;
  /** Least part of its repetitions, from 0 to 1, in which no worker waited for a processor. */
  readonly undisturbed: number;
  readonly results: readonly (WorkersResult & WorkersDetails)[];
  readonly pipeline: readonly (PipelineResult & PipelineDetails)[];
}

/** Milliseconds of one repetition of the workload by some threads. */
interface Times {
  /** From the first one's start to the last one's end. */
  readonly wall: number;
  /** Mean of what each took. */
  readonly own: number;
  readonly disturbed: boolean;
}

/** A median of fewer is none. */
const FEWEST_GOOD = 3;

const GEOMETRIES = [...KERNEL_GEOMETRIES, ...COMPANION_GEOMETRIES];

/** The most that a worker keeps at hand by default. */
const USUAL_MAGAZINE = 256;

function share(device: Device, geometry: BenchGeometry, maxBlocks: number, magazine?: number): SharedPoolHandle {
  const pool = DmaPool.create<string>(String(geometry.size), device, { ...geometry, maxBlocks });
  return pool.share(magazine === undefined ? {} : { magazine });
}

/** Has threads do timed jobs together. */
class Stopwatch {
  readonly #crew: Crew;
  #arrivals = 0;

  constructor(crew: Crew) {
    this.#crew = crew;
  }

  /** The members begin at once, with the jobs that `jobFor` makes of the number of their meeting. */
  async time(members: readonly number[], jobFor: (member: number, complete: number) => Job): Promise<Times> {
    const complete = (this.#arrivals += members.length);
    const spans = (await Promise.all(
      members.map((member) => this.#crew.do(member, jobFor(member, complete))),
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
 * Runs the workload of Linux's `dmapool_test` with N workers on one pool, with one thread on a pool of its own, and with
 * N threads that each have a pool of their own, in turns; then blocks go from worker to worker.
 *
 * Each worker has its share of the blocks, a Nth, as each thread of the C peer has: all begin together, allocate their
 * shares and free them, round after round. The pools have room for more than that, or what idles in one worker's
 * magazine would be missing in another's; no page more is opened for it than is needed. The lone threads
 * have never met a shared pool. All times are wall time, for waiting for each other is part of it. What other processes did is not: repetitions in which
 * a worker had to wait for a processor are left out, where it tells and some are left.
 */
export async function runWorkersBench(options: WorkersBenchOptions): Promise<WorkersBenchReport> {
  const { workers, magazine, rounds = 100, repetitions = 21, warmup = 5, budgetMs = 40_000 } = options;
  const deadline = performance.now() + budgetMs;
  using device = new Device({ name: 'bench', memory: new HeapMemory({ limit: 2 ** 28 }) });
  const blocks = GEOMETRIES.map(({ size }) => benchBlocks(size));
  const shares = blocks.map((count) => Math.max(1, Math.floor(count / workers)));
  const handles = GEOMETRIES.map((geometry, i) =>
    share(device, geometry, workers * (Math.max(shares[i]!, BULK) + (magazine ?? USUAL_MAGAZINE)), magazine),
  );
  const pools = { handles, pipeline: share(device, PIPELINE_GEOMETRY, PIPELINE_BLOCKS), ring: createRing() };
  const meeting = Meeting.createBuffer();
  // The pipeline takes two, also where one worker does all the rest.
  const threads = Math.max(workers, 2);
  const apart = Array.from({ length: workers }, (_, lone) => threads + lone);
  const together = Array.from({ length: workers }, (_, worker) => worker);

  await using crew = new Crew([
    ...Array.from({ length: threads }, () => ({ shared: pools, shares, meeting })),
    ...apart.map(() => ({ shared: null, shares: blocks, meeting })),
  ]);
  for (let member = 0; member < crew.size; member++) await crew.do(member, { kind: 'warm-up' });

  const stopwatch = new Stopwatch(crew);
  const shared = GEOMETRIES.map((): Times[] => []);
  const unshared = GEOMETRIES.map((): Times[] => []);
  const separate = GEOMETRIES.map((): Times[] => []);
  const calls = rounds * 16;
  const pipeline: Readonly<Record<Batch, Times[]>> = { 1: [], 32: [] };
  for (let repetition = -warmup; repetition < repetitions; repetition++) {
    if (repetition > 0 && performance.now() > deadline) break;
    options.onProgress?.((repetition + warmup) / (repetitions + warmup));
    const counts = repetition >= 0;
    for (const pool of GEOMETRIES.keys()) {
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
    garbage.push((await crew.do(worker, { kind: 'garbage' })) as Garbage);
  }
  await crew.end();

  const all = [...shared, ...unshared, ...separate, pipeline[1], pipeline[32]];
  return {
    node: process.version,
    workers,
    undisturbed: Math.min(...all.map((times) => times.filter(({ disturbed }) => !disturbed).length / times.length)),
    results: KERNEL_GEOMETRIES.map((geometry, i) => {
      const pairs = shares[i]! * rounds;
      const together = figures(shared[i]!, pairs * workers);
      const single = figures(unshared[i]!, blocks[i]! * rounds);
      const ceiling = figures(separate[i]!, pairs * workers);
      return {
        ...geometry,
        blocks: shares[i]! * workers,
        nsPerPairMedian: together.median,
        nsPerPairBest: together.best,
        nsPerPairPerWorker: round3(together.own * workers),
        nsPerPairUnshared: single.median,
        nsPerPairUnsharedBest: single.best,
        nsPerPairApart: ceiling.median,
        nsPerPairApartBest: ceiling.best,
        garbageBytesPerPair: most(garbage.slice(0, workers).map(({ pools }) => pools[i]!)),
      };
    }),
    pipeline: BATCHES.map((batch) => {
      const { median: nsPerBlock, best: nsPerBlockBest } = figures(pipeline[batch], calls * PIPELINE_CALL);
      const garbageBytesPerBlock = most(garbage.slice(0, 2).map((each) => each.pipeline[batch]));
      return { batch, nsPerBlock, nsPerBlockBest, garbageBytesPerBlock };
    }),
  };
}

/** Nanoseconds a pair or block, of all repetitions that nothing disturbed; of all there are if too few are left. */
function figures(times: readonly Times[], count: number): { median: number; best: number; own: number } {
  const undisturbed = times.filter(({ disturbed }) => !disturbed);
  const good = undisturbed.length >= FEWEST_GOOD ? undisturbed : times;
  const walls = good.map(({ wall }) => (wall * 1e6) / count);
  return {
    median: round3(median(walls)),
    best: round3(Math.min(...walls)),
    own: round3(median(good.map(({ own }) => (own * 1e6) / count))),
  };
}

/** Only what the JSON document has. */
export function toWorkersJson({ node, workers, results, pipeline }: WorkersBenchReport): object {
  return {
    node,
    workers,
    results: results.map(
      ({
        size,
        align,
        boundary,
        blocks,
        nsPerPairMedian,
        nsPerPairBest,
        nsPerPairPerWorker,
        nsPerPairUnshared,
      }): WorkersResult => ({
        size,
        align,
        boundary,
        blocks,
        nsPerPairMedian,
        nsPerPairBest,
        nsPerPairPerWorker,
        nsPerPairUnshared,
      }),
    ),
    pipeline: pipeline.map(({ batch, nsPerBlock }): PipelineResult => ({ batch, nsPerBlock })),
  };
}

function most(values: readonly (number | null)[]): number | null {
  return values.some((value) => value === null) ? null : round3(Math.max(...values.map((value) => value!)));
}

function round3(value: number): number {
  return Math.round(value * 1000) / 1000;
}
