import type { Command } from 'commander';

import { DmaArgumentError } from '../index.ts';
import { bindToVfio, listPciDevices, type PciDevice, type Rebinding, unbindFromVfio, usesOf } from '../linux/index.ts';
import { CliExit, type CliIo, EXIT } from './io.ts';
import { styleFor } from './style.ts';

/** An element of `dmapool devices --json`. */
export interface DeviceDocument extends PciDevice {
  /** Name of the class. */
  readonly class: string;
  /** Current uses, as text. */
  readonly uses: readonly string[];
}

/** Adds `dmapool devices`. */
export function registerDevices(program: Command, io: CliIo): void {
  program
    .command('devices')
    .summary('list PCI functions, their drivers and IOMMU groups')
    .description('List the PCI functions of this system: class, driver, IOMMU group, and current use.')
    .option('--json', 'print a JSON document')
    .action((flags: { json?: true }) => {
      const devices = listPciDevices().map((device) => describeDevice(device));
      if (flags.json === true) {
        io.stdout.write(`${JSON.stringify(devices)}\n`);
        return;
      }
      if (devices.length === 0) throw new CliExit(EXIT.failure, 'devices: this system has no PCI functions');
      const { bold } = styleFor(io.stdout, io.env);
      const [heading, ...lines] = leftTable([
        ['address', 'id', 'class', 'driver', 'group', 'in use'],
        ...devices.map(deviceRow),
      ]);
      io.stdout.write([bold(heading!), ...lines, ''].join('\n'));
    });
}

function describeDevice(device: PciDevice): DeviceDocument {
  return { ...device, class: pciClassName(device.classCode), uses: usesOf(device.address) };
}

function deviceRow(device: DeviceDocument): string[] {
  const { address, vendorId, deviceId, driver, iommuGroup, uses } = device;
  const id = [vendorId, deviceId].map((part) => part.toString(16).padStart(4, '0')).join(':');
  const group = iommuGroup === null ? '-' : String(iommuGroup);
  return [address, id, device.class, driver ?? '-', group, uses.join('; ')];
}

/** Adds `dmapool bind`. */
export function registerBind(program: Command, io: CliIo): void {
  program
    .command('bind')
    .summary('bind PCI functions to vfio-pci, for user-space drivers')
    .description(
      'Bind PCI functions to the driver vfio-pci, for user-space drivers. Refuses functions in use: a mounted disk, a ' +
        'network interface that is up, a function whose IOMMU group has other functions with drivers. Needs root.',
    )
    .argument('<address...>', 'PCI addresses, such as 0000:3b:00.0; those of one group together')
    .option('--json', 'print a JSON document')
    .action((addresses: string[], { json }: { json?: true }) => {
      const done = orUsageError('bind', () => bindToVfio(addresses));
      if (json === true) {
        io.stdout.write(`${JSON.stringify(done)}\n`);
        return;
      }
      for (const rebinding of done) report(rebinding, io);
      const changed = done.filter(({ steps }) => steps.length > 0).map(({ address }) => address);
      if (changed.length > 0)
        io.stdout.write(`To undo this: dmapool unbind ${changed.join(' ')} (a reboot does it too)\n`);
    });
}

/** Adds `dmapool unbind`. */
export function registerUnbind(program: Command, io: CliIo): void {
  program
    .command('unbind')
    .summary("return PCI functions to the kernel's drivers")
    .description("Unbind PCI functions from vfio-pci and return them to the kernel's drivers. Needs root.")
    .argument('<address...>', 'PCI addresses, such as 0000:3b:00.0')
    .option('--json', 'print a JSON document')
    .action((addresses: string[], { json }: { json?: true }) => {
      const rebindings = orUsageError('unbind', () => unbindFromVfio(addresses));
      if (json === true) io.stdout.write(`${JSON.stringify(rebindings)}\n`);
      else for (const rebinding of rebindings) report(rebinding, io);
    });
}

function report({ address, from, to, steps }: Rebinding, io: CliIo): void {
  const name = (driver: string | null): string => driver ?? 'no driver';
  const what = steps.length === 0 ? `has ${name(to)} already` : `${name(from)} -> ${name(to)}`;
  io.stdout.write([`${address}: ${what}`, ...steps.map((step) => `  ${step}`), ''].join('\n'));
}

function orUsageError<T>(command: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof DmaArgumentError) throw new CliExit(EXIT.usage, `${command}: ${error.message}`);
    throw error;
  }
}

function leftTable(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  );
}

/** Names of common PCI classes (PCI Code and ID Assignment Specification, section 1). */
const SUBCLASSES: Readonly<Record<number, string>> = {
  0x0100: 'SCSI storage',
  0x0101: 'IDE storage',
  0x0104: 'RAID storage',
  0x0106: 'SATA storage',
  0x0107: 'SAS storage',
  0x0108: 'NVMe storage',
  0x0200: 'Ethernet',
  0x0207: 'InfiniBand',
  0x0280: 'network',
  0x0300: 'VGA display',
  0x0302: '3D display',
  0x0403: 'HD audio',
  0x0600: 'host bridge',
  0x0601: 'ISA bridge',
  0x0604: 'PCI bridge',
  0x0880: 'system device',
  0x0c03: 'USB',
  0x0c05: 'SMBus',
  0x1200: 'accelerator',
};

const CLASSES: readonly string[] = [
  'old device',
  'storage',
  'network',
  'display',
  'multimedia',
  'memory',
  'bridge',
  'communication',
  'system device',
  'input',
  'docking station',
  'processor',
  'serial bus',
  'wireless',
  'intelligent I/O',
  'satellite',
  'encryption',
  'signal processing',
  'accelerator',
];

/** Names a 24-bit class code. */
function pciClassName(classCode: number): string {
  return SUBCLASSES[classCode >> 8] ?? CLASSES[classCode >> 16] ?? 'other';
}
