import { checkBoolean, checkInteger, checkObject, INT_MAX, isInstance, reading } from '../arguments.ts';
import { NUMA_NO_NODE } from '../device/mask.ts';
import { DmaArgumentError, isArray } from '../errors.ts';
import type { SharedRegion } from '../memory/coherent.ts';
import { isShared, MAX_SHARED_BLOCKS } from './layout.ts';

/**
 * All that another worker needs to attach to a shared pool. It goes through `postMessage` (its
 * buffers are shared, not copied) and is good as long as the pool lives. Treat it as opaque.
 */
export interface SharedPoolHandle {
  /** Layout of what follows; two versions of this package may differ in it. */
  readonly dmapool: number;
  /** The pool's name. */
  readonly name: string;
  /** Bytes of a block, as asked for. */
  readonly size: number;
  /** Alignment of a block, as asked for; 0: none. */
  readonly align: number;
  /** Boundary that no block crosses, as asked for; 0: none. */
  readonly boundary: number;
  /** Bytes of a page of the memory source. */
  readonly pageSize: number;
  /** NUMA node its pages are asked for; -1: none in particular. */
  readonly node: number;
  /** Most blocks that may be out at one time. */
  readonly maxBlocks: number;
  /** Most free blocks that a worker keeps at hand. */
  readonly magazine: number;
  /** To how many {@link magazine} may grow while nobody misses them. */
  readonly mostMagazine: number;
  /** What a worker makes its device from, unless it says otherwise. */
  readonly device: {
    readonly name: string;
    readonly path: string;
    readonly dmaMask: number;
    readonly numaNode: number;
  };
  /** Who owns which block, and what else the workers agree on. */
  readonly control: SharedArrayBuffer;
  /** Where the pages lie: shared buffers, or memory that a worker opens by itself. */
  readonly buffers: readonly (SharedArrayBuffer | SharedRegion)[];
  /** For each page: DMA address, number of the buffer, byte offset in it. */
  readonly pages: Float64Array;
  /** Debug mode, if it is on: its options, and what all workers remember of the blocks. */
  readonly debug: { readonly quarantine: boolean; readonly sites: boolean; readonly book: SharedArrayBuffer } | null;
  /** Every block is zeroed when it is handed out. */
  readonly initOnAlloc: boolean;
  /** Every block is zeroed when it comes back. */
  readonly initOnFree: boolean;
}

/** Numbers a page takes in {@link SharedPoolHandle.pages}. */
export const PER_PAGE_ENTRY = 3;

const ACCEPTED = 'SharedPool.handle, as it came through postMessage';

/**
 * Reads a handle, each field once: what is checked is what is used. What the control block says is checked against it later.
 *
 * @throws {@link DmaArgumentError} for what has not the shape of a handle.
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
