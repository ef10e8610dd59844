/**
 * Moves PCI functions between the kernel's drivers and vfio-pci
 * (Documentation/ABI/testing/sysfs-bus-pci: driver_override, unbind, drivers_probe).
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { reading } from '../arguments.ts';
import { describeThrown, DmaArgumentError, isArray } from '../errors.ts';
import { BindError } from './error.ts';
import {
  checkFolders,
  groupBlockers,
  isBridge,
  type PciDevice,
  pciDeviceAt,
  readPciDevice,
  SYSTEM,
  type SystemFolders,
  usesOf,
} from './pci-devices.ts';

const VFIO_PCI = 'vfio-pci';
const VFIO_IOMMU = 'vfio_iommu_type1';

/** The result of a rebinding for one function. */
export interface Rebinding {
  /** Address of the function. */
  readonly address: string;
  /** Driver before the call, or null. */
  readonly from: string | null;
  /** Driver after the call, or null. */
  readonly to: string | null;
  /** The writes to sysfs in order, as shell commands; empty if there was nothing to do. */
  readonly steps: readonly string[];
}

/**
 * Binds PCI functions to vfio-pci. All checks precede the first change. Refuses bridges, functions without an IOMMU
 * group or in a group that another device blocks, and functions in use (a mounted disk, a network interface that is
 * up). If a step fails, the functions return to their drivers. The binding does not survive a reboot. Needs root.
 *
 * @param addresses Such as `0000:3b:00.0`. Functions of one group that have drivers must be bound together.
 * @param folders Roots of sysfs, proc and dev; tests pass others.
 * @throws {@link BindError} @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND` @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * try {
 *   for (const { from, steps } of bindToVfio(['fffe:3b:00.0'])) console.log(`taken from ${from}:`, steps);
 * } catch (error) {
 *   if (!(error instanceof DmaError)) throw error;
 *   console.error(error.message); // the reason; nothing was changed
 * }
 * ```
 */
export function bindToVfio(addresses: readonly string[], folders: SystemFolders = SYSTEM): Rebinding[] {
  return bindAll(checkAddresses(addresses), checkFolders(folders));
}

function bindAll(addresses: readonly string[], folders: SystemFolders): Rebinding[] {
  const devices = devicesAt(addresses, folders);
  const toDo = devices.filter(({ driver }) => driver !== VFIO_PCI);
  for (const device of devices) checkCanBeBound(device, addresses, folders);
  const loading = toDo.length === 0 ? [] : loadVfio(folders);
  const done: Rebinding[] = [];
  for (const device of devices) {
    if (device.driver === VFIO_PCI) {
      done.push({ address: device.address, from: VFIO_PCI, to: VFIO_PCI, steps: [] });
      continue;
    }
    const steps = done.length === 0 ? [...loading] : [];
    try {
      rebind(device, VFIO_PCI, steps, folders);
      const now = readPciDevice(device.address, folders)?.driver ?? null;
      if (now !== VFIO_PCI) throw failed(device.address, 'vfio-pci did not bind to it; see the kernel log');
      done.push({ address: device.address, from: device.driver, to: now, steps });
    } catch (error) {
      restore([device, ...devices.filter((other) => done.some(({ address }) => address === other.address))], folders);
      throw error;
    }
  }
  return done;
}

/**
 * Unbinds PCI functions from vfio-pci and lets the kernel choose their drivers. Functions with another driver are left
 * alone. A function that a process has open is refused, because the kernel would block until it is closed.
 *
 * @param addresses Such as `0000:3b:00.0`.
 * @param folders Roots of sysfs, proc and dev; tests pass others.
 * @throws {@link BindError} @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND` @throws `DmaArgumentError`
 *
 * @example
 * ```ts
 * try {
 *   for (const { to } of unbindFromVfio(['fffe:3b:00.0'])) console.log(`bound to ${to}`);
 * } catch (error) {
 *   if (!(error instanceof DmaError)) throw error;
 *   console.error(error.message);
 * }
 * ```
 */
export function unbindFromVfio(addresses: readonly string[], folders: SystemFolders = SYSTEM): Rebinding[] {
  return unbindAll(checkAddresses(addresses), checkFolders(folders));
}

function unbindAll(addresses: readonly string[], folders: SystemFolders): Rebinding[] {
  const devices = devicesAt(addresses, folders);
  const toDo = devices.filter(({ driver }) => driver === VFIO_PCI || driver === null);
  for (const { address } of toDo) {
    checkUnused(address, folders);
    checkPermission(address, folders);
  }
  return devices.map((device) => {
    const { address, driver } = device;
    const steps: string[] = [];
    if (toDo.includes(device)) rebind(device, '', steps, folders);
    return { address, from: driver, to: readPciDevice(address, folders)?.driver ?? null, steps };
  });
}

/** Copies the addresses. {@link devicesAt} checks each one. */
function checkAddresses(addresses: readonly string[]): readonly string[] {
  const accepted = 'an array of PCI addresses, such as 0000:3b:00.0';
  if (!isArray(addresses)) throw new DmaArgumentError('addresses', addresses, accepted);
  return reading('addresses', addresses, accepted, () => [...(addresses as readonly string[])]);
}

function devicesAt(addresses: readonly string[], folders: SystemFolders): PciDevice[] {
  return [...new Set(addresses)].map((address) => pciDeviceAt(address, folders));
}

function checkCanBeBound(device: PciDevice, addresses: readonly string[], folders: SystemFolders): void {
  const { address, iommuGroup, driver } = device;
  if (isBridge(device)) {
    throw new BindError('ERR_DMAPOOL_BIND_GROUP', address, 'it is a bridge; bind the functions behind it');
  }
  if (iommuGroup === null) {
    const message =
      'it has no IOMMU group, so VFIO cannot use it: enable the IOMMU in the firmware (VT-d, AMD-Vi), and on Intel ' +
      'boot with intel_iommu=on';
    throw new BindError('ERR_DMAPOOL_BIND_NO_IOMMU', address, message);
  }
  const blockers = groupBlockers(iommuGroup, addresses, folders);
  if (blockers.length > 0) {
    const names = blockers.map((blocker) => `${blocker.address} (driver ${blocker.driver!})`);
    const message =
      `its IOMMU group ${String(iommuGroup)} also contains ${names.join(', ')}, and VFIO needs the whole group: bind ` +
      'them together if the system can do without them';
    throw new BindError('ERR_DMAPOOL_BIND_GROUP', address, message);
  }
  if (driver === VFIO_PCI) return;
  checkUnused(address, folders);
  checkPermission(address, folders);
}

function checkPermission(address: string, folders: SystemFolders): void {
  const path = join(folders.sys, 'bus/pci/devices', address, 'driver_override');
  try {
    accessSync(path, constants.W_OK);
  } catch (error) {
    throw new BindError('ERR_DMAPOOL_BIND_PERMISSION', address, `${path} can't be written: run this as root`, {
      cause: error,
    });
  }
}

function checkUnused(address: string, folders: SystemFolders): void {
  const uses = usesOf(address, folders);
  if (uses.length > 0) throw new BindError('ERR_DMAPOOL_BIND_IN_USE', address, `it is in use: ${uses.join('; ')}`);
}

function loadVfio(folders: SystemFolders): string[] {
  const driver = join(folders.sys, 'bus/pci/drivers', VFIO_PCI);
  if (existsSync(driver)) return [];
  try {
    execFileSync('modprobe', [VFIO_PCI], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    const { stderr, message } = error as { stderr?: Buffer | null; message: string };
    const why = stderr?.toString().trim() ?? message;
    throw new BindError('ERR_DMAPOOL_BIND_FAILED', VFIO_PCI, `modprobe ${VFIO_PCI} failed: ${why}`, { cause: error });
  }
  if (!existsSync(driver)) throw failed(VFIO_PCI, 'the kernel has no such driver');
  const steps = [`modprobe ${VFIO_PCI}`];
  // VFIO requests the IOMMU module itself, but does not wait for it, and some systems ignore the request.
  if (!existsSync(join(folders.sys, 'module', VFIO_IOMMU))) {
    try {
      execFileSync('modprobe', [VFIO_IOMMU], { stdio: 'ignore' });
      steps.push(`modprobe ${VFIO_IOMMU}`);
    } catch {
      // Other architectures use another module. VfioContainer reports a missing one.
    }
  }
  return steps;
}

/** Binds a function to a driver; '' lets the kernel choose. */
function rebind({ address, driver }: PciDevice, to: string, steps: string[], folders: SystemFolders): void {
  const device = join(folders.sys, 'bus/pci/devices', address);
  const write = (text: string, path: string): void => {
    try {
      writeFileSync(path, `${text}\n`);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? describeThrown(error);
      throw failed(address, `writing '${text}' to ${path}: ${code}`, error);
    }
    steps.push(`echo ${text === '' ? '' : `${text} `}> ${path}`);
  };
  write(to, join(device, 'driver_override'));
  if (driver !== null) write(address, join(device, 'driver/unbind'));
  write(address, join(folders.sys, 'bus/pci/drivers_probe'));
}

/** Returns functions to their drivers after a failure, as far as possible. */
function restore(devices: readonly PciDevice[], folders: SystemFolders): void {
  for (const { address, driver } of devices) {
    const now = readPciDevice(address, folders);
    if (now === null || driver === VFIO_PCI) continue;
    try {
      rebind({ ...now, driver: now.driver === driver ? null : now.driver }, '', [], folders);
    } catch {
      // The caller reports the original error.
    }
  }
}

function failed(address: string, what: string, cause?: unknown): BindError {
  return new BindError('ERR_DMAPOOL_BIND_FAILED', address, what, cause === undefined ? undefined : { cause });
}
