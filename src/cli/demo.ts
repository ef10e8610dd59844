import { Argument, type Command } from 'commander';

import type { DemoDocument, DemoResult, TourDocument } from './demo-document.ts';
import type { CliIo, CliStream } from './io.ts';

/** Runs a driver on a QEMU machine. Prints the results as text and returns them. */
type Demo = (io: CliIo) => Promise<DemoResult>;

/** Loaded on demand: the other commands need neither drivers nor QEMU. */
const DEMOS: Readonly<Record<string, () => Promise<Demo>>> = {
  e1000: async () => (await import('./demo-e1000.ts')).demoE1000,
  ehci: async () => (await import('./demo-ehci.ts')).demoEhci,
  nvme: async () => (await import('./demo-nvme.ts')).demoNvme,
};

const SILENT: CliStream = { write: () => undefined, isTTY: false };

function isOn(value: string | undefined): boolean {
  return value !== undefined && !/^(0|false|no|off|)$/i.test(value);
}

async function runTour(io: CliIo): Promise<TourDocument> {
  const { demoPools } = await import('./demo-pools.ts');
  return { driver: null, node: process.version, steps: demoPools(io) };
}

async function runDriver(driver: string, io: CliIo): Promise<DemoDocument> {
  const demo = await DEMOS[driver]!();
  const results = await demo(io);
  return { driver, node: process.version, ...results };
}

/** Adds `dmapool demo`. */
export function registerDemo(program: Command, io: CliIo): void {
  program
    .command('demo')
    .summary('show what pools do, or run a reference driver on a QEMU device')
    .description(
      'Show a pool, an emulated device behind an IOMMU, a late write and a leak. With the name of a driver: start a QEMU ' +
        "machine, run the driver on real data, check every byte, and print the speed and the device's pools. That needs " +
        'qemu-system-x86_64 and the package koffi.',
    )
    .addArgument(new Argument('[driver]', 'the driver').choices(Object.keys(DEMOS)))
    .option('--json', 'print a JSON document')
    .addHelpText(
      'after',
      '\nExamples:\n  $ dmapool demo\n  $ dmapool demo e1000\n\nWith DMAPOOL_OBSERVE=1 in the environment, observe it with dmapool ps, top and web.',
    )
    .action(async (driver: string | undefined, { json }: { json?: true }) => {
      if (isOn(io.env['DMAPOOL_OBSERVE'])) await import('../observe/register.ts');
      const output = json === true ? { ...io, stdout: SILENT } : io;
      const document = driver === undefined ? await runTour(output) : await runDriver(driver, output);
      if (json === true) io.stdout.write(`${JSON.stringify(document)}\n`);
    });
}
