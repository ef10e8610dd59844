import { setImmediate } from 'node:timers/promises';

import { Device, DmaPool, HeapMemory } from '../index.ts';
import { CollectionWatch, seesAllocations } from './garbage.ts';
import { type BenchGeometry, COMPANION_GEOMETRIES, KERNEL_GEOMETRIES, benchBlocks } from './geometries.ts';
import { heapBytesPerBlock } from './heap.ts';
import { type Reading, garbagePerPair, median, nsPerPair, readRounds } from './measure.ts';
import { type HeldBlocks, type Round, bulkRound, createHeldBlocks, indexRound, objectRound } from './rounds.ts';
import { warmUp } from './warm-up.ts';

export interface BenchOptions {
  /** Rounds of allocate-all and free-all in one repetition. Default 100, as in `dmapool_test`. */
  readonly rounds?: number;
  /** Timed repetitions. Default 21. */
  readonly repetitions?: number;
  /** Repetitions before the clock counts. Default 3. */
  readonly warmup?: number;
  /** After so many milliseconds no repetition is begun any more, however slow the machine. Default 40 s. */
  readonly budgetMs?: number;
  /** Told from time to time which fraction is done, from 0 to 1; never while the clock runs. */
  readonly onProgress?: (done: number) => void;
}

/** Nanoseconds for one allocation and its free. */
export interface FormResult {
  readonly nsPerPairMedian: number;
  readonly nsPerPairBest: number;
}

export interface GeometryResult extends BenchGeometry, FormResult {
  /** Blocks held at once. */
  readonly blocks: number;
  readonly blocksPerPage: number;
  /** `allocIndex` and `freeIndex`; the figures of the object form, `alloc` and `free`, stand beside it. */
  readonly index: FormResult;
  /** `allocIndexBulk` and `freeIndexBulk` of 32, by the block. */
  readonly bulk32: FormResult;
  /** The most of the three forms. Null where the runtime does not tell. */
  readonly garbageBytesPerPair: number | null;
  readonly heapBytesPerBlock: number | null;
}

export interface BenchReport {
  readonly node: string;
  readonly results: readonly GeometryResult[];
}

const FORMS = ['object', 'index', 'bulk32'] as const;
type Form = (typeof FORMS)[number];

const ROUNDS: Readonly<Record<Form, Round>> = { object: objectRound, index: indexRound, bulk32: bulkRound };

/** Of the whole time, about; the rest is for {@link heapBytesPerBlock}. */
const TIMED_PART = 0.6;

interface Subject {
  readonly geometry: BenchGeometry;
  readonly pool: DmaPool;
  readonly blocks: number;
  readonly readings: Readonly<Record<Form, Reading[]>>;
  readonly empty: Readonly<Record<Form, Reading[]>>;
}

function createSubject(device: Device, geometry: BenchGeometry): Subject {
  const name = `${String(geometry.size)}/${String(geometry.align)}/${String(geometry.boundary)}`;
  return {
    geometry,
    pool: DmaPool.create<string>(name, device, geometry),
    blocks: benchBlocks(geometry.size),
    readings: { object: [], index: [], bulk32: [] },
    empty: { object: [], index: [], bulk32: [] },
  };
}

/**
 * Runs the workload of Linux's `dmapool_test` on eight pools and measures it, in all forms.
 *
 * Form and geometry change from one repetition to the next, so that a machine that slows down for a while slows all
 * alike. Takes 2 to 5 seconds on a machine of 2024.
 */
export async function runBench(options: BenchOptions = {}): Promise<BenchReport> {
  const { rounds = 100, repetitions = 21, warmup = 3, budgetMs = 40_000 } = options;
  const deadline = performance.now() + budgetMs;
  using watch = new CollectionWatch();
  using device = new Device({ name: 'bench', memory: new HeapMemory() });
  const held = createHeldBlocks();
  const subjects = [...KERNEL_GEOMETRIES, ...COMPANION_GEOMETRIES].map((geometry) => createSubject(device, geometry));

  warmUp(Object.values(ROUNDS), subjects, held);
  for (let repetition = -warmup; repetition < repetitions; repetition++) {
    if (repetition > 0 && performance.now() > deadline) break;
    options.onProgress?.(((repetition + warmup) / (repetitions + warmup)) * TIMED_PART);
    for (const form of FORMS) {
      for (const subject of subjects) {
        const { pool, blocks } = subject;
        const empty = readRounds(ROUNDS[form], pool, held, blocks, 0);
        const reading = readRounds(ROUNDS[form], pool, held, blocks, rounds);
        if (repetition < 0) continue;
        subject.empty[form].push(empty);
        subject.readings[form].push(reading);
      }
    }
    // The engine finishes and installs code that it compiled meanwhile, and a signal gets its turn.
    await setImmediate();
  }
  await watch.settle();

  const garbage: (number | null)[] = [];
  // Thrice, since a collection in a probe hides what it made.
  const visible = seesAllocations() || seesAllocations() || seesAllocations();
  for (const subject of subjects) garbage.push(visible ? await worstGarbage(subject, held, watch) : null);
  held.objects.fill(null);
  for (const subject of subjects) subject.pool.destroy();

  const results: GeometryResult[] = [];
  for (const [i, subject] of subjects.slice(0, KERNEL_GEOMETRIES.length).entries()) {
    options.onProgress?.(TIMED_PART + ((1 - TIMED_PART) * i) / KERNEL_GEOMETRIES.length);
    const heap = await heapBytesPerBlock(subject.geometry, subject.blocks);
    results.push(report(subject, garbage[i] ?? null, heap));
  }
  return { node: process.version, results };
}

function report(subject: Subject, garbage: number | null, heap: number | null): GeometryResult {
  const { geometry, pool, blocks, readings } = subject;
  return {
    ...geometry,
    blocks,
    blocksPerPage: pool.geometry.blocksPerPage,
    ...summary(readings.object),
    index: summary(readings.index),
    bulk32: summary(readings.bulk32),
    garbageBytesPerPair: garbage === null ? null : round3(garbage),
    heapBytesPerBlock: heap === null ? null : round3(heap),
  };
}

function summary(readings: readonly Reading[]): FormResult {
  const times = readings.map(nsPerPair);
  return { nsPerPairMedian: round3(median(times)), nsPerPairBest: round3(Math.min(...times)) };
}

/** The most garbage that any form leaves; null if it can't be told. */
async function worstGarbage(subject: Subject, held: HeldBlocks, watch: CollectionWatch): Promise<number | null> {
  let worst: number | null = null;
  for (const form of FORMS) {
    const garbage =
      garbagePerPair(subject.readings[form], subject.empty[form], watch) ??
      (await garbageOfShortRuns(subject, form, held, watch));
    if (garbage === null) return null;
    worst = Math.max(worst ?? 0, garbage);
  }
  return worst;
}

/** For when a collection ran in every repetition, so that there is much garbage: the same in runs that are too short for that. */
async function garbageOfShortRuns(
  { pool, empty }: Subject,
  form: Form,
  held: HeldBlocks,
  watch: CollectionWatch,
): Promise<number | null> {
  const readings: Reading[] = [];
  for (let i = 0; i < 50; i++) readings.push(readRounds(ROUNDS[form], pool, held, 64, 1));
  await watch.settle();
  return garbagePerPair(readings, empty[form], watch);
}

function round3(value: number): number {
  return Math.round(value * 1000) / 1000;
}
