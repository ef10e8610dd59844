/** A thread of `npm run bench -- --workers N`: runs jobs in order and replies to each. */
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';

import { createHeldBlocks, createWorkloads, now, ROUNDS, warmUp } from '../../src/cli/speed.ts';
import type { DmaPool } from '../../src/index.ts';
import { Device, HeapMemory } from '../../src/index.ts';
import { attachPool } from '../../src/shared/index.ts';
import type { ThreadData, Garbage, Job, Reply, Span } from './thread-group.ts';
import {
  CollectionWatch,
  garbagePerPair,
  type Reading,
  readRounds,
  heapReflectsAllocations,
  usedHeapBytes,
} from './garbage.ts';
import { Barrier } from './barrier.ts';
import { type Batch, createSide, HALVES, type Half, PIPELINE_CALL, type PipelineSide } from './pipeline.ts';

/** Nanoseconds that this thread was runnable without a CPU; null if the system does not report it (not Linux). */
function delayNs(): number | null {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[1] ?? NaN);
  } catch {
    return null;
  }
}

interface Book {
  readonly readings: Reading[];
  readonly empty: Reading[];
}

function newBook(): Book {
  return { readings: [], empty: [] };
}

const data = workerData as ThreadData;
const barrier = new Barrier(data.barrier);
const watch = new CollectionWatch();
const { shared } = data;
const pools = shared === null ? ownPools() : shared.handles.map((handle): DmaPool => attachPool(handle).pool);
const side = shared === null ? null : createSide(attachPool(shared.pipeline).pool, shared.ring);
const subjects = pools.map((pool, i) => ({ pool, blocks: data.shares[i]!, ...newBook() }));
const pipeline: Readonly<Record<Batch, Book>> = { 1: newBook(), 32: newBook() };
const held = createHeldBlocks();
// The origin of the clock may differ between threads; the rate is the same.
const clockOffset = performance.timeOrigin;

function ownPools(): DmaPool[] {
  const device = new Device({ name: 'bench', memory: new HeapMemory() });
  return createWorkloads(device).map(({ pool }) => pool);
}

/** As {@link readRounds}, for half a pipeline. */
function readCalls(half: Half, of: PipelineSide, calls: number): Reading {
  const before = usedHeapBytes();
  const start = now();
  for (let i = 0; i < calls; i++) half(of);
  const end = now();
  return { start, end, pairs: calls * PIPELINE_CALL, heapGrowth: usedHeapBytes() - before };
}

/** Fraction of the time spent waiting for a CPU above which a repetition counts as disturbed. */
const DISTURBED = 0.02;

/** Starts with the other threads, times `read`, and records its reading. */
function timeTogether(job: { complete: number; counts: boolean }, book: Book, read: (empty: boolean) => Reading): Span {
  const empty = read(true);
  const before = delayNs();
  barrier.wait(job.complete);
  const reading = read(false);
  const after = delayNs();
  if (job.counts) {
    book.empty.push(empty);
    book.readings.push(reading);
  }
  return {
    start: reading.start.wall + clockOffset,
    end: reading.end.wall + clockOffset,
    disturbed:
      before !== null && after !== null && (after - before) / 1e6 > DISTURBED * (reading.end.wall - reading.start.wall),
  };
}

async function garbage(): Promise<Garbage> {
  await watch.settle();
  const visible = heapReflectsAllocations();
  const of = ({ readings, empty }: Book): number | null => (visible ? garbagePerPair(readings, empty, watch) : null);
  return { pools: subjects.map(of), pipeline: { 1: of(pipeline[1]), 32: of(pipeline[32]) } };
}

async function perform(job: Job): Promise<Reply> {
  switch (job.kind) {
    case 'warm-up': {
      warmUp([ROUNDS.index], subjects, held);
      return null;
    }
    case 'rounds': {
      const subject = subjects[job.pool]!;
      const { pool } = subject;
      return timeTogether(job, subject, (empty) =>
        readRounds(ROUNDS.index, pool, held, job.blocks, empty ? 0 : job.rounds),
      );
    }
    case 'pipeline': {
      const half = HALVES[job.batch][job.half];
      return timeTogether(job, pipeline[job.batch], (empty) => readCalls(half, side!, empty ? 0 : job.calls));
    }
    case 'garbage':
      return garbage();
    case 'end':
      for (const pool of pools) pool.destroy();
      side?.pool.destroy();
      watch[Symbol.dispose]();
      return null;
  }
}

parentPort!.on('message', (job: Job) => {
  // An error here is the thread's uncaught error, which the coordinator receives.
  void perform(job).then((reply) => {
    parentPort!.postMessage(reply);
  });
});
