/**
 * dmapool: a DMA pool allocator for user-space drivers, device emulators and shared-memory code.
 *
 * @module dmapool
 * @packageDocumentation
 */
export { Device, type DeviceOptions } from './device/device.ts';
export type { AttributeShow } from './device/attributes.ts';
export type { DeviceLog } from './device/log.ts';
export type { ReleaseAction } from './device/managed.ts';
export { DMA_BIT_MASK, NUMA_NO_NODE } from './device/mask.ts';
export {
  DmaArgumentError,
  DmaBlockError,
  DmaDestroyedError,
  DmaError,
  type DmaErrorCode,
  DmaExistsError,
  DmaMappingError,
  DmaMaskError,
  DmaOutOfMemoryError,
  DmaReleaseError,
  DmaSharingError,
  DmaSourceError,
  DmaTimeoutError,
  IommuFaultError,
} from './errors.ts';
export type { CoherentAllocator, CoherentMemory, CoherentRequest, DmaTarget, SharedRegion } from './memory/coherent.ts';
export { defaultMemory, HeapMemory, type HeapOptions } from './memory/heap.ts';
export type { DmaBlock } from './pool/block.ts';
export type { DebugOptions } from './pool/debug.ts';
export { type GeometryOptions, PoolGeometry } from './pool/geometry.ts';
export {
  consume32,
  lower32Bits,
  publish32,
  readAddress64,
  upper32Bits,
  type Words,
  writeAddress64,
} from './memory/ordering.ts';
export { DmaPool, type DmaPoolOptions } from './dma-pool.ts';
export type { Gfp, PoolCounts } from './pool/backend.ts';
export type { PoolStatistics } from './pool/statistics.ts';
export type { SharedPoolHandle } from './shared/handle.ts';
export type { AttachOptions, ShareOptions } from './shared/shared-pool.ts';
export type { DeathReport } from './shared/core.ts';
export type { WatchableWorker } from './shared/threads.ts';
export type { WaitOptions } from './pool/waiting.ts';
