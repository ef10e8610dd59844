/**
 * The structures of the kernel's VFIO interface as bytes (linux/vfio.h; Documentation/driver-api/vfio.rst).
 *
 * A structure begins with its own size. Where the kernel has more to tell it writes the size that it needs, and is asked
 * again with so much room: {@link askGrowing}.
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
/** Kinds of IOMMU interface, best first; and what the extension check knows beside. */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1V2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;

const GROUP_VIABLE = 1;
const DEVICE_CAN_RESET = 1;

/** Regions of a PCI function: its six base address registers, then these. */
export const CONFIG_REGION = 7;
export const REGION_READ = 1;
export const REGION_WRITE = 2;
export const REGION_MMAP = 4;
const REGION_CAPABILITIES = 8;
const REGION_SPARSE_MMAP = 1;

/** Kinds of interrupts of a PCI function, as the kernel numbers them. */
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

/** Sends a structure to the kernel, which fills it in. */
export type Ask = (structure: Uint8Array) => void;

function structure(size: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true);
  return { bytes, view };
}

/** 64 bits as a number: sizes and addresses of devices stay below 2^53, but for an end of 2^64-1, which is rounded. */
function number64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function setNumber64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Asks with the least size, and once more if the kernel has more to say. */
function askGrowing(size: number, prepare: (view: DataView) => void, ask: Ask): DataView {
  for (;;) {
    const { bytes, view } = structure(size);
    prepare(view);
    ask(bytes);
    const wanted = view.getUint32(0, true);
    if (wanted <= size) return view;
    size = wanted;
  }
}

/** Offsets of the capabilities in an answer: each has its ID, and where the next one is. */
function capabilities(view: DataView, first: number): { id: number; at: number }[] {
  const found: { id: number; at: number }[] = [];
  for (let at = first; at !== 0 && at + 8 <= view.byteLength && found.length < 64; at = view.getUint32(at + 4, true)) {
    found.push({ id: view.getUint16(at, true), at });
  }
  return found;
}

/** True when every function of the group is out of the kernel's hands. */
export function isGroupViable(ask: Ask): boolean {
  const { bytes, view } = structure(8);
  ask(bytes);
  return (view.getUint32(4, true) & GROUP_VIABLE) !== 0;
}

/** What the IOMMU offers. */
export interface IommuInfo {
  /** Bytes of the smallest page that it maps. */
  readonly pageSize: number;
  /** Where addresses may be, ascending: first and last byte. Undefined when an old kernel does not say. */
  readonly iovaRanges: readonly { readonly first: number; readonly last: number }[] | undefined;
  /** How many mappings can still be made, or undefined. */
  readonly mappingsLeft: number | undefined;
}

export function iommuInfo(ask: Ask): IommuInfo {
  const view = askGrowing(24, () => undefined, ask);
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

/** A mapping of memory of this process for the device, to read and to write. */
export function mapDma(address: number, iova: number, size: number): Uint8Array {
  const { bytes, view } = structure(32);
  view.setUint32(4, MAP_READ_WRITE, true);
  setNumber64(view, 8, address);
  setNumber64(view, 16, iova);
  setNumber64(view, 24, size);
  return bytes;
}

/** Takes mappings away that lie wholly in a range; returns how many bytes they were. */
export function unmapDma(iova: number, size: number, ask: Ask): number {
  const { bytes, view } = structure(24);
  setNumber64(view, 8, iova);
  setNumber64(view, 16, size);
  ask(bytes);
  return number64(view, 16);
}

/** What a device is. */
export interface VfioDeviceInfo {
  readonly canReset: boolean;
  readonly regions: number;
  readonly interruptKinds: number;
}

export function deviceInfo(ask: Ask): VfioDeviceInfo {
  const { bytes, view } = structure(20);
  ask(bytes);
  return {
    canReset: (view.getUint32(4, true) & DEVICE_CAN_RESET) !== 0,
    regions: view.getUint32(8, true),
    interruptKinds: view.getUint32(12, true),
  };
}

/** A region of a device: a part of its file. */
export interface RegionInfo {
  /** Bytes; 0 when there is no such region. */
  readonly size: number;
  /** Where in the device's file. */
  readonly offset: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** The parts of it that can be mapped. */
  readonly mappable: readonly { readonly offset: number; readonly size: number }[];
}

export function regionInfo(index: number, ask: Ask): RegionInfo {
  const view = askGrowing(
    32,
    (fresh) => {
      fresh.setUint32(8, index, true);
    },
    ask,
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

/** How many interrupts of a kind can be told by event counters; 0 for none. */
export function interruptCount(index: number, ask: Ask): number {
  const { bytes, view } = structure(16);
  view.setUint32(8, index, true);
  ask(bytes);
  return (view.getUint32(4, true) & IRQ_EVENTFD) === 0 ? 0 : view.getUint32(12, true);
}

/** Lets the kernel add to an event counter at each interrupt; or, without any, switches interrupts of the kind off. */
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

/** Lets a level interrupt come again, which the kernel masks whenever it came. */
export function unmask(index: number): Uint8Array {
  const { bytes, view } = structure(20);
  view.setUint32(4, SET_UNMASK | SET_NOTHING, true);
  view.setUint32(8, index, true);
  view.setUint32(16, 1, true);
  return bytes;
}
