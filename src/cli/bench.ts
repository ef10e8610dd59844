import type { Command } from 'commander';

import type { CliIo } from './io.ts';
import { parseCount } from './numbers.ts';
import { formatGeometry, measureSpeed, type SpeedReport } from './speed.ts';
import { ProgressBar, table } from './style.ts';

interface BenchFlags {
  readonly rounds: number;
  readonly repetitions: number;
  readonly json?: true;
}

/** Adds `dmapool bench`. */
export function registerBench(program: Command, io: CliIo): void {
  program
    .command('bench')
    .summary("measure the allocator on this machine with the kernel's own workload")
    .description(
      "Measure the allocator on this machine with the workload of Linux's dmapool_test: six geometries, allocate all blocks, free all, one hundred times over.",
    )
    .option('--rounds <n>', 'rounds in one repetition', parseCount(1, 10_000), 100)
    .option('--repetitions <n>', 'timed repetitions', parseCount(1, 1000), 21)
    .option('--json', 'print a JSON document')
    .addHelpText(
      'after',
      "\nWorkers on one pool, garbage, heap a block, and the kernel's design in C: `npm run bench` in a checkout.",
    )
    .action(async ({ json, ...flags }: BenchFlags) => {
      const bar = new ProgressBar(io.stderr);
      let report: SpeedReport;
      try {
        report = await measureSpeed({
          ...flags,
          onProgress: (done) => {
            bar.show('bench', done);
          },
        });
      } finally {
        bar.clear();
      }
      io.stdout.write(`${json === undefined ? formatSpeed(report) : JSON.stringify(report)}\n`);
    });
}

/** Formats the report as text. */
export function formatSpeed({ node, results }: SpeedReport): string {
  const heading = [
    'size/align/boundary',
    'blocks',
    'a page',
    'object ns',
    'best',
    'index ns',
    'best',
    'bulk 32 ns',
    'best',
  ];
  const rows = results.map((result) => [
    formatGeometry(result),
    String(result.blocks),
    String(result.blocksPerPage),
    ...[result, result.index, result.bulk32].flatMap(({ nsPerPairMedian, nsPerPairBest }) => [
      nsPerPairMedian.toFixed(1),
      nsPerPairBest.toFixed(1),
    ]),
  ]);
  return [
    ...table([heading, ...rows], { rule: true }),
    '',
    `Node ${node}. Nanoseconds for one allocation and its free (median, best), with eight pools in use. The workload is`,
    "Linux's dmapool_test: allocate all blocks, then free them in the same order.",
  ].join('\n');
}
