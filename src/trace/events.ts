/** The events of a trace, one per line. docs/traces.md describes the format. */

/** The lines before the first call, as one event. It always comes first. */
export interface TraceHeader {
  /** Kind of the event. */
  readonly type: 'header';
  /** Number of the first line after the header, from 1. */
  readonly line: number;
  /** Version of the format: 1. */
  readonly version: number;
  /** Every `#key<TAB>value` line, in the order of the file: `scenario`, `kernel`, `cmdline`, `qemu`, `loss`, ... */
  readonly fields: ReadonlyMap<string, string>;
}

interface EventBase {
  /** Number of the line, from 1. */
  readonly line: number;
  /** Time of its effect, in nanoseconds from the start of the recording. */
  readonly time: number;
  /** Number of the CPU. */
  readonly cpu: number;
}

/** A pool was created. */
export interface TraceCreate extends EventBase {
  /** Kind of the event. */
  readonly type: 'create';
  /** Number of the pool: 0, 1, 2, ... in order of creation, never reused. */
  readonly pool: number;
  /** The device's name, such as a PCI address. */
  readonly device: string;
  /** Name of the pool, not necessarily unique, not even on one device. */
  readonly name: string;
  /** Bytes of a block, as requested by the driver. */
  readonly size: number;
  /** Alignment as requested by the driver; 0 for none. */
  readonly align: number;
  /** Boundary as requested by the driver; 0 for none. */
  readonly boundary: number;
  /** Bytes of a block, rounded by the kernel. */
  readonly effectiveSize: number;
  /** Bytes of a page of the pool. */
  readonly effectiveAllocation: number;
  /** The boundary that the kernel uses. */
  readonly effectiveBoundary: number;
}

/** `kernel`: the caller may sleep; `atomic`: it may not. In the kernel both may take a new page. */
export type TraceAllocContext = 'kernel' | 'atomic';

/** A block was allocated, or the allocation failed. */
export interface TraceAlloc extends EventBase {
  /** Kind of the event. */
  readonly type: 'alloc';
  /** Number of the pool. */
  readonly pool: number;
  /** Whether the caller may sleep. */
  readonly context: TraceAllocContext;
  /** True for `dma_pool_zalloc`. */
  readonly zero: boolean;
  /** Number of the block in its pool, in order of first allocation; -1 if the allocation failed. */
  readonly block: number;
  /** Number of the page in its pool, in order of allocation; -1 if the allocation failed. */
  readonly page: number;
  /** Offset of the block in the page, in bytes; -1 if the allocation failed. */
  readonly offset: number;
  /** DMA address; -1 if the allocation failed. */
  readonly dma: number;
  /** Allocated blocks afterwards, as counted by the kernel: of that page before 6.4, else of the pool; -1 after a failure. */
  readonly inUse: number;
  /** The kernel's allocation flags. */
  readonly gfp: number;
  /** Nanoseconds from the call to `time`. */
  readonly enter: number;
  /** Nanoseconds from `time` to the return of the call. */
  readonly leave: number;
  /** Number of the call's site, 1 or more; the header's field `site N` has its text. Absent without sites. */
  readonly site?: number;
}

/** A block was freed. */
export interface TraceFree extends EventBase {
  /** Kind of the event. */
  readonly type: 'free';
  /** Number of the pool. */
  readonly pool: number;
  /** Number of the block in its pool. */
  readonly block: number;
  /** Number of the page in its pool. */
  readonly page: number;
  /** Offset of the block in the page, in bytes. */
  readonly offset: number;
  /** DMA address that the driver passed. */
  readonly dma: number;
  /** Allocated blocks afterwards, as counted by the kernel: of that page before 6.4, else of the pool. */
  readonly inUse: number;
  /** Nanoseconds from the call to `time`. */
  readonly enter: number;
  /** Number of the call's site, as above. */
  readonly site?: number;
}

/** A pool was destroyed. */
export interface TraceDestroy extends EventBase {
  /** Kind of the event. */
  readonly type: 'destroy';
  /** Number of the pool. */
  readonly pool: number;
}

/** The recorder began or finished reading the kernel's `pools` files. */
export interface TraceSnap extends EventBase {
  /** Kind of the event. */
  readonly type: 'snap';
  /** Begin or end of the reading. */
  readonly edge: 'begin' | 'end';
  /** The snapshot's name, as in the expectations. */
  readonly label: string;
}

/** One event of a trace, of kind `type`. */
export type TraceEvent = TraceHeader | TraceCreate | TraceAlloc | TraceFree | TraceDestroy | TraceSnap;

/** A call on a pool, or a mark of the recorder: any event except the header. */
export type TraceCall = Exclude<TraceEvent, TraceHeader>;
