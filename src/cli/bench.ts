import type { Command } from 'commander';

import { formatBench } from '../bench/format.ts';
import { type BenchOptions, runBench } from '../bench/run.ts';
import type { CliIo } from './io.ts';
import { parseCount } from './numbers.ts';
import { ProgressBar } from './progress.ts';

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
    .addHelpText('after', "\nTo compare with the kernel's design in C, run `npm run bench` in a checkout.")
    .action((flags: BenchFlags) => runAndPrint(flags, io));
}

async function runAndPrint({ rounds, repetitions, json }: BenchFlags, io: CliIo): Promise<void> {
  const bar = new ProgressBar(io.stderr);
  const options: BenchOptions = {
    rounds,
    repetitions,
    onProgress: (done) => {
      bar.show('bench', done);
    },
  };
  try {
    const report = await runBench(options);
    bar.clear();
    io.stdout.write(`${json === true ? JSON.stringify(report) : formatBench(report)}\n`);
  } finally {
    bar.clear();
  }
}
