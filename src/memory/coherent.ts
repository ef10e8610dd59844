/**
 * The interface between pools and coherent memory.
 *
 *     pool  --allocPage-->  device  --allocCoherent-->  CoherentAllocator
 *                           checks the mask             heap, hugetlb, VFIO, QEMU or a user's
 */

/** The properties of a device that a coherent allocator uses. `Device` implements it. */
export interface DmaTarget {
  /** Name for messages, such as a PCI address. */
  readonly name: string;
  /** Highest address that the device can access. */
  readonly dmaMask: number;
}

/** One request for coherent memory. */
export interface CoherentRequest {
  /** The device that will access the memory. Its object identity, not its name, selects the IOMMU domain. */
  readonly device: DmaTarget;
  /** Bytes, 1 to 2^31-1. The allocator rounds up to whole pages. */
  readonly size: number;
  /** Preferred NUMA node, or -1 (`NUMA_NO_NODE`) for any. A hint: allocators without nodes ignore it. */
  readonly node: number;
}

/** Memory that CPU and device see alike. The object that was allocated is the one to free. */
export interface CoherentMemory {
  /** Address that the device uses, in bytes; naturally aligned (see {@link CoherentAllocator}). */
  readonly dma: number;
  /** Requested size in bytes. */
  readonly size: number;
  /** The buffer that contains the memory. Do not post it to a worker: a buffer that is not shared would be copied. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Offset of the memory in the buffer, in bytes; a multiple of 8. */
  readonly byteOffset: number;
}

/**
 * A description, for another worker of the same process, of memory that is not a `SharedArrayBuffer`. Post it to the
 * worker and open it there by its kind (`openSharedRegion` of `dmapool/linux`). Treat the fields as opaque.
 */
export interface SharedRegion {
  /** Selects the function that opens it: `mapped` for memory that the system mapped into the process. */
  readonly kind: string;
  /** Name of the memory, for checks and messages. */
  readonly name: string;
  /** Virtual address of the first byte. */
  readonly address: number;
  /** Bytes. */
  readonly size: number;
}

/**
 * Allocates coherent memory (Linux: `dma_alloc_coherent`).
 *
 * The contract of an implementation, with `pages = ceil(size / pageSize)`:
 * - `dma` is naturally aligned: `dma % (pageSize * 2^ceil(log2(pages))) === 0`;
 * - every byte of a new allocation reads as zero, also if the memory was used before;
 * - live allocations do not overlap, and no two devices share a page. A page changes devices only after the first device
 *   can no longer access it;
 * - memory is placed at or below the device's mask: `dma + size - 1 <= device.dmaMask`. If that is impossible, the result
 *   is null.
 */
export interface CoherentAllocator {
  /** Kind of memory, for messages and listings: `heap`, `hugetlb`, `vfio`, `qemu`. */
  readonly name: string;
  /** Page size in bytes: a power of two, 4096 or more. A page is the unit of protection of an IOMMU. */
  readonly pageSize: number;

  /**
   * Allocates zeroed memory.
   *
   * @param request Device, size and preferred node.
   * @returns The memory, or null when no free memory satisfies the request.
   * @throws `DmaArgumentError` for a wrong request, and nothing else.
   */
  allocCoherent(request: CoherentRequest): CoherentMemory | null;

  /**
   * Frees `memory`.
   *
   * @param memory The object that {@link allocCoherent} returned.
   * @param device The device that frees it. An allocator that records the device of each allocation checks it.
   * @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` for any other object, or memory that was freed already.
   */
  freeCoherent(memory: CoherentMemory, device?: DmaTarget): void;

  /**
   * Calls `listener` once, after the next free or growth, so that waiters can retry.
   * Optional: without it a waiter only sees the frees of its own pool.
   *
   * @returns A function that cancels the subscription.
   */
  onceAvailable?(listener: () => void): () => void;

  /**
   * Describes, for other workers of this process, a buffer that is not a `SharedArrayBuffer`.
   * Optional: without it only pools on a `SharedArrayBuffer` can be shared.
   *
   * @param buffer The `buffer` of a {@link CoherentMemory} of this allocator.
   * @returns The region to post to the worker, valid until the allocator's memory is closed.
   * @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` for another buffer, or after the memory was closed.
   */
  shareBuffer?(buffer: ArrayBuffer | SharedArrayBuffer): SharedRegion;
}
