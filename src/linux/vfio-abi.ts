/**
 * Structures of the kernel's VFIO interface as bytes (linux/vfio.h; Documentation/driver-api/vfio.rst).
 *
 * The first field of a structure is its size. If the kernel needs more room it returns the required size, and
 * {@link requestSized} repeats the call.
 */

const REQUEST_BASE = 0x3b64;
/** `_IO(';', 100 + n)`. */
const request = (n: number): number => REQUEST_BASE + n;

export const VFIO_GET_API_VERSION: number = request(0);
export const VFIO_CHECK_EXTENSION: number = request(1);
export const VFIO_SET_IOMMU: number = request(2);
export const VFIO_GROUP_GET_STATUS: number = request(3);
export const VFIO_GROUP_SET_CONTAINER: number = request(4);
export const VFIO_GROUP_GET_DEVICE_FD: number = request(6);
export const VFIO_DEVICE_GET_INFO: number = request(7);
export const VFIO_DEVICE_GET_REGION_INFO: number = request(8);
export const VFIO_DEVICE_GET_IRQ_INFO: number = request(9);
export const VFIO_DEVICE_SET_IRQS: number = request(10);
export const VFIO_DEVICE_RESET: number = request(11);
export const VFIO_IOMMU_GET_INFO: number = request(12);
export const VFIO_IOMMU_MAP_DMA: number = request(13);
export const VFIO_IOMMU_UNMAP_DMA: number = request(14);

export const VFIO_API_VERSION = 0;
/** Arguments of VFIO_CHECK_EXTENSION: two IOMMU types, and enforced DMA coherency. */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1V2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;

const GROUP_VIABLE = 1;
const DEVICE_CAN_RESET = 1;

/** VFIO region indices of a PCI function: 0-5 are its BARs. */
export const CONFIG_REGION = 7;
export const REGION_READ = 1;
export const REGION_WRITE = 2;
export const REGION_MMAP = 4;
const REGION_CAPABILITIES = 8;
const REGION_SPARSE_MMAP = 1;

/** VFIO interrupt indices of a PCI function. */
export const VFIO_IRQ: { readonly intx: 0; readonly msi: 1; readonly msix: 2; readonly error: 3; readonly request: 4 } =
  {
    intx: 0,
    msi: 1,
    msix: 2,
    error: 3,
    request: 4,
  };
const IRQ_EVENTFD = 1;
const SET_NOTHING = 1;
const SET_EVENTFD = 4;
const SET_UNMASK = 16;
const SET_TRIGGER = 32;

const IOMMU_PAGE_SIZES = 1;
const IOMMU_CAPABILITIES = 2;
const IOMMU_IOVA_RANGES = 1;
const IOMMU_MAPPINGS_LEFT = 3;

const MAP_READ_WRITE = 3;

/** Passes a structure to an ioctl, which fills it in. */
export type StructureCall = (structure: Uint8Array) => void;

function structure(size: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true);
  return { bytes, view };
}

/** Reads 64 bits as a number. Values stay below 2^53, except an end of 2^64-1, which is rounded. */
function number64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function setNumber64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Calls with the minimum size, and again with the size that the kernel returns. */
function requestSized(size: number, prepare: (view: DataView) => void, call: StructureCall): DataView {
  for (;;) {
    const { bytes, view } = structure(size);
    prepare(view);
    call(bytes);
    const required = view.getUint32(0, true);
    if (required <= size) return view;
    size = required;
  }
}

/** Capabilities in a reply: ID and offset. Each links to the next by offset. */
function capabilities(view: DataView, first: number): { id: number; at: number }[] {
  const found: { id: number; at: number }[] = [];
  for (let at = first; at !== 0 && at + 8 <= view.byteLength && found.length < 64; at = view.getUint32(at + 4, true)) {
    found.push({ id: view.getUint16(at, true), at });
  }
  return found;
}

/** True when no function of the group has a kernel driver. */
export function isGroupViable(call: StructureCall): boolean {
  const { bytes, view } = structure(8);
  call(bytes);
  return (view.getUint32(4, true) & GROUP_VIABLE) !== 0;
}

/** Properties of the IOMMU. */
export interface IommuInfo {
  /** Bytes of the smallest IOMMU page. */
  readonly pageSize: number;
  /** Usable IOVAs, ascending: first and last byte. Undefined on kernels that do not report them. */
  readonly iovaRanges: readonly { readonly first: number; readonly last: number }[] | undefined;
  /** Number of mappings still available, or undefined. */
  readonly mappingsLeft: number | undefined;
}

export function iommuInfo(call: StructureCall): IommuInfo {
  const view = requestSized(24, () => undefined, call);
  const flags = view.getUint32(4, true);
  const sizes = (flags & IOMMU_PAGE_SIZES) === 0 ? 4096n : view.getBigUint64(8, true);
  let iovaRanges: { first: number; last: number }[] | undefined;
  let mappingsLeft: number | undefined;
  const first = (flags & IOMMU_CAPABILITIES) === 0 ? 0 : view.getUint32(16, true);
  for (const { id, at } of capabilities(view, first)) {
    if (id === IOMMU_IOVA_RANGES) {
      const count = view.getUint32(at + 8, true);
      iovaRanges = Array.from({ length: count }, (_, i) => ({
        first: number64(view, at + 16 + i * 16),
        last: number64(view, at + 24 + i * 16),
      }));
    } else if (id === IOMMU_MAPPINGS_LEFT) {
      mappingsLeft = view.getUint32(at + 8, true);
    }
  }
  return { pageSize: Math.max(4096, Number(sizes & -sizes)), iovaRanges, mappingsLeft };
}

/** Maps memory of this process for the device, readable and writable. */
export function mapDma(address: number, iova: number, size: number): Uint8Array {
  const { bytes, view } = structure(32);
  view.setUint32(4, MAP_READ_WRITE, true);
  setNumber64(view, 8, address);
  setNumber64(view, 16, iova);
  setNumber64(view, 24, size);
  return bytes;
}

/** Removes the mappings that lie wholly in a range. Returns the unmapped bytes. */
export function unmapDma(iova: number, size: number, call: StructureCall): number {
  const { bytes, view } = structure(24);
  setNumber64(view, 8, iova);
  setNumber64(view, 16, size);
  call(bytes);
  return number64(view, 16);
}

/** Properties of a device. */
export interface VfioDeviceInfo {
  readonly canReset: boolean;
  readonly regions: number;
  readonly interruptKinds: number;
}

export function deviceInfo(call: StructureCall): VfioDeviceInfo {
  const { bytes, view } = structure(20);
  call(bytes);
  return {
    canReset: (view.getUint32(4, true) & DEVICE_CAN_RESET) !== 0,
    regions: view.getUint32(8, true),
    interruptKinds: view.getUint32(12, true),
  };
}

/** A region of a device: a range of the device's file. */
export interface RegionInfo {
  /** Bytes; 0 when the region does not exist. */
  readonly size: number;
  /** Offset in the device's file. */
  readonly offset: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Parts that mmap(2) supports. */
  readonly mappable: readonly { readonly offset: number; readonly size: number }[];
}

export function regionInfo(index: number, call: StructureCall): RegionInfo {
  const view = requestSized(
    32,
    (fresh) => {
      fresh.setUint32(8, index, true);
    },
    call,
  );
  const flags = view.getUint32(4, true);
  const size = number64(view, 16);
  let mappable = (flags & REGION_MMAP) === 0 || size === 0 ? [] : [{ offset: 0, size }];
  const first = (flags & REGION_CAPABILITIES) === 0 ? 0 : view.getUint32(12, true);
  for (const { id, at } of capabilities(view, first)) {
    if (id !== REGION_SPARSE_MMAP) continue;
    mappable = Array.from({ length: view.getUint32(at + 8, true) }, (_, i) => ({
      offset: number64(view, at + 16 + i * 16),
      size: number64(view, at + 24 + i * 16),
    }));
  }
  return {
    size,
    offset: number64(view, 24),
    readable: (flags & REGION_READ) !== 0,
    writable: (flags & REGION_WRITE) !== 0,
    mappable,
  };
}

/** Number of interrupts of a kind that eventfds can signal; 0 for none. */
export function interruptCount(index: number, call: StructureCall): number {
  const { bytes, view } = structure(16);
  view.setUint32(8, index, true);
  call(bytes);
  return (view.getUint32(4, true) & IRQ_EVENTFD) === 0 ? 0 : view.getUint32(12, true);
}

/** Signals each interrupt of a kind through an eventfd; without eventfds, disables the kind. */
export function setTriggers(index: number, eventfds: readonly number[]): Uint8Array {
  const { bytes, view } = structure(20 + eventfds.length * 4);
  view.setUint32(4, SET_TRIGGER | (eventfds.length === 0 ? SET_NOTHING : SET_EVENTFD), true);
  view.setUint32(8, index, true);
  view.setUint32(16, eventfds.length, true);
  eventfds.forEach((fd, i) => {
    view.setInt32(20 + i * 4, fd, true);
  });
  return bytes;
}

/** Unmasks a level interrupt. The kernel masks it at each occurrence. */
export function unmask(index: number): Uint8Array {
  const { bytes, view } = structure(20);
  view.setUint32(4, SET_UNMASK | SET_NOTHING, true);
  view.setUint32(8, index, true);
  view.setUint32(16, 1, true);
  return bytes;
}
