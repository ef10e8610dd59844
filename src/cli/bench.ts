import type { Command } from 'commander';

import { formatBench } from '../bench/format.ts';
import { formatWorkersBench } from '../bench/format-workers.ts';
import { type BenchOptions, runBench } from '../bench/run.ts';
import { MAX_BENCH_WORKERS, runWorkersBench, toWorkersJson } from '../bench/run-workers.ts';
import type { CliIo } from './io.ts';
import { parseCount } from './numbers.ts';
import { ProgressBar } from './progress.ts';

interface BenchFlags {
  readonly rounds: number;
  readonly repetitions: number;
  readonly workers?: number;
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
    .option(
      '--workers <n>',
      'share each pool among n worker threads, beside a pool of one thread',
      parseCount(1, MAX_BENCH_WORKERS),
    )
    .option('--json', 'print a JSON document')
    .addHelpText('after', "\nTo compare with the kernel's design in C, run `npm run bench` in a checkout.")
    .action((flags: BenchFlags) => runAndPrint(flags, io));
}

async function runAndPrint({ rounds, repetitions, workers, json }: BenchFlags, io: CliIo): Promise<void> {
  const bar = new ProgressBar(io.stderr);
  const options: BenchOptions = {
    rounds,
    repetitions,
    onProgress: (done) => {
      bar.show('bench', done);
    },
  };
  try {
    const text = await (workers === undefined ? bench(options, json) : benchWorkers(options, workers, json));
    bar.clear();
    io.stdout.write(`${text}\n`);
  } finally {
    bar.clear();
  }
}

async function bench(options: BenchOptions, json = false): Promise<string> {
  const report = await runBench(options);
  return json ? JSON.stringify(report) : formatBench(report);
}

async function benchWorkers(options: BenchOptions, workers: number, json = false): Promise<string> {
  const report = await runWorkersBench({ ...options, workers });
  return json ? JSON.stringify(toWorkersJson(report)) : formatWorkersBench(report);
}
