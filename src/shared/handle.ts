import { DmaArgumentError } from '../errors.ts';
import type { SharedRegion } from '../memory/coherent.ts';

/**
 * What `pool.share()` gives: all that another worker needs to attach to the pool. It goes through `postMessage` (its
 * buffers are shared, not copied) and is good as long as the pool lives. Treat it as opaque.
 */
export interface SharedPoolHandle {
  /** Layout of what follows; two versions of this package may differ in it. */
  readonly dmapool: number;
  readonly name: string;
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
  readonly pageSize: number;
  readonly node: number;
  readonly maxBlocks: number;
  /** Most free blocks that a worker keeps at hand, and to how many that may grow. */
  readonly magazine: number;
  readonly mostMagazine: number;
  readonly device: {
    readonly name: string;
    readonly path: string;
    readonly dmaMask: number;
    readonly numaNode: number;
  };
  readonly control: SharedArrayBuffer;
  /** Where the pages lie: shared buffers, or memory that a worker opens by itself. */
  readonly buffers: readonly (SharedArrayBuffer | SharedRegion)[];
  /** For each page: DMA address, number of the buffer, byte offset in it. */
  readonly pages: Float64Array;
  /** Debug mode, if it is on: its options, and what all workers remember of the blocks. */
  readonly debug: { readonly quarantine: boolean; readonly sites: boolean; readonly book: SharedArrayBuffer } | null;
  readonly initOnAlloc: boolean;
  readonly initOnFree: boolean;
}

/** Numbers a page takes in {@link SharedPoolHandle.pages}. */
export const PER_PAGE_ENTRY = 3;

/** Throws unless `handle` has the shape of a handle. What the control block says is checked against it later. */
export function checkHandle(handle: unknown): asserts handle is SharedPoolHandle {
  const { dmapool, pages, buffers, device } = (handle ?? {}) as Partial<SharedPoolHandle>;
  if (
    typeof dmapool !== 'number' ||
    !(pages instanceof Float64Array) ||
    !Array.isArray(buffers) ||
    device === undefined
  ) {
    throw new DmaArgumentError('handle', handle, 'a handle from pool.share(), as it came through postMessage');
  }
}
