import { formatGeometry } from '../src/bench/format.ts';
import { formatTable } from '../src/bench/table.ts';
import type { WorkerComparison } from './compare-workers.ts';

const HEADING = [
  'blocks',
  'C peer',
  'median',
  'shared',
  'median',
  'unshared',
  'median',
  'apart',
  'median',
  'x peer',
  'x one',
  'median',
];

/** The comparison for people. */
export function formatWorkerComparison({ processes, workers, peerMissing, runtimes }: WorkerComparison): string {
  const lines = [
    `Nanoseconds for one allocation and its free, wall time by the pairs of all: ${String(workers)} workers on one shared` +
      ` pool, the C peer with as many threads, and one thread on an unshared pool; best and median of ${String(processes)}` +
      ' fresh processes of each, in turns, not pinned.',
    "x peer: how many times as fast as the C peer, best against best. x one: times the unshared pool's throughput.",
    'Repetitions in which a thread waited for a processor are left out, of all alike, unless too few remain.',
    'apart: as many threads, each on an unshared pool of its own; that is what these processors have to give.',
  ];
  if (peerMissing !== null) lines.push(peerMissing);
  for (const { runtime, undisturbed, results, pipeline } of runtimes) {
    const rows = results.map(({ peer, shared, unshared, apart, scalesBest, scalesMedian, fasterBest, ...row }) => [
      formatGeometry(row),
      String(row.blocks),
      peer === null ? '-' : peer.best.toFixed(1),
      peer === null ? '-' : peer.median.toFixed(1),
      shared.best.toFixed(1),
      shared.median.toFixed(1),
      unshared.best.toFixed(1),
      unshared.median.toFixed(1),
      apart.best.toFixed(1),
      apart.median.toFixed(1),
      fasterBest === null ? '-' : fasterBest.toFixed(2),
      scalesBest.toFixed(2),
      scalesMedian.toFixed(2),
    ]);
    lines.push('', formatTable([runtime, ...HEADING], rows), '');
    for (const { batch, block } of pipeline) {
      lines.push(
        `${runtime}, from worker to worker, ${String(batch)} at a time: best ${block.best.toFixed(0)} ns a block,` +
          ` median ${block.median.toFixed(0)} ns`,
      );
    }
    lines.push(
      `${runtime}: in ${((1 - undisturbed) * 100).toFixed(0)} % of the repetitions of some figure, at most, a worker` +
        ' waited for a processor',
    );
  }
  return lines.join('\n');
}
