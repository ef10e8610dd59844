import { checkBoolean, checkInteger, checkObject, INT_MAX, isInstance, reading } from '../arguments.ts';
import { NUMA_NO_NODE } from '../device/mask.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { SharedRegion } from '../memory/coherent.ts';
import { isShared, MAX_SHARED_BLOCKS } from './layout.ts';

/**
 * Lets another worker attach to a shared pool: post it with `postMessage`, which shares its buffers instead of copying
 * them. Valid until the pool is destroyed. Treat it as opaque.
 */
export interface SharedPoolHandle {
  /** Version of the layout; it may differ between versions of this package. */
  readonly dmapool: number;
  /** The pool's name. */
  readonly name: string;
  /** Requested block size in bytes. */
  readonly size: number;
  /** Requested alignment in bytes; 0: none. */
  readonly align: number;
  /** Requested boundary in bytes, which no block crosses; 0: none. */
  readonly boundary: number;
  /** Page size of the memory source in bytes. */
  readonly pageSize: number;
  /** Requested NUMA node of its pages; -1: any. */
  readonly node: number;
  /** Maximum blocks allocated at one time. */
  readonly maxBlocks: number;
  /** Initial capacity of a worker's magazine in blocks. */
  readonly magazine: number;
  /** Maximum capacity of a magazine that grows; equals {@link magazine} if it does not grow. */
  readonly mostMagazine: number;
  /** Properties of the device; a worker without its own device creates one from them. */
  readonly device: {
    readonly name: string;
    readonly path: string;
    readonly dmaMask: number;
    readonly numaNode: number;
  };
  /** Control block: owners of the blocks, and all other state of the pool. */
  readonly control: SharedArrayBuffer;
  /** Memory of the pages: shared buffers, or regions that each worker opens. */
  readonly buffers: readonly (SharedArrayBuffer | SharedRegion)[];
  /** For each page: DMA address, number of its buffer, byte offset in the buffer. */
  readonly pages: Float64Array;
  /** Options and shared records of debug mode; null: off. */
  readonly debug: { readonly quarantine: boolean; readonly sites: boolean; readonly book: SharedArrayBuffer } | null;
  /** Zero every block when it is allocated. */
  readonly initOnAlloc: boolean;
  /** Zero every block when it is freed. */
  readonly initOnFree: boolean;
}

/** Numbers per page in {@link SharedPoolHandle.pages}. */
export const PER_PAGE_ENTRY = 3;

const ACCEPTED = 'a SharedPool.handle received through postMessage';

/**
 * Copies and checks a handle. Reads each field once, so that the checked value is the used one. `checkAgainst` compares
 * it with the control block later.
 *
 * @throws {@link DmaArgumentError}
 */
export function checkHandle(given: unknown): SharedPoolHandle {
  checkObject('handle', given, ACCEPTED);
  return reading('handle', given, ACCEPTED, () => {
    const { dmapool, name, size, align, boundary, pageSize, node, maxBlocks, magazine, mostMagazine, control } =
      given as SharedPoolHandle;
    const { device, buffers, pages, debug, initOnAlloc, initOnFree } = given as SharedPoolHandle;
    const wrong = (field: string, value: unknown): DmaArgumentError =>
      new DmaArgumentError(`handle: ${field}`, value, ACCEPTED);
    if (typeof dmapool !== 'number') throw wrong('version', dmapool);
    if (typeof name !== 'string') throw wrong('name', name);
    if (!isArray(buffers)) throw wrong('buffers', buffers);
    if (!isInstance(pages, Float64Array)) throw wrong('pages', pages);
    checkInteger('handle: node', node, NUMA_NO_NODE, INT_MAX);
    checkInteger('handle: maxBlocks', maxBlocks, 1, MAX_SHARED_BLOCKS);
    checkBoolean('handle: initOnAlloc', initOnAlloc);
    checkBoolean('handle: initOnFree', initOnFree);
    checkObject('handle: device', device, ACCEPTED);
    const { name: deviceName, path, dmaMask, numaNode } = device;
    return {
      dmapool,
      name,
      size,
      align,
      boundary,
      pageSize,
      node,
      maxBlocks,
      magazine,
      mostMagazine,
      device: { name: deviceName, path, dmaMask, numaNode },
      control,
      buffers: [...buffers],
      pages,
      debug: debug === null ? null : checkDebug(debug),
      initOnAlloc,
      initOnFree,
    };
  });
}

function checkDebug(debug: unknown): NonNullable<SharedPoolHandle['debug']> {
  checkObject('handle: debug', debug, ACCEPTED);
  const { quarantine, sites, book } = debug as NonNullable<SharedPoolHandle['debug']>;
  checkBoolean('handle: debug.quarantine', quarantine);
  checkBoolean('handle: debug.sites', sites);
  if (!isShared(book)) throw new DmaArgumentError('handle: debug.book', book, ACCEPTED);
  return { quarantine, sites, book };
}
