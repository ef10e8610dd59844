/** What a run of the virtual machine can be asked for, checked, and as options of QEMU's and the kernel's. */

import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { VmDevice } from './devices.ts';
import { VmError } from './error.ts';
import type { KernelSeries } from './kernel.ts';

/** What to run, and in what machine. */
export interface VmOptions {
  /** The program and its arguments, as for `spawn`. The host's files are there; what is written to them is not kept. */
  readonly command: readonly string[];
  /** Folder to run it in; the current one by default. */
  readonly cwd?: string;
  /** Environment to add to PATH, HOME, LANG, TERM and DMAPOOL_*, which are passed on. */
  readonly env?: Readonly<Record<string, string>>;
  /** What the command reads from its standard input; nothing by default. */
  readonly stdin?: string | Uint8Array | NodeJS.ReadableStream;
  /** Devices, in the order of their PCI addresses from 0000:00:10.0 on. */
  readonly devices?: readonly VmDevice[];
  /** Bytes of memory; 1 GiB by default. */
  readonly memory?: number;
  /** Processors; 2 by default. */
  readonly cpus?: number;
  /** NUMA nodes, among which memory and processors are divided evenly; 1 by default. */
  readonly numaNodes?: number;
  /** Hugepages to reserve at boot, by size. */
  readonly hugepages?: { readonly '2M'?: number; readonly '1G'?: number };
  /** `false` for a machine without IOMMU, or more properties of QEMU's `intel-iommu`, such as `snoop-control=on`. */
  readonly iommu?: boolean | string;
  /** The host's folders that the guest may write to; they keep what it writes. */
  readonly writable?: readonly string[];
  /** More arguments for the kernel. */
  readonly kernelArguments?: readonly string[];
  /** More options for QEMU. */
  readonly qemuArguments?: readonly string[];
  /** Milliseconds that the command may take, else `ERR_VM_TIMEOUT`; 10 minutes by default. Booting is not counted. */
  readonly timeout?: number;
  /** Ends the machine with `ERR_VM_ABORT`. */
  readonly signal?: AbortSignal;
  /** The guest's kernel; by default DMAPOOL_VM_KERNEL, else 6.1. */
  readonly kernel?: KernelSeries;
  /** KVM or TCG whatever is there; by default DMAPOOL_VM_ACCEL, else KVM where it works. */
  readonly accelerator?: 'kvm' | 'tcg';
  /** The command runs on the machine's serial console, which is this process's terminal; nothing is collected. */
  readonly console?: boolean;
  /** Gets what the command writes as it comes. */
  readonly onOutput?: (stream: 'stdout' | 'stderr', data: Buffer) => void;
  /** Gets a line for each thing worth telling, such as the accelerator. */
  readonly onMessage?: (line: string) => void;
}

const MIB = 2 ** 20;
const HUGEPAGE_SIZES = [
  { name: '1G', mib: 1024 },
  { name: '2M', mib: 2 },
] as const;
// What the kernel and a small Node program need beside hugepages.
const ROOM_MIB = 256;

/** The size and shape of the machine. */
export interface Shape {
  readonly memoryMib: number;
  readonly cpus: number;
  readonly numaNodes: number;
}

/** The options' size and shape, checked. */
export function shapeOf(options: VmOptions): Shape {
  const memoryMib = (options.memory ?? 1024 * MIB) / MIB;
  const cpus = options.cpus ?? 2;
  const numaNodes = options.numaNodes ?? 1;
  check(Number.isInteger(memoryMib) && memoryMib >= ROOM_MIB, `memory is whole MiB and at least ${ROOM_MIB} MiB`);
  check(Number.isInteger(cpus) && cpus >= 1 && cpus <= 64, 'cpus is 1 to 64');
  check(Number.isInteger(numaNodes) && numaNodes >= 1 && numaNodes <= 8, 'the number of NUMA nodes is 1 to 8');
  check(memoryMib % numaNodes === 0, 'memory divides evenly among the NUMA nodes');
  check(numaNodes <= cpus, 'there is a processor for each NUMA node');
  let hugeMib = 0;
  for (const { name, mib } of HUGEPAGE_SIZES) {
    const count = options.hugepages?.[name] ?? 0;
    check(Number.isInteger(count) && count >= 0, `the number of hugepages of ${name} is a whole number`);
    hugeMib += count * mib;
  }
  check(
    hugeMib + ROOM_MIB <= memoryMib,
    `${hugeMib} MiB of hugepages leave less than ${ROOM_MIB} MiB of ${memoryMib}: give the machine more memory`,
  );
  return { memoryMib, cpus, numaNodes };
}

/** QEMU's options for them. */
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

/** The kernel's command line. */
export function kernelArguments(options: VmOptions): string {
  const args = [
    'console=ttyS0',
    'panic=-1',
    options.iommu === false ? 'intel_iommu=off' : 'intel_iommu=on',
    // All below saves time at boot; nobody attacks this kernel.
    'quiet',
    'mitigations=off',
    'init_on_alloc=0',
    'cryptomgr.notests',
    'no_timer_check',
    // Under TCG all processors show the host's counter, which the kernel can't know; it would fall back on a slow clock.
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

/** What the guest's scripts need to know, as a shell script. */
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

/** The command with its folder and environment, as a shell script. */
export function guestCommand(options: VmOptions): string {
  const env: Record<string, string> = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/root',
  };
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && /^(PATH|HOME|LANG|TERM|DMAPOOL_.*)$/.test(name)) env[name] = value;
  }
  Object.assign(env, options.env, { DMAPOOL_VM: '1' });
  // Tools for modules fit the guest's kernel, not the host's; what the host does not have (ip) comes from busybox.
  env['PATH'] = `/run/dmapool-vm/module-tools:${env['PATH']!}:/run/dmapool-vm/bin`;
  const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  check(options.command.length > 0 && options.command[0] !== '', 'there is a command');
  const cwd = resolve(options.cwd ?? process.cwd());
  // By its path: busybox would run its own, and its own `sh` and `ls` instead of this system's.
  const all = ['/usr/bin/env', '-i', ...words, ...options.command].map(quote).join(' ');
  return `cd ${quote(cwd)} || exit 126\nexec ${all}\n`;
}

/** The folders that the guest may write to, checked. */
export function writableFolders(options: VmOptions): readonly string[] {
  const folders = (options.writable ?? []).map((path) => resolve(path));
  check(folders.length <= 8, 'at most 8 folders are writable');
  for (const path of folders) {
    check(path !== '/', 'the root folder itself can not be writable');
    check(statSync(path, { throwIfNoEntry: false })?.isDirectory() === true, `${path} is a folder`);
  }
  return folders;
}

/** A word for a shell, whatever is in it. */
function quote(word: string): string {
  check(!word.includes('\0'), 'a word of the command or its environment has no NUL in it');
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function check(right: boolean, rule: string): void {
  if (!right) throw new VmError('ERR_VM_OPTION', `the virtual machine can't be made so: it must hold that ${rule}`);
}
