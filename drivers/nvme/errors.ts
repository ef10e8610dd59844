/**
 * Errors of the NVMe driver. Errors of lower layers keep their classes: `DmaOutOfMemoryError` when there is no memory,
 * `PciGoneError` when the device was unplugged, `DmaArgumentError` for invalid arguments.
 */
import { PciError } from 'dmapool/pci';
import { DriverError } from '../common/error.ts';
import { nvmeStatusName } from './status.ts';

/**
 * Codes of {@link NvmeError}.
 *
 * | code | class | when |
 * | --- | --- | --- |
 * | `ERR_DMAPOOL_NVME_STATUS` | `NvmeStatusError` | the controller completed a command with an error status |
 * | `ERR_DMAPOOL_NVME_TIMEOUT` | `NvmeTimeoutError` | a command, or the controller itself, timed out |
 * | `ERR_DMAPOOL_NVME_RESET` | `NvmeResetError` | the controller was reset while the command was in flight |
 * | `ERR_DMAPOOL_NVME_CLOSED` | `NvmeError` | the driver was closed |
 * | `ERR_DMAPOOL_NVME_NO_NAMESPACE` | `NvmeError` | no active namespace has that ID |
 * | `ERR_DMAPOOL_NVME_STALE_NAMESPACE` | `NvmeError` | the block size of the namespace may have changed since it was opened |
 * | `ERR_DMAPOOL_NVME_UNSUPPORTED` | `NvmeError` | the controller, namespace or command is not supported |
 * | `ERR_DMAPOOL_NVME_PROTOCOL` | `NvmeError` | the controller violated the specification or reported a fatal error |
 */
export type NvmeErrorCode =
  | 'ERR_DMAPOOL_NVME_STATUS'
  | 'ERR_DMAPOOL_NVME_TIMEOUT'
  | 'ERR_DMAPOOL_NVME_RESET'
  | 'ERR_DMAPOOL_NVME_CLOSED'
  | 'ERR_DMAPOOL_NVME_NO_NAMESPACE'
  | 'ERR_DMAPOOL_NVME_STALE_NAMESPACE'
  | 'ERR_DMAPOOL_NVME_UNSUPPORTED'
  | 'ERR_DMAPOOL_NVME_PROTOCOL';

/** Base class of this driver's errors. A command that failed with one no longer uses its memory. */
export class NvmeError extends DriverError<NvmeErrorCode> {}

/** Status field of a completion (NVMe 1.4, 4.6.1). */
export interface NvmeStatus {
  /** Status Code Type: 0 generic, 1 command specific, 2 media, 3 path, 7 vendor specific. */
  readonly statusCodeType: number;
  /** Status Code, 0 to 255. */
  readonly statusCode: number;
  /** Do Not Retry: the same command would fail again. */
  readonly doNotRetry: boolean;
}

/** The controller completed a command with an error status. */
export class NvmeStatusError extends NvmeError implements NvmeStatus {
  declare readonly code: 'ERR_DMAPOOL_NVME_STATUS';
  readonly statusCodeType: number;
  readonly statusCode: number;
  readonly doNotRetry: boolean;
  /** Name of the status in the specification: `LBA Out of Range`. */
  readonly status: string;

  constructor(device: string, what: string, status: NvmeStatus) {
    const { statusCodeType, statusCode, doNotRetry } = status;
    const name = nvmeStatusName(statusCodeType, statusCode);
    const retry = doNotRetry ? '; a retry would fail too' : '';
    const numbers = `${String(statusCodeType)}/0x${statusCode.toString(16).padStart(2, '0')}`;
    super('ERR_DMAPOOL_NVME_STATUS', device, `${what}: ${name} (status ${numbers}${retry})`);
    this.statusCodeType = statusCodeType;
    this.statusCode = statusCode;
    this.doNotRetry = doNotRetry;
    this.status = name;
  }

  /**
   * Compares the status.
   * @param type Status Code Type. @param code Status Code.
   * @returns True if both are equal.
   */
  is(type: number, code: number): boolean {
    return this.statusCodeType === type && this.statusCode === code;
  }
}

/** A command timed out and was aborted, or the controller did not become ready or stop in time. */
export class NvmeTimeoutError extends NvmeError {
  declare readonly code: 'ERR_DMAPOOL_NVME_TIMEOUT';

  constructor(device: string, message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_NVME_TIMEOUT', device, message, options);
  }
}

/**
 * The controller was reset while the command was in flight; a write may or may not have been done. `cause`: reason of
 * the reset.
 */
export class NvmeResetError extends NvmeError {
  declare readonly code: 'ERR_DMAPOOL_NVME_RESET';

  constructor(device: string, what: string, cause: Error) {
    super('ERR_DMAPOOL_NVME_RESET', device, `${what} was lost in a reset of the controller (${cause.message})`, {
      cause,
    });
  }
}

/** True for the error that says that the function was not stopped: it may still use the memory of its commands. */
export function isDmaActive(error: unknown): boolean {
  return error instanceof PciError && error.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE';
}
