/** What a trace holds, line by line. See docs/traces.md for the format. */

/** The lines before the first event, as one event: it always comes first, and once. */
export interface TraceHeader {
  /** What kind of event this is. */
  readonly type: 'header';
  /** Number of the first line after the header, counted from 1. */
  readonly line: number;
  /** Version of the format; the only one known is 1. */
  readonly version: number;
  /** Every `#key<TAB>value` line, in the order of the file: `scenario`, `kernel`, `cmdline`, `qemu`, `loss`, ... */
  readonly fields: ReadonlyMap<string, string>;
}

interface EventBase {
  /** Number of the line, counted from 1. */
  readonly line: number;
  /** When it took effect, in nanoseconds from the start of the recording. */
  readonly time: number;
  /** The CPU it happened on. */
  readonly cpu: number;
}

/** A pool was created. */
export interface TraceCreate extends EventBase {
  /** What kind of event this is. */
  readonly type: 'create';
  /** The pool's number: 0, 1, 2, ... in order of creation, never used twice. */
  readonly pool: number;
  /** The device's name, such as a PCI address. */
  readonly device: string;
  /** The pool's name. Names are not unique, not even on one device. */
  readonly name: string;
  /** Bytes of a block, as the driver asked. */
  readonly size: number;
  /** Alignment as the driver asked; 0 if it did not care. */
  readonly align: number;
  /** Boundary as the driver asked; 0 if it did not care. */
  readonly boundary: number;
  /** Bytes of a block as the kernel rounded them. */
  readonly effectiveSize: number;
  /** Bytes of a page of the pool. */
  readonly effectiveAllocation: number;
  /** The boundary in force. */
  readonly effectiveBoundary: number;
}

/** Whether the caller could sleep: `kernel` yes, `atomic` no (in the kernel both may take a new page). */
export type TraceAllocContext = 'kernel' | 'atomic';

/** A block was handed out, or could not be. */
export interface TraceAlloc extends EventBase {
  /** What kind of event this is. */
  readonly type: 'alloc';
  /** The pool's number. */
  readonly pool: number;
  /** Whether the caller could sleep. */
  readonly context: TraceAllocContext;
  /** True for `dma_pool_zalloc`: the block had to be zero. */
  readonly zero: boolean;
  /** The block's number in its pool, by first appearance; -1 when the kernel had no memory. */
  readonly block: number;
  /** The page's number in its pool, in the order in which they were taken; -1 as above. */
  readonly page: number;
  /** Bytes from the page's start to the block's; -1 as above. */
  readonly offset: number;
  /** The address the kernel gave to the driver; -1 as above. */
  readonly dma: number;
  /** Blocks of that page that were out afterwards, by the kernel's own count; -1 as above. */
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

/** A block was given back. */
export interface TraceFree extends EventBase {
  /** What kind of event this is. */
  readonly type: 'free';
  /** The pool's number. */
  readonly pool: number;
  /** The block's number in its pool. */
  readonly block: number;
  /** The page's number in its pool. */
  readonly page: number;
  /** Bytes from the page's start to the block's. */
  readonly offset: number;
  /** The address the driver passed. */
  readonly dma: number;
  /** Blocks of that page that were still out afterwards, by the kernel's own count. */
  readonly inUse: number;
  /** Nanoseconds from the call to `time`. */
  readonly enter: number;
  /** Number of the call's site, as above. */
  readonly site?: number;
}

/** A pool was destroyed. */
export interface TraceDestroy extends EventBase {
  /** What kind of event this is. */
  readonly type: 'destroy';
  /** The pool's number. */
  readonly pool: number;
}

/** The recorder began or ended to read the kernel's `pools` files. */
export interface TraceSnap extends EventBase {
  /** What kind of event this is. */
  readonly type: 'snap';
  /** Whether the reading began here or ended. */
  readonly edge: 'begin' | 'end';
  /** The snapshot's name, as in the expectations. */
  readonly label: string;
}

/** One event of a trace; `type` says which. */
export type TraceEvent = TraceHeader | TraceCreate | TraceAlloc | TraceFree | TraceDestroy | TraceSnap;

/** A call of the pool or a mark of the recorder: every event but the header. */
export type TraceCall = Exclude<TraceEvent, TraceHeader>;
