/**
 * dmapool/drivers/nvme: driver for NVM Express controllers. NVM Express Base Specification 1.4.
 *
 * @module dmapool/drivers/nvme
 * @packageDocumentation
 */
export { NvmeController, type NvmeStatistics } from './controller.ts';
export { DriverError } from '../common/error.ts';
export type { DmaMemory } from './data.ts';
export {
  NvmeError,
  type NvmeErrorCode,
  NvmeResetError,
  type NvmeStatus,
  NvmeStatusError,
  NvmeTimeoutError,
} from './errors.ts';
export type { NvmeIdentity } from './identify.ts';
export type {
  NvmeDmaOptions,
  NvmeNamespace,
  NvmeRange,
  NvmeWriteOptions,
  NvmeWriteZeroesOptions,
} from './namespace.ts';
export type { NvmeCommandOptions, NvmeOptions } from './options.ts';
export type { NvmeCommand } from './queue-pair.ts';
export { nvmeStatusName } from './status.ts';
