import { checkInteger, INT_MAX } from '../arguments.ts';
import { NUMA_NO_NODE } from '../device/mask.ts';
import { DmaArgumentError } from '../errors.ts';
import type { SharedRegion } from '../memory/coherent.ts';
import { MAX_SHARED_BLOCKS } from './layout.ts';

/**
 * What `pool.share()` gives: all that another worker needs to attach to the pool. It goes through `postMessage` (its
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

/** Throws unless `handle` has the shape of a handle. What the control block says is checked against it later. */
export function checkHandle(handle: unknown): asserts handle is SharedPoolHandle {
  const { buffers, debug, device, dmapool, initOnAlloc, initOnFree, maxBlocks, name, node, pages } = (handle ??
    {}) as Partial<SharedPoolHandle>;
  if (
    typeof dmapool !== 'number' ||
    typeof name !== 'string' ||
    !(pages instanceof Float64Array) ||
    !Array.isArray(buffers) ||
    device === undefined ||
    typeof initOnAlloc !== 'boolean' ||
    typeof initOnFree !== 'boolean' ||
    !isDebug(debug)
  ) {
    throw new DmaArgumentError('handle', handle, 'a handle from pool.share(), as it came through postMessage');
  }
  checkInteger('handle: maxBlocks', maxBlocks, 1, MAX_SHARED_BLOCKS);
  checkInteger('handle: node', node, NUMA_NO_NODE, INT_MAX);
}

function isDebug(debug: Partial<SharedPoolHandle['debug']> | undefined): boolean {
  if (debug === null) return true;
  return (
    typeof debug === 'object' &&
    typeof debug.quarantine === 'boolean' &&
    typeof debug.sites === 'boolean' &&
    typeof SharedArrayBuffer === 'function' &&
    debug.book instanceof SharedArrayBuffer
  );
}
