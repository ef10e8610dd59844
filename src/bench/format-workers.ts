import { formatBytes, formatGeometry } from './format.ts';
import type { WorkersBenchReport } from './run-workers.ts';
import { formatTable } from './table.ts';

const HEADING = [
  'size/align/boundary',
  'blocks',
  'shared ns',
  'best',
  'per worker',
  'unshared ns',
  'best',
  'apart ns',
  'best',
  'x',
  'best',
  'apart x',
  'best',
  'garbage B',
];

/** The report for people. */
export function formatWorkersBench({ node, workers, undisturbed, results, pipeline }: WorkersBenchReport): string {
  const rows = results.map((result) => [
    formatGeometry(result),
    String(result.blocks),
    result.nsPerPairMedian.toFixed(1),
    result.nsPerPairBest.toFixed(1),
    result.nsPerPairPerWorker.toFixed(1),
    result.nsPerPairUnshared.toFixed(1),
    result.nsPerPairUnsharedBest.toFixed(1),
    result.nsPerPairApart.toFixed(1),
    result.nsPerPairApartBest.toFixed(1),
    (result.nsPerPairUnshared / result.nsPerPairMedian).toFixed(2),
    (result.nsPerPairUnsharedBest / result.nsPerPairBest).toFixed(2),
    (result.nsPerPairUnshared / result.nsPerPairApart).toFixed(2),
    (result.nsPerPairUnsharedBest / result.nsPerPairApartBest).toFixed(2),
    formatBytes(result.garbageBytesPerPair),
  ]);
  const lanes = pipeline.map(({ batch, nsPerBlock, nsPerBlockBest, garbageBytesPerBlock }) => [
    batch === 1 ? 'one by one' : `${String(batch)} at a time`,
    nsPerBlock.toFixed(1),
    nsPerBlockBest.toFixed(1),
    formatBytes(garbageBytesPerBlock),
  ]);
  const crowd = workers === 1 ? '1 worker' : `${String(workers)} workers`;
  return [
    formatTable(HEADING, rows),
    '',
    formatTable(['worker to worker', 'ns a block', 'best', 'garbage B'], lanes),
    '',
    `Node ${node}, ${crowd} on one shared pool, beside one thread on a pool of its own, in turns; index form. Nanoseconds`,
    'for one allocation and its free: wall time divided by the pairs of all workers (median, best), and what a pair takes',
    'the worker that does it. x: how many times the throughput of the unshared pool, median by median and best by best.',
    'Apart: as many threads, each on an unshared pool of its own; that is what these processors have to give.',
    "The workload is Linux's dmapool_test, each worker with its share of the blocks: allocate them all, then free them in",
    'the same order. Worker to worker: alloc and transfer in one, accept and free in another, tickets through a ring.',
    'Garbage: growth of the V8 heap of the worker that leaves most, over repetitions that no collection disturbed.',
    ...(undisturbed === 1
      ? []
      : [
          `The machine was busy: in up to ${((1 - undisturbed) * 100).toFixed(0)} % of the repetitions of a figure workers had` +
            ' to wait for a processor. They are left out, unless too few remain.',
        ]),
  ].join('\n');
}
