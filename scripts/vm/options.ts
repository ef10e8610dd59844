/** The options of the virtual machine: their checks, and their translation to options of QEMU and the kernel. */

import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { VmDevice } from './devices.ts';
import { VmError } from './error.ts';
import type { KernelSeries } from './kernel.ts';

/** A command and the machine to run it in. */
export interface VmOptions {
  /** The program and its arguments, as for `spawn`. It sees the host's files; its changes to them are discarded. */
  readonly command: readonly string[];
  /** The command's working folder; by default the current one. */
  readonly cwd?: string;
  /** Variables in addition to PATH, HOME, LANG, TERM and DMAPOOL_*, which are inherited. */
  readonly env?: Readonly<Record<string, string>>;
  /** The command's standard input; empty by default. */
  readonly stdin?: string | Uint8Array | NodeJS.ReadableStream;
  /** Devices, in the order of their PCI addresses: 0000:00:10.0, 0000:00:11.0, ... */
  readonly devices?: readonly VmDevice[];
  /** Memory in bytes; 1 GiB by default. */
  readonly memory?: number;
  /** Processors; 2 by default. */
  readonly cpus?: number;
  /** NUMA nodes, each with an equal share of memory and processors; 1 by default. */
  readonly numaNodes?: number;
  /** Hugepages to reserve at boot, by size. */
  readonly hugepages?: { readonly '2M'?: number; readonly '1G'?: number };
  /** `false` for no IOMMU, or additional properties of QEMU's `intel-iommu`, such as `snoop-control=on`. */
  readonly iommu?: boolean | string;
  /** Folders of the host that the guest may write to. Changes in them persist. */
  readonly writable?: readonly string[];
  /** Additional arguments of the kernel's command line. */
  readonly kernelArguments?: readonly string[];
  /** Additional options of QEMU. */
  readonly qemuArguments?: readonly string[];
  /** Time limit of the command in milliseconds, without the boot; 10 minutes by default. Exceeded: `ERR_VM_TIMEOUT`. */
  readonly timeout?: number;
  /** Kills the machine; the run fails with `ERR_VM_ABORT`. */
  readonly signal?: AbortSignal;
  /** The guest's kernel; by default that of DMAPOOL_VM_KERNEL, else 6.12. */
  readonly kernel?: KernelSeries;
  /** The accelerator; by default that of DMAPOOL_VM_ACCEL, else KVM if it works, else TCG. */
  readonly accelerator?: 'kvm' | 'tcg';
  /** Runs the command on the serial console, which is then this process's terminal. Its output is not collected. */
  readonly console?: boolean;
  /** Receives the command's output as it arrives. */
  readonly onOutput?: (stream: 'stdout' | 'stderr', data: Buffer) => void;
  /** Receives progress messages, such as the accelerator. */
  readonly onMessage?: (line: string) => void;
}

const MIB = 2 ** 20;
const HUGEPAGE_SIZES = [
  { name: '1G', mib: 1024 },
  { name: '2M', mib: 2 },
] as const;
// Memory for the kernel and a small Node program, beside hugepages.
const ROOM_MIB = 256;

/** Memory, processors and NUMA nodes of a machine. */
export interface Shape {
  readonly memoryMib: number;
  readonly cpus: number;
  readonly numaNodes: number;
}

/** Checks the options for memory, processors and NUMA nodes, and applies the defaults. */
export function shapeOf(options: VmOptions): Shape {
  const memoryMib = (options.memory ?? 1024 * MIB) / MIB;
  const cpus = options.cpus ?? 2;
  const numaNodes = options.numaNodes ?? 1;
  check(Number.isInteger(memoryMib) && memoryMib >= ROOM_MIB, `memory must be whole MiB, at least ${ROOM_MIB} MiB`);
  check(Number.isInteger(cpus) && cpus >= 1 && cpus <= 64, 'cpus must be 1 to 64');
  check(Number.isInteger(numaNodes) && numaNodes >= 1 && numaNodes <= 8, 'the number of NUMA nodes must be 1 to 8');
  check(memoryMib % numaNodes === 0, 'memory must divide evenly among the NUMA nodes');
  check(numaNodes <= cpus, 'each NUMA node must have a processor');
  let hugeMib = 0;
  for (const { name, mib } of HUGEPAGE_SIZES) {
    const count = options.hugepages?.[name] ?? 0;
    check(Number.isInteger(count) && count >= 0, `the number of hugepages of ${name} must be a whole number`);
    hugeMib += count * mib;
  }
  check(
    hugeMib + ROOM_MIB <= memoryMib,
    `${ROOM_MIB} MiB must remain beside ${hugeMib} MiB of hugepages; the machine has ${memoryMib} MiB`,
  );
  return { memoryMib, cpus, numaNodes };
}

/** Returns QEMU's options for a shape. */
export function shapeArguments({ memoryMib, cpus, numaNodes }: Shape): string[] {
  const args = ['-m', String(memoryMib), '-smp', String(cpus)];
  if (numaNodes > 1) {
    for (let node = 0; node < numaNodes; node++) {
      const first = Math.floor((cpus * node) / numaNodes);
      const last = Math.floor((cpus * (node + 1)) / numaNodes) - 1;
      args.push('-object', `memory-backend-ram,id=ram${node},size=${memoryMib / numaNodes}M`);
      args.push('-numa', `node,nodeid=${node},cpus=${first}-${last},memdev=ram${node}`);
    }
  }
  return args;
}

/** Returns the kernel's command line. */
export function kernelArguments(options: VmOptions): string {
  const args = [
    'console=ttyS0',
    'panic=-1',
    options.iommu === false ? 'intel_iommu=off' : 'intel_iommu=on',
    // The following arguments shorten the boot. This kernel needs no protection from attacks.
    'quiet',
    'mitigations=off',
    'init_on_alloc=0',
    'cryptomgr.notests',
    'no_timer_check',
    // Under TCG all processors read the host's counter. Without this argument the kernel selects a slower clock.
    'tsc=reliable',
    'audit=0',
    'apparmor=0',
  ];
  for (const { name } of HUGEPAGE_SIZES) {
    const count = options.hugepages?.[name] ?? 0;
    if (count > 0) args.push(`hugepagesz=${name}`, `hugepages=${count}`);
  }
  return [...args, 'default_hugepagesz=2M', ...(options.kernelArguments ?? [])].join(' ');
}

/** Returns the settings of the guest's scripts, as a shell script. */
export function guestSettings(options: VmOptions, kernel: { release: string; folder: string }): string {
  const hugepages = HUGEPAGE_SIZES.map(({ name, mib }) => ({ kib: mib * 1024, count: options.hugepages?.[name] ?? 0 }))
    .filter(({ count }) => count > 0)
    .map(({ kib, count }) => `${kib}kB=${count}`);
  const shares = writableFolders(options).map((path, index) => `share ${index} ${quote(path)}; `);
  return [
    `RELEASE=${quote(kernel.release)}`,
    `KERNEL=${quote(kernel.folder)}`,
    `HUGEPAGES=${quote(hugepages.join(' '))}`,
    `CONSOLE=${options.console === true ? '1' : ''}`,
    `STDIN=${options.stdin === undefined ? '' : '1'}`,
    `shares() { ${shares.join('')}:; }`,
    '',
  ].join('\n');
}

/** Returns a shell script that runs the command in its folder, with its environment. */
export function guestCommand(options: VmOptions): string {
  const env: Record<string, string> = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/root',
  };
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && /^(PATH|HOME|LANG|TERM|DMAPOOL_.*)$/.test(name)) env[name] = value;
  }
  Object.assign(env, options.env, { DMAPOOL_VM: '1' });
  // Busybox's module tools precede the host's, which need indices that the guest lacks. Other tools of busybox, such as
  // ip, are a fallback for those that the host lacks.
  env['PATH'] = `/run/dmapool-vm/module-tools:${env['PATH']!}:/run/dmapool-vm/bin`;
  const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  check(options.command.length > 0 && options.command[0] !== '', 'there must be a command');
  const cwd = resolve(options.cwd ?? process.cwd());
  // With the full path, because busybox's shell would run its own env, sh and ls instead of the host's.
  const all = ['/usr/bin/env', '-i', ...words, ...options.command].map(quote).join(' ');
  return `cd ${quote(cwd)} || exit 126\nexec ${all}\n`;
}

/** Returns the absolute paths of the writable folders, after their checks. */
export function writableFolders(options: VmOptions): readonly string[] {
  const folders = (options.writable ?? []).map((path) => resolve(path));
  check(folders.length <= 8, 'at most 8 folders can be writable');
  for (const path of folders) {
    check(path !== '/', 'the root folder must not be writable');
    check(statSync(path, { throwIfNoEntry: false })?.isDirectory() === true, `${path} must be a folder`);
  }
  return folders;
}

/** Quotes a word for a POSIX shell. */
function quote(word: string): string {
  check(!word.includes('\0'), 'the command and its environment must not contain NUL');
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function check(holds: boolean, rule: string): void {
  if (!holds) throw new VmError('ERR_VM_OPTION', `invalid option of the virtual machine: ${rule}`);
}
