/**
 * `npm run vm -- [options] COMMAND...` runs a command in the virtual machine. See `--help`.
 *
 * The exit code is that of the command; 124 after a timeout and 125 if the machine failed, as in timeout(1).
 */

import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { VmDevice } from './devices.ts';
import { VmError } from './error.ts';
import { fetchHeaders } from './headers.ts';
import { DEFAULT_KERNEL, fetchKernel, KERNEL_SERIES, kernelSeries, type KernelSeries } from './kernel.ts';
import type { VmOptions } from './options.ts';
import { runInVm, type VmStage } from './run.ts';

interface Flags {
  readonly memory?: number;
  readonly cpus?: number;
  readonly numa?: number;
  readonly hugepages?: Record<string, number>;
  readonly iommu: boolean | string;
  readonly writable: string[];
  readonly env: Record<string, string>;
  readonly cwd?: string;
  readonly timeout?: number;
  readonly kernel?: KernelSeries;
  readonly accel?: 'kvm' | 'tcg';
  readonly kernelArg: string[];
  readonly qemu: string[];
  readonly dmesg?: string;
  readonly console?: boolean;
  readonly prepare?: boolean;
  readonly quiet?: boolean;
}

// The devices of all options, in the given order, which is the order of their addresses.
const devices: VmDevice[] = [];

const program = new Command('npm run vm --')
  .description(
    'Runs COMMAND in a virtual machine with an IOMMU and the given devices. The command sees the files of this system.\n' +
      'Its changes to them are discarded, except below the folders of --writable.\n' +
      'Devices get the PCI addresses 0000:00:10.0, 0000:00:11.0, ... in the given order.',
  )
  .argument('[command...]', 'program and arguments; a shell by default with --console')
  .option(
    '--nvme <size>',
    'an NVMe disk of this size, such as 64M, or with this raw image file; repeatable',
    addDisk('nvme'),
  )
  .option(
    '--virtio-blk <size>',
    'a virtio disk behind the IOMMU, with the same values; repeatable',
    addDisk('virtio-blk'),
  )
  .option('--e1000 <count>', 'number of 82540EM network cards, connected to one hub', addCards('e1000'))
  .option('--e1000e <count>', 'number of 82574L network cards (MSI-X), connected to one hub', addCards('e1000e'))
  .option('--edu', "QEMU's educational device", () => devices.push({ kind: 'edu' }))
  .option(
    '--device <device>',
    "any device, in the form of QEMU's -device; a PCI device without addr= and bus= gets the next address; repeatable",
    addRaw,
  )
  .option('--memory <size>', 'size of the memory (default 1G)', parseSize)
  .option('--cpus <count>', 'number of processors (default 2)', parseCount)
  .option('--numa <nodes>', 'number of NUMA nodes (default 1)', parseCount)
  .option('--hugepages <count>', 'hugepages to reserve at boot, such as 64, 2M=64 or 1G=1; repeatable', addHugepages)
  .option('--iommu <properties>', "additional properties of QEMU's intel-iommu, such as snoop-control=on", true)
  .option('--no-iommu', 'no IOMMU')
  .option('--writable <folder>', 'a folder where changes of the command persist; repeatable', append, [])
  .option(
    '--env <name[=value]>',
    "a variable of the command's environment; without a value, this process's; repeatable",
    addVariable,
    {},
  )
  .option('--cwd <folder>', "the command's working folder (default: the current one)")
  .option('--timeout <seconds>', 'time limit of the command (default 600)', parseCount)
  .addOption(new Option('--kernel <series>', `the kernel (default ${DEFAULT_KERNEL})`).choices(KERNEL_SERIES))
  .addOption(
    new Option('--accel <name>', 'the accelerator (default: kvm if it works, else tcg)').choices(['kvm', 'tcg']),
  )
  .option('--kernel-arg <argument>', "additional argument of the guest's kernel; repeatable", append, [])
  .option('--qemu <argument>', 'additional option of QEMU; repeatable', append, [])
  .option('--dmesg <file>', "write the guest's kernel log to this file")
  .option('--console', "run COMMAND on the machine's console, connected to this terminal; Ctrl-A X ends the machine")
  .option('--prepare', 'download the current kernel and its headers through apt; COMMAND is optional')
  .option('--quiet', 'print messages of its own only for failures')
  .showHelpAfterError('(--help lists the options)')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 125))
  .passThroughOptions()
  .action(main);

async function main(command: string[], flags: Flags): Promise<void> {
  const log = (line: string): void => {
    if (flags.quiet !== true) process.stderr.write(`vm: ${line}\n`);
  };
  try {
    if (flags.prepare === true) {
      const kernel = await fetchKernel(kernelSeries(flags.kernel), log);
      await fetchHeaders(kernel, log);
      const { release, folder } = kernel;
      log(`kernel ${release} is in ${folder}`);
      if (command.length === 0) return;
    }
    if (command.length === 0 && flags.console !== true) program.error('error: COMMAND or --console is required');
    const result = await runInVm({
      ...machine(flags),
      command: command.length === 0 ? ['sh'] : command,
      onMessage: log,
    });
    if (flags.dmesg !== undefined) writeFileSync(flags.dmesg, result.kernelLog);
    log(describeStages(result.stages));
    process.exitCode = result.exitCode;
  } catch (error) {
    if (!(error instanceof VmError)) throw error;
    if (flags.dmesg !== undefined && error.output !== undefined) writeFileSync(flags.dmesg, error.output.kernelLog);
    process.stderr.write(`vm: ${error.message}\n`);
    if (error.output !== undefined && error.code !== 'ERR_VM_ABORT')
      process.stderr.write(lastOf(error.output.kernelLog));
    process.exitCode = error.code === 'ERR_VM_TIMEOUT' ? 124 : error.code === 'ERR_VM_ABORT' ? abortCode : 125;
  }
}

let abortCode = 125;

function machine(flags: Flags): Omit<VmOptions, 'command' | 'onMessage'> {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      abortCode = 128 + constants.signals[signal];
      controller.abort();
    });
  }
  return {
    devices,
    iommu: flags.iommu,
    writable: flags.writable,
    env: flags.env,
    kernelArguments: flags.kernelArg,
    qemuArguments: flags.qemu,
    console: flags.console === true,
    signal: controller.signal,
    onOutput: (stream, data) => process[stream].write(data),
    ...(flags.memory === undefined ? {} : { memory: flags.memory }),
    ...(flags.cpus === undefined ? {} : { cpus: flags.cpus }),
    ...(flags.numa === undefined ? {} : { numaNodes: flags.numa }),
    ...(flags.hugepages === undefined ? {} : { hugepages: flags.hugepages }),
    ...(flags.cwd === undefined ? {} : { cwd: flags.cwd }),
    ...(flags.timeout === undefined ? {} : { timeout: flags.timeout * 1000 }),
    ...(flags.kernel === undefined ? {} : { kernel: flags.kernel }),
    ...(flags.accel === undefined ? {} : { accelerator: flags.accel }),
    // Only --console reads from a terminal.
    ...(flags.console === true || process.stdin.isTTY ? {} : { stdin: process.stdin }),
  };
}

function addDisk(kind: 'nvme' | 'virtio-blk'): (value: string) => void {
  return (value) => {
    const size = /^\d+[KMG]?$/.test(value) ? parseSize(value) : undefined;
    devices.push(size === undefined ? { kind, image: value } : { kind, size });
  };
}

function addCards(kind: 'e1000' | 'e1000e'): (value: string) => void {
  return (value) => {
    for (let count = parseCount(value); count > 0; count--) devices.push({ kind });
  };
}

function addRaw(device: string): void {
  devices.push({ kind: 'raw', device });
}

function addHugepages(value: string, previous: Record<string, number> = {}): Record<string, number> {
  const match = /^(?:(2M|1G)=)?(\d+)$/.exec(value);
  if (match === null) throw new InvalidArgumentError('It must be NUMBER, 2M=NUMBER or 1G=NUMBER.');
  return { ...previous, [match[1] ?? '2M']: Number(match[2]) };
}

function addVariable(value: string, previous: Record<string, string>): Record<string, string> {
  const at = value.indexOf('=');
  if (at > 0) return { ...previous, [value.slice(0, at)]: value.slice(at + 1) };
  const inherited = process.env[value];
  return inherited === undefined ? previous : { ...previous, [value]: inherited };
}

function append(value: string, previous: string[]): string[] {
  return [...previous, value];
}

function parseCount(value: string): number {
  if (!/^\d+$/.test(value) || Number(value) === 0)
    throw new InvalidArgumentError('It must be a positive whole number.');
  return Number(value);
}

function parseSize(value: string): number {
  const match = /^(\d+)([KMG]?)$/.exec(value);
  if (match === null) throw new InvalidArgumentError('It must be a number of bytes, or a number with K, M or G.');
  return Number(match[1]) * { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[match[2] as '' | 'K' | 'M' | 'G'];
}

/** Returns a summary such as `3.9 s: kernel 1.8, files 0.2, drivers 0.1, command 1.5, off 0.3`. */
function describeStages(stages: readonly VmStage[]): string {
  const seconds = (ms: number): string => (ms / 1000).toFixed(1);
  const parts = stages.map(({ name, at }, index) => `${name} ${seconds(at - (stages[index - 1]?.at ?? 0))}`);
  return `${seconds(stages.at(-1)?.at ?? 0)} s: ${parts.join(', ')}`;
}

function lastOf(kernelLog: string): string {
  const lines = kernelLog.trimEnd().split('\n').slice(-15);
  return lines[0] === '' ? '' : `vm: end of the kernel's log:\n${lines.join('\n')}\n`;
}

await program.parseAsync();
// Unread standard input would keep the process alive.
process.stdin.destroy();
