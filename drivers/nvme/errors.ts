/**
 * What can go wrong with an NVMe controller. What goes wrong elsewhere keeps its own class: `DmaOutOfMemoryError` when
 * there is no memory, `PciGoneError` when the device was pulled out, `DmaArgumentError` for wrong arguments.
 */
import { DriverError } from '../common/error.ts';
import { nvmeStatusName } from './status.ts';

/**
 * The stable codes.
 *
 * | code | class | when |
 * | --- | --- | --- |
 * | `ERR_DMAPOOL_NVME_STATUS` | `NvmeStatusError` | the controller completed a command with an error |
 * | `ERR_DMAPOOL_NVME_TIMEOUT` | `NvmeTimeoutError` | a command, or the controller itself, took too long |
 * | `ERR_DMAPOOL_NVME_RESET` | `NvmeResetError` | the controller was reset while it had the command |
 * | `ERR_DMAPOOL_NVME_CLOSED` | `NvmeError` | the driver was closed |
 * | `ERR_DMAPOOL_NVME_NO_NAMESPACE` | `NvmeError` | there is no namespace of that ID |
 * | `ERR_DMAPOOL_NVME_STALE_NAMESPACE` | `NvmeError` | the namespace may have another block size than when it was opened |
 * | `ERR_DMAPOOL_NVME_UNSUPPORTED` | `NvmeError` | the controller or namespace needs what this driver has not |
 * | `ERR_DMAPOOL_NVME_PROTOCOL` | `NvmeError` | what the controller says makes no sense |
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

/** The base of this driver's errors. When a command fails with one, the controller is done with its memory. */
export class NvmeError extends DriverError<NvmeErrorCode> {}

/** What a completion says of its command (NVMe 1.4, 4.6.1). */
export interface NvmeStatus {
  /** Status Code Type: 0 generic, 1 command specific, 2 media, 3 path, 7 vendor specific. */
  readonly statusCodeType: number;
  /** Status Code, 0 to 255. */
  readonly statusCode: number;
  /** Do Not Retry: the same command would fail again. */
  readonly doNotRetry: boolean;
}

/** The controller completed a command with an error. */
export class NvmeStatusError extends NvmeError implements NvmeStatus {
  declare readonly code: 'ERR_DMAPOOL_NVME_STATUS';
  readonly statusCodeType: number;
  readonly statusCode: number;
  readonly doNotRetry: boolean;
  /** The specification's name of the status: `LBA Out of Range`. */
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
   * Says whether it is a certain status.
   * @param type Status Code Type. @param code Status Code.
   */
  is(type: number, code: number): boolean {
    return this.statusCodeType === type && this.statusCode === code;
  }
}

/** A command took too long and was aborted, or the controller did not become ready, or not stop, in time. */
export class NvmeTimeoutError extends NvmeError {
  declare readonly code: 'ERR_DMAPOOL_NVME_TIMEOUT';

  constructor(device: string, message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_NVME_TIMEOUT', device, message, options);
  }
}

/**
 * The controller was reset while it had the command: whether a write was done is not known. `cause` is why it was reset.
 */
export class NvmeResetError extends NvmeError {
  declare readonly code: 'ERR_DMAPOOL_NVME_RESET';

  constructor(device: string, what: string, cause: Error) {
    super('ERR_DMAPOOL_NVME_RESET', device, `${what} was lost in a reset of the controller (${cause.message})`, {
      cause,
    });
  }
}
