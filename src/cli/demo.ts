import { Argument, type Command } from 'commander';

import type { CliIo } from './io.ts';

/** Runs a driver on a QEMU machine. */
type Demo = (io: CliIo) => Promise<void>;

/** Loaded on demand: the other commands need neither drivers nor QEMU. */
const DEMOS: Readonly<Record<string, () => Promise<Demo>>> = {
  e1000: async () => (await import('./demo-e1000.ts')).demoE1000,
  ehci: async () => (await import('./demo-ehci.ts')).demoEhci,
  nvme: async () => (await import('./demo-nvme.ts')).demoNvme,
};

function isOn(value: string | undefined): boolean {
  return value !== undefined && !/^(0|false|no|off|)$/i.test(value);
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
    .addHelpText(
      'after',
      '\nExamples:\n  $ dmapool demo\n  $ dmapool demo e1000\n\nWith DMAPOOL_OBSERVE=1 in the environment, watch it with: dmapool ps, top, web.',
    )
    .action(async (name?: string) => {
      if (isOn(io.env['DMAPOOL_OBSERVE'])) await import('../observe/register.ts');
      if (name === undefined) {
        const { demoPools } = await import('./demo-pools.ts');
        demoPools(io);
        return;
      }
      const demo = await DEMOS[name]!();
      await demo(io);
    });
}
