/**
 * A VFIO container with one IOMMU group: this process's interface to the kernel's IOMMU (type 1).
 *
 *     /dev/vfio/vfio   container: IOMMU mappings     one for each device: no device can reach another's memory
 *     /dev/vfio/N      group N: the unit of ownership
 *     (no name)        device: registers, configuration space, interrupts
 */
import { closeSync, existsSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { PciError } from '../pci/error.ts';
import { SystemCallError, VfioError, type VfioErrorCode } from './error.ts';
import { libc } from './libc.ts';
import { groupBlockers, type PciDevice, pciDeviceAt, SYSTEM, type SystemFolders, usesOf } from './pci-devices.ts';
import {
  type IommuInfo,
  iommuInfo,
  isGroupViable,
  mapDma,
  unmapDma,
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_GET_API_VERSION,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1V2_IOMMU,
} from './vfio-abi.ts';

/** Maps memory for a device. */
export interface DmaMapper {
  /** Maps memory of this process at an IOVA. @throws {@link SystemCallError} */
  map(address: number, iova: number, size: number): void;
  /** Unmaps an IOVA range. On return the device can't reach it. @throws {@link SystemCallError} */
  unmap(iova: number, size: number): void;
}

export class VfioContainer implements DmaMapper {
  /** The function that the container was opened for. */
  readonly device: PciDevice;
  /** Number of its IOMMU group. */
  readonly group: number;
  /** True when the IOMMU makes every access of the device coherent, No Snoop requests included. */
  readonly snoopEnforced: boolean;
  /** Properties of the IOMMU at open. */
  readonly iommu: IommuInfo;
  readonly #container: number;
  readonly #group: number;
  #closed = false;

  /**
   * @throws {@link VfioError} @throws `PciError` `ERR_DMAPOOL_PCI_NOT_FOUND`, `ERR_DMAPOOL_PCI_BUSY`
   * @throws `DmaArgumentError` @throws `DmaDependencyError`
   */
  constructor(address: string, folders: SystemFolders = SYSTEM) {
    libc();
    this.device = pciDeviceAt(address, folders);
    this.group = groupOf(this.device, folders);
    this.#container = openContainer(address, folders);
    let group = -1;
    try {
      const type = iommuType(address, this.#container);
      group = openGroup(address, this.group, folders);
      this.#group = group;
      this.#attach(type, folders);
      this.snoopEnforced = hasExtension(this.#container, VFIO_DMA_CC_IOMMU);
      this.iommu = iommuInfo((bytes) => {
        libc().ioctl(this.#container, VFIO_IOMMU_GET_INFO, bytes, `${address}: can't read the IOMMU's properties`);
      });
    } catch (error) {
      if (group !== -1) closeSync(group);
      closeSync(this.#container);
      throw error;
    }
  }

  /** Adds the group to the container and enables the IOMMU. */
  #attach(type: number, folders: SystemFolders): void {
    const { address } = this.device;
    const getStatus = (bytes: Uint8Array): void => {
      libc().ioctl(this.#group, VFIO_GROUP_GET_STATUS, bytes, `${address}: can't read the group's status`);
    };
    if (!isGroupViable(getStatus)) {
      const names = groupBlockers(this.group, [], folders).map((other) => `${other.address} (driver ${other.driver!})`);
      const message =
        `its IOMMU group ${String(this.group)} is not viable: kernel drivers are bound to ${names.join(', ')}; ` +
        'bind these to vfio-pci too';
      throw new VfioError('ERR_DMAPOOL_VFIO_GROUP', address, message);
    }
    const container = new Uint8Array(new Int32Array([this.#container]).buffer);
    libc().ioctl(this.#group, VFIO_GROUP_SET_CONTAINER, container, `${address}: can't use its IOMMU group`);
    try {
      libc().ioctl(this.#container, VFIO_SET_IOMMU, type, `${address}: can't use the IOMMU`);
    } catch (error) {
      if (!(error instanceof SystemCallError) || error.errnoName !== 'EPERM') throw error;
      const message =
        'the kernel refused the IOMMU (EPERM), most likely because the machine has no interrupt remapping (see the ' +
        'kernel log). If you trust the device: ' +
        'echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts';
      throw new VfioError('ERR_DMAPOOL_VFIO_PERMISSION', address, message, { cause: error });
    }
  }

  map(address: number, iova: number, size: number): void {
    const purpose = `${this.device.address}: can't map ${String(size)} bytes for the device`;
    if (this.#closed) throw new SystemCallError('ioctl', constants.errno.EBADF, purpose);
    libc().ioctl(this.#container, VFIO_IOMMU_MAP_DMA, mapDma(address, iova, size), purpose);
  }

  unmap(iova: number, size: number): void {
    // Closing the container removed all mappings, and its descriptor may belong to another file.
    if (this.#closed) return;
    const purpose = `${this.device.address}: can't unmap ${String(size)} bytes from the device`;
    unmapDma(iova, size, (bytes) => {
      libc().ioctl(this.#container, VFIO_IOMMU_UNMAP_DMA, bytes, purpose);
    });
  }

  /** Opens the device and returns its descriptor, which the caller closes. @throws {@link SystemCallError} */
  openDevice(): number {
    const name = new TextEncoder().encode(`${this.device.address}\0`);
    return libc().ioctl(this.#group, VFIO_GROUP_GET_DEVICE_FD, name, `${this.device.address}: can't open the device`);
  }

  /** Releases the group; the kernel removes all remaining mappings. A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#group);
    closeSync(this.#container);
  }
}

function groupOf({ address, driver, iommuGroup }: PciDevice, folders: SystemFolders): number {
  if (iommuGroup === null) {
    const message =
      'it has no IOMMU group, so VFIO cannot use it: enable the IOMMU in the firmware (VT-d, AMD-Vi), and on Intel ' +
      'boot with intel_iommu=on';
    throw new VfioError('ERR_DMAPOOL_VFIO_NO_IOMMU', address, message);
  }
  if (driver?.includes('vfio') !== true) {
    const message = `${driver === null ? 'no driver' : `driver ${driver}`} is bound to it; run: dmapool bind ${address}`;
    throw new VfioError('ERR_DMAPOOL_VFIO_NOT_BOUND', address, message);
  }
  if (existsSync(join(folders.dev, 'vfio', `noiommu-${String(iommuGroup)}`))) {
    const message = 'VFIO runs without IOMMU (enable_unsafe_noiommu_mode), so nothing would confine its DMA';
    throw new VfioError('ERR_DMAPOOL_VFIO_NO_IOMMU', address, message);
  }
  return iommuGroup;
}

function openContainer(address: string, folders: SystemFolders): number {
  const path = join(folders.dev, 'vfio/vfio');
  try {
    return openSync(path, 'r+');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code === 'EACCES' || code === 'EPERM') throw noPermission(address, path, error);
    throw unsupported(address, `${path} can't be opened (${code}); load VFIO: modprobe vfio-pci`, error);
  }
}

/** Selects the IOMMU type. */
function iommuType(address: string, container: number): number {
  const version = libc().ioctl(container, VFIO_GET_API_VERSION, 0, `${address}: can't read the version of VFIO`);
  if (version !== VFIO_API_VERSION) throw unsupported(address, `the kernel has VFIO version ${String(version)}, not 0`);
  const type = [VFIO_TYPE1V2_IOMMU, VFIO_TYPE1_IOMMU].find((one) => hasExtension(container, one));
  if (type === undefined) {
    throw unsupported(address, 'the kernel lacks VFIO for type 1 IOMMUs: modprobe vfio_iommu_type1');
  }
  return type;
}

function hasExtension(container: number, extension: number): boolean {
  return libc().ioctl(container, VFIO_CHECK_EXTENSION, extension, "can't check a VFIO extension") > 0;
}

function openGroup(address: string, group: number, folders: SystemFolders): number {
  const path = join(folders.dev, 'vfio', String(group));
  try {
    return openSync(path, 'r+');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code === 'EACCES' || code === 'EPERM') throw noPermission(address, path, error);
    if (code === 'EBUSY') {
      const users = usesOf(address, folders);
      const user = users.length === 0 ? `another process has ${path} open` : users.join('; ');
      throw new PciError('ERR_DMAPOOL_PCI_BUSY', address, `it is in use: ${user}`, { cause: error });
    }
    throw unsupported(address, `its group's file ${path} can't be opened (${code})`, error);
  }
}

function noPermission(address: string, path: string, cause: unknown): VfioError {
  const code: VfioErrorCode = 'ERR_DMAPOOL_VFIO_PERMISSION';
  const message = `this user may not open ${path}; as root: chown USER ${path}`;
  return new VfioError(code, address, message, { cause });
}

function unsupported(address: string, message: string, cause?: unknown): VfioError {
  return new VfioError('ERR_DMAPOOL_VFIO_UNSUPPORTED', address, message, cause === undefined ? undefined : { cause });
}
