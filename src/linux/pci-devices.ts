/** Lists PCI functions from sysfs (Documentation/ABI/testing/sysfs-bus-pci) and finds their users. */
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { type OptionNames, readOptions } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import { PciError } from '../pci/error.ts';

/** Roots of the kernel's file systems; tests pass others. */
export interface SystemFolders {
  /** The kernel's devices and drivers: `/sys`. */
  readonly sys: string;
  /** Processes and mounts: `/proc`. */
  readonly proc: string;
  /** Device nodes: `/dev`. */
  readonly dev: string;
}

export const SYSTEM: SystemFolders = { sys: '/sys', proc: '/proc', dev: '/dev' };

/** One PCI function. */
export interface PciDevice {
  /** Domain, bus, slot and function, such as `0000:00:1f.2`. */
  readonly address: string;
  /** PCI vendor ID: 0x8086 is Intel. */
  readonly vendorId: number;
  /** PCI device ID, assigned by the vendor. */
  readonly deviceId: number;
  /** Base class, subclass and programming interface in 24 bits: 0x010802 is NVMe. */
  readonly classCode: number;
  /** Name of the bound driver, or null. */
  readonly driver: string | null;
  /** Number of its IOMMU group, or null where no IOMMU is in use. */
  readonly iommuGroup: number | null;
  /** NUMA node, or -1. */
  readonly numaNode: number;
}

const FOLDERS: OptionNames<SystemFolders> = { sys: true, proc: true, dev: true };

/** Checks and copies a caller's folders. @throws `DmaArgumentError` */
export function checkFolders(folders: SystemFolders): SystemFolders {
  const read = readOptions('folders', folders, FOLDERS);
  for (const name of ['sys', 'proc', 'dev'] as const) {
    const path: unknown = read[name];
    if (typeof path !== 'string' || path === '' || path.includes('\0')) {
      throw new DmaArgumentError(`folders.${name}`, path, 'a folder path');
    }
  }
  return read;
}

const BRIDGE = 0x0604;
/** Kernel drivers without DMA of their own. They do not block an IOMMU group. */
const HARMLESS_DRIVERS: readonly string[] = ['pci-stub', 'pcieport'];

/**
 * Lists all PCI functions by address; empty on systems without PCI.
 *
 * @param folders Roots of sysfs, proc and dev; tests pass others.
 *
 * @example
 * ```ts
 * for (const { address, driver, iommuGroup } of listPciDevices()) console.log(address, driver, iommuGroup);
 * ```
 */
export function listPciDevices(folders: SystemFolders = SYSTEM): PciDevice[] {
  const where = checkFolders(folders);
  const parent = join(where.sys, 'bus/pci/devices');
  if (!existsSync(parent)) return [];
  return readdirSync(parent)
    .sort()
    .map((address) => readPciDevice(address, where))
    .filter((device) => device !== null);
}

/** Reads the PCI function at an address; null if there is none. */
export function readPciDevice(address: string, folders: SystemFolders = SYSTEM): PciDevice | null {
  const folder = join(folders.sys, 'bus/pci/devices', address);
  try {
    const number = (name: string): number => Number(readFileSync(join(folder, name), 'utf8').trim());
    const group = linkName(join(folder, 'iommu_group'));
    return {
      address,
      vendorId: number('vendor'),
      deviceId: number('device'),
      classCode: number('class'),
      driver: linkName(join(folder, 'driver')),
      iommuGroup: group === null ? null : Number(group),
      numaNode: existsSync(join(folder, 'numa_node')) ? number('numa_node') : -1,
    };
  } catch (error) {
    // The function may be unplugged at any time.
    if (['ENOENT', 'ENODEV', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}

/**
 * Reads the PCI function at an address.
 *
 * @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND` @throws `DmaArgumentError` for a malformed address.
 */
export function pciDeviceAt(address: string, folders: SystemFolders = SYSTEM): PciDevice {
  if (typeof address !== 'string' || !/^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/.test(address)) {
    throw new DmaArgumentError('address', address, 'a PCI address with its domain, such as 0000:3b:00.0');
  }
  const device = readPciDevice(address, folders);
  if (device === null) throw new PciError('ERR_DMAPOOL_PCI_NOT_FOUND', address, 'there is no PCI function here');
  return device;
}

/** True for a bridge between buses. User-space drivers can't bind bridges. */
export function isBridge(device: PciDevice): boolean {
  return device.classCode >> 8 === BRIDGE;
}

/** Addresses of the functions in an IOMMU group. */
export function iommuGroupMembers(group: number, folders: SystemFolders = SYSTEM): string[] {
  return readdirSync(join(folders.sys, 'kernel/iommu_groups', String(group), 'devices')).sort();
}

/**
 * Functions of a group with kernel drivers. They block the whole group for VFIO, since the IOMMU does not isolate
 * functions of one group from each other.
 *
 * @param except Addresses to ignore: the caller is about to unbind them.
 */
export function groupBlockers(
  group: number,
  except: readonly string[] = [],
  folders: SystemFolders = SYSTEM,
): PciDevice[] {
  return iommuGroupMembers(group, folders)
    .filter((address) => !except.includes(address))
    .map((address) => readPciDevice(address, folders))
    .filter((device) => device !== null)
    .filter(({ driver }) => driver !== null && !HARMLESS_DRIVERS.includes(driver) && !driver.includes('vfio'));
}

/**
 * Describes the current uses of a function: `network interface eth0 is up`, `disk nvme0n1p1 is mounted at /`. Empty if
 * it is unused.
 *
 * @param address Its PCI address, such as `0000:3b:00.0`.
 * @param folders Roots of sysfs, proc and dev; tests pass others.
 * @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * for (const { address } of listPciDevices()) console.log(address, usesOf(address).join('; '));
 * ```
 */
export function usesOf(address: string, folders: SystemFolders = SYSTEM): string[] {
  // The address becomes part of a path.
  if (typeof address !== 'string' || !/^[\da-f]{4,8}:[\da-f]{2}:[\da-f]{2}\.[0-7]$/i.test(address)) {
    throw new DmaArgumentError('address', address, 'a PCI address, such as 0000:3b:00.0');
  }
  const where = checkFolders(folders);
  return [...networkUses(address, where), ...diskUses(address, where), ...vfioUsers(address, where)];
}

function networkUses(address: string, folders: SystemFolders): string[] {
  const up = 1;
  return childrenIn('class/net', address, folders)
    .filter((name) => (Number(tryRead(join(folders.sys, 'class/net', name, 'flags'))) & up) !== 0)
    .map((name) => `network interface ${name} is up`);
}

function diskUses(address: string, folders: SystemFolders): string[] {
  const names = new Set<string>();
  const add = (name: string): void => {
    if (names.has(name)) return;
    names.add(name);
    // Devices stacked on top of it: device mapper, RAID.
    const holders = join(folders.sys, 'class/block', name, 'holders');
    if (existsSync(holders)) readdirSync(holders).forEach(add);
  };
  for (const name of childrenIn('class/block', address, folders)) {
    // nvme0c1n1 is a multipath path to the disk nvme0n1, which has no single parent function.
    const head = name.replace(/^(nvme\d+)c\d+(n\d+)/, '$1$2');
    add(name);
    for (const part of readdirSync(join(folders.sys, 'class/block'))) {
      if (part === head || part.startsWith(`${head}p`)) add(part);
    }
  }
  const uses: string[] = [];
  const mounts = mountsOf(folders);
  const swaps = tryRead(join(folders.proc, 'swaps')).split('\n');
  for (const name of names) {
    const number = tryRead(join(folders.sys, 'class/block', name, 'dev')).trim();
    const node = join(folders.dev, name);
    const where = mounts.find((mount) => mount.number === number || mount.source === node)?.target;
    if (where !== undefined) uses.push(`disk ${name} is mounted at ${where}`);
    else if (swaps.some((line) => line.startsWith(`${node} `))) uses.push(`disk ${name} is used as swap`);
    else if (isClaimed(node)) uses.push(`disk ${name} is in use by the kernel`);
  }
  return uses;
}

interface Mount {
  readonly number: string;
  readonly target: string;
  readonly source: string;
}

/** Mounts of this process and, if permitted, of process 1 (proc_pid_mountinfo(5)). */
function mountsOf(folders: SystemFolders): Mount[] {
  const lines = ['self', '1'].flatMap((pid) => tryRead(join(folders.proc, pid, 'mountinfo')).split('\n'));
  return lines.flatMap((line) => {
    const match = /^\d+ \d+ (\d+:\d+) \S+ (\S+) .* - \S+ (\S+)/.exec(line);
    if (match === null) return [];
    const source = match[3]!.startsWith('/') ? realpathOf(match[3]!) : match[3]!;
    return [{ number: match[1]!, target: match[2]!, source }];
  });
}

/** True if a mount in another namespace, device mapper or RAID holds the disk exclusively (open(2), O_EXCL). */
function isClaimed(node: string): boolean {
  try {
    closeSync(openSync(node, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK));
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY';
  }
}

/** Processes that have the function's VFIO group open. */
function vfioUsers(address: string, folders: SystemFolders): string[] {
  const device = readPciDevice(address, folders);
  const { driver = null, iommuGroup = null } = device ?? {};
  if (iommuGroup === null || driver?.includes('vfio') !== true) return [];
  const node = join(folders.dev, 'vfio', String(iommuGroup));
  const users: string[] = [];
  for (const pid of readdirSync(folders.proc)) {
    if (!/^\d+$/.test(pid)) continue;
    let files: string[];
    try {
      files = readdirSync(join(folders.proc, pid, 'fd'));
    } catch {
      // The process exited, or its descriptors are not readable.
      continue;
    }
    if (!files.some((file) => linkTarget(join(folders.proc, pid, 'fd', file)) === node)) continue;
    users.push(`process ${pid} (${tryRead(join(folders.proc, pid, 'comm')).trim()}) has ${node} open`);
  }
  return users;
}

/** Entries of a sysfs class, such as `class/net`, that belong to the function. */
function childrenIn(folder: string, address: string, folders: SystemFolders): string[] {
  const parent = join(folders.sys, folder);
  if (!existsSync(parent)) return [];
  return readdirSync(parent).filter((name) => realpathOf(join(parent, name)).includes(`/${address}/`));
}

function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

function linkName(path: string): string | null {
  const target = linkTarget(path);
  return target === null ? null : basename(target);
}

function realpathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function tryRead(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
