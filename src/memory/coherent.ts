/**
 * The one interface between the allocator and the homes of its memory.
 *
 *     pool  --allocCoherent-->  device  --allocCoherent-->  memory source (CoherentAllocator)
 *                               checks the mask             heap, hugetlb, VFIO, QEMU, yours
 */

/** What a memory source needs to know of the device that the memory is for. A `Device` is one. */
export interface DmaTarget {
  /** Name for messages, such as a PCI address. */
  readonly name: string;
  /** The highest address that the device reaches. */
  readonly dmaMask: number;
}

/** One request for coherent memory. */
export interface CoherentRequest {
  /** For whom. Its identity is the key of its IOMMU domain. */
  readonly device: DmaTarget;
  /** Bytes wanted, 1 to 2^31-1. Rounded up to whole pages by the source. */
  readonly size: number;
  /** NUMA node to prefer, or -1 (`NUMA_NO_NODE`) for any. A wish: sources without nodes ignore it. */
  readonly node: number;
}

/** Memory that CPU and device see alike. Given by a source, and given back to it as the same object. */
export interface CoherentMemory {
  /** The address that the device uses, in bytes; a multiple of the natural alignment. */
  readonly dma: number;
  /** Bytes asked for. */
  readonly size: number;
  /** The buffer that holds the memory. Not for posting to a worker: a foreign buffer would be copied. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Where in the buffer the memory begins, in bytes; a multiple of 8. */
  readonly byteOffset: number;
}

/**
 * Where another worker of the same process finds memory that is no `SharedArrayBuffer`. It goes through `postMessage`;
 * who knows its kind makes a buffer of it there (`openSharedRegion` of `dmapool/linux`). Treat it as opaque.
 */
export interface SharedRegion {
  /** Who can open it: `mapped` for memory that the system mapped into the process. */
  readonly kind: string;
  /** Name of the memory, for checks and messages. */
  readonly name: string;
  /** Where it begins in the process, in bytes. */
  readonly address: number;
  /** Bytes. */
  readonly size: number;
}

/**
 * A source of coherent memory (Linux: `dma_alloc_coherent`, by whatever implements it for the device).
 *
 * What a source promises:
 * - `dma` is naturally aligned: to the smallest power-of-two number of pages that holds the request;
 * - every byte reads zero when handed out, also when the memory was used before;
 * - no two live allocations overlap, and no page serves two devices, not even one after the other while
 *   the first can still reach it;
 * - where it can place memory below the device's mask it does; where it can't it returns null.
 */
export interface CoherentAllocator {
  /** Kind of memory for messages and listings: `heap`, `hugetlb`, `vfio`, `qemu`. */
  readonly name: string;
  /** Bytes of a page: a power of two, 4096 or more. A page is what an IOMMU can protect. */
  readonly pageSize: number;

  /** Allocates zeroed memory as `request` says, or returns null when none is left that suits. Throws only for wrong arguments. */
  allocCoherent(request: CoherentRequest): CoherentMemory | null;

  /**
   * Takes `memory` back. What was not given by this source, or was given back before, is a `DmaMappingError`.
   *
   * @param memory The very object that {@link allocCoherent} returned.
   * @param device Who gives it back. A source that knows whose memory is whose refuses another device's.
   */
  freeCoherent(memory: CoherentMemory, device?: DmaTarget): void;

  /**
   * Calls `listener` once after the next memory came back or the source grew, so that those who wait can try again.
   * Returns a function that takes the wish back. Optional: without it waiters only see their own pool's frees.
   */
  onceAvailable?(listener: () => void): () => void;

  /**
   * For sources whose buffers are no `SharedArrayBuffer`: how another worker of this process gets at one of them.
   * Optional: without it pools on this memory can't be shared, unless its buffers are shared ones.
   *
   * @param buffer One that this source gave as the `buffer` of a {@link CoherentMemory}.
   * @returns What to post to the worker. It holds as long as the source's memory does.
   * @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` for another buffer, or when the memory was closed.
   */
  shareBuffer?(buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion;
}
