/**
 * dmapool/observe: snapshots, events, metrics and recordings of the devices, pools and memory sources of a process.
 * `docs/observe.md` is the guide.
 *
 * Only devices and pools that are created after the import of this module are visible.
 *
 * @module dmapool/observe
 * @packageDocumentation
 */
export { blockSnapshot, holders } from './blocks.ts';
export type {
  ChannelMessages,
  CorruptedMessage,
  ExhaustedMessage,
  LeakMessage,
  PageMessage,
  WorkerExitMessage,
} from './channels.ts';
export {
  BLOCK_STATE,
  type BlockSnapshot,
  type DeviceSnapshot,
  type Holder,
  type PageSnapshot,
  type PoolSnapshot,
  type Snapshot,
  type SourceSnapshot,
  type WaitHistogram,
  type WorkerSnapshot,
} from './format.ts';
export { type MetricsFormat, metricsText } from './metrics.ts';
export { type PoolRecorder, type RecorderHandle, type RecordOptions, recordPool } from './recorder.ts';
export type { RecordedOperation } from './ring.ts';
export { observableProcesses, processSocket } from './socket.ts';
export { snapshot, type SnapshotOptions } from './snapshot.ts';
