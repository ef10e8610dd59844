/**
 * dmapool/observe: the devices, pools and memory sources of a process, as they are now. `docs/observe.md` is the guide.
 *
 * What was made before this module was imported is not seen.
 *
 * @module dmapool/observe
 * @packageDocumentation
 */
export { BLOCK_STATE, blockSnapshot, type BlockSnapshot, type Holder, holders } from './blocks.ts';
export type {
  ChannelMessages,
  CorruptedMessage,
  ExhaustedMessage,
  LeakMessage,
  PageMessage,
  WorkerExitMessage,
} from './channels.ts';
export { type MetricsFormat, metricsText } from './metrics.ts';
export { observableProcesses, processSocket } from './socket.ts';
export {
  type DeviceSnapshot,
  type PageSnapshot,
  type PoolSnapshot,
  snapshot,
  type Snapshot,
  type SnapshotOptions,
  type SourceSnapshot,
  type WaitHistogram,
  type WorkerSnapshot,
} from './snapshot.ts';
