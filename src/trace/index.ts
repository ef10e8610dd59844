/**
 * dmapool/trace: reads recorded traffic of the Linux kernel's DMA pools, and replays it through this package's pools.
 *
 *     NAME.trace.gz --readTrace--> events --decodeTrace--> typed arrays --\
 *                                                                          replayTrace --> result
 *     NAME.pools.txt --readPools--> the kernel's `pools` files ------------/
 *
 * The kernel's `pools` files of a trace are the expectations of its replay.
 *
 * @module dmapool/trace
 * @packageDocumentation
 */
export type { ByteStream, TraceSource } from './bytes.ts';
export { type DecodedTrace, decodeTrace, OPERATION, type TraceSnapshot } from './decode.ts';
export { DmaTraceError } from './error.ts';
export type {
  TraceAlloc,
  TraceAllocContext,
  TraceCall,
  TraceCreate,
  TraceDestroy,
  TraceEvent,
  TraceFree,
  TraceHeader,
  TraceSnap,
} from './events.ts';
export { type PoolsFile, type PoolsRow, readPools, type ReadPoolsOptions } from './expectations.ts';
export { TRACE_LIMIT } from './limits.ts';
export { readTrace, type ReadTraceOptions } from './reader.ts';
export { DEFAULT_REPEAT, MAX_REPEAT, type ReplayOptions, replayTrace } from './replay.ts';
export type {
  ReplayFile,
  ReplayMismatch,
  ReplayPool,
  ReplayResult,
  ReplayRow,
  ReplaySnapshot,
  RowVerdict,
} from './result.ts';
