/**
 * dmapool: a DMA pool allocator for user-space drivers, device emulators and shared-memory code.
 *
 * @module dmapool
 * @packageDocumentation
 */
export { type AttributeShow, Device, type DeviceOptions } from './device/device.ts';
export type { DeviceLog } from './device/log.ts';
export type { ReleaseAction } from './device/managed.ts';
export { dmaBitMask, NUMA_NO_NODE } from './device/mask.ts';
export { DmaPool, type DmaPoolConstructor, type DmaPoolOptions } from './dma-pool.ts';
export { DmaExistsError, DmaReleaseError } from './device/errors.ts';
export {
  type BlockErrorCode,
  DmaArgumentError,
  DmaBlockError,
  DmaDestroyedError,
  DmaError,
  type DmaErrorCode,
  DmaOutOfMemoryError,
  DmaTimeoutError,
  type OutOfMemoryCode,
} from './errors.ts';
export { DmaMappingError, DmaMaskError, DmaSourceError, IommuFaultError } from './memory/errors.ts';
export type { CoherentAllocator, CoherentMemory, CoherentRequest, DmaTarget, SharedRegion } from './memory/coherent.ts';
export { defaultMemory, HeapMemory, type HeapOptions } from './memory/heap.ts';
export {
  type HalfWords,
  loadAcquire16,
  loadAcquire32,
  lower32Bits,
  readAddress64,
  storeRelease16,
  storeRelease32,
  upper32Bits,
  type Words,
  writeAddress64,
} from './memory/ordering.ts';
export type { AllocOptions, Bytes, DmaBlock } from './pool/contract.ts';
export { type GeometryOptions, PoolGeometry } from './pool/geometry.ts';
export type { DebugOptions } from './pool/hooks.ts';
export type { PoolStatistics } from './pool/statistics.ts';
export type { WaitOptions } from './pool/waiting.ts';
