/**
 * dmapool/shared: one pool for many workers (`worker_threads`, Web Workers).
 *
 * `docs/sharing.md` is the guide: ownership, transfers, exits of workers.
 *
 * @module dmapool/shared
 * @packageDocumentation
 */
export { DmaSharingError, type SharingErrorCode } from './errors.ts';
export type { SharedPoolHandle } from './handle.ts';
export type { WorkerExit } from './recovery.ts';
export { type AttachOptions, attachPool, type SharedPool, sharePool, type ShareOptions } from './shared-pool.ts';
export type { WatchableWorker } from './threads.ts';
export type { TransitEntry } from './transfers.ts';
