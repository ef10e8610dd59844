import { formatGeometry } from '../src/bench/format.ts';
import { formatTable } from '../src/bench/table.ts';
import type { Comparison, ComparisonRow, MempoolRow, Rival, RuntimeComparison } from './compare-one-thread.ts';

type Figure = 'best' | 'median' | 'slowest';

const HEADING = ['', 'C peer', 'object', 'x', 'index', 'x', 'bulk 32', 'x', 'array', 'x'];

/** The comparison for people. */
export function formatComparison(comparison: Comparison): string {
  const { processes, pinning, peerMissing, lockedExchangeNs, lockUnlockNs } = comparison;
  const lines = [
    `Nanoseconds for one allocation and its free, in ${String(processes)} fresh processes of each, in turns,` +
      ` ${pinning === null ? 'not pinned to a CPU (no taskset)' : `pinned by ${pinning}`}.`,
    'C peer: free list inside the blocks under a spinlock. array: free indices in a JavaScript array, no checks.',
    "x: how many times as fast as the C peer (below 1 is slower). The workload is Linux's dmapool_test, eight pools in use.",
  ];
  if (peerMissing !== null) lines.push(peerMissing);
  if (lockedExchangeNs !== null && lockUnlockNs !== null) {
    lines.push(
      `One uncontended locked exchange costs ${lockedExchangeNs.toFixed(2)} ns on this CPU, the C peer's lock and` +
        ` unlock ${lockUnlockNs.toFixed(2)} ns; it pays two of them a pair.`,
    );
  }
  const { mempool, mempoolMissing } = comparison;
  if (mempoolMissing !== null) lines.push(mempoolMissing);
  for (const runtime of comparison.runtimes) {
    lines.push('', ...formatRuntime(runtime));
    if (mempool !== null) lines.push('', ...formatMempool(runtime, mempool));
  }
  return lines.join('\n');
}

function formatRuntime({ runtime, results, manyBlocks }: RuntimeComparison): string[] {
  const lines = [
    formatTable(
      heading(`${runtime}: best`),
      results.map((row) => cells(row, 'best')),
    ),
    '',
    formatTable(
      heading(`${runtime}: median`),
      results.map((row) => cells(row, 'median')),
    ),
    '',
    formatTable(
      heading(`${runtime}: slowest process`),
      results.map((row) => cells(row, 'slowest')),
    ),
    '',
  ];
  for (const { form, blocks, many, few, ratioBest, ratioMedian, firstFillNsPerPair } of manyBlocks) {
    lines.push(
      `${runtime}, ${blocks.toLocaleString('en')} blocks of 128 bytes, ${form}: best ${many.best.toFixed(1)} ns,` +
        ` median ${many.median.toFixed(1)} ns; 8,192 blocks: best ${few.best.toFixed(1)} ns,` +
        ` median ${few.median.toFixed(1)} ns; ratio ${ratioBest.toFixed(2)} and ${ratioMedian.toFixed(2)};` +
        ` first filling of a new pool ${firstFillNsPerPair.toFixed(0)} ns`,
    );
  }
  return lines;
}

/** Beside DPDK: below 1 we are slower. */
function formatMempool({ runtime, results }: RuntimeComparison, mempool: readonly MempoolRow[]): string[] {
  const rows = mempool.map(({ single, bulk32, ...geometry }, i) => {
    const { index, bulk32: ours } = results[i]!;
    return [
      formatGeometry(geometry),
      single.best.toFixed(1),
      index.best.toFixed(1),
      (single.best / index.best).toFixed(2),
      bulk32.best.toFixed(1),
      ours.best.toFixed(1),
      (bulk32.best / ours.best).toFixed(2),
    ];
  });
  const heading = [`${runtime}: best`, 'DPDK single', 'index', 'x', 'DPDK bulk 32', 'bulk 32', 'x'];
  return [
    formatTable(heading, rows),
    '',
    "DPDK's rte_mempool, a cache of 256 for the thread: get and put are copies of pointers, with no check of what comes",
    'back and no device address. Ours finds each free block through the word of the one before, which it checks and marks.',
  ];
}

function heading(title: string): string[] {
  return [title, ...HEADING.slice(1)];
}

function cells(row: ComparisonRow, figure: Figure): string[] {
  const rivals = [row.object, row.index, row.bulk32, row.floor];
  return [
    formatGeometry(row),
    row.peer === null ? '-' : row.peer[figure].toFixed(1),
    ...rivals.flatMap((rival) => [rival[figure].toFixed(1), ratio(row, rival, figure)]),
  ];
}

function ratio(row: ComparisonRow, rival: Rival, figure: Figure): string {
  return row.peer === null ? '-' : (row.peer[figure] / rival[figure]).toFixed(2);
}
