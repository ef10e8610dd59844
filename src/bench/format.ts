import type { BenchGeometry } from './geometries.ts';
import type { BenchReport } from './run.ts';
import { formatTable } from './table.ts';

export function formatGeometry({ size, align, boundary }: BenchGeometry): string {
  return `${String(size)}/${String(align)}/${String(boundary)}`;
}

const HEADING = [
  'size/align/boundary',
  'blocks',
  'a page',
  'object ns',
  'best',
  'index ns',
  'best',
  'bulk 32 ns',
  'best',
  'garbage B',
  'heap B/block',
];

/** The report for people. */
export function formatBench(report: BenchReport): string {
  const rows = report.results.map((result) => [
    formatGeometry(result),
    String(result.blocks),
    String(result.blocksPerPage),
    result.nsPerPairMedian.toFixed(1),
    result.nsPerPairBest.toFixed(1),
    result.index.nsPerPairMedian.toFixed(1),
    result.index.nsPerPairBest.toFixed(1),
    result.bulk32.nsPerPairMedian.toFixed(1),
    result.bulk32.nsPerPairBest.toFixed(1),
    formatBytes(result.garbageBytesPerPair),
    formatBytes(result.heapBytesPerBlock),
  ]);
  return [
    formatTable(HEADING, rows),
    '',
    `Node ${report.node}. Nanoseconds and bytes of garbage for one allocation and its free (median, best), with eight`,
    "pools in use. The workload is Linux's dmapool_test: allocate all blocks, then free them in the same order.",
  ].join('\n');
}

/** Bytes for a table. */
export function formatBytes(bytes: number | null): string {
  if (bytes === null) return '?';
  return Number.isInteger(bytes) ? String(bytes) : bytes.toFixed(1);
}
