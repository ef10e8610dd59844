/**
 * Errors of the EHCI driver. Invalid arguments are `DmaArgumentError`s; exhausted memory is a `DmaOutOfMemoryError`.
 */
import { DriverError } from '../common/error.ts';

/**
 * Codes of {@link UsbError}:
 *
 * | code | when |
 * | --- | --- |
 * | `ERR_DMAPOOL_USB_NO_DEVICE` | no device is connected |
 * | `ERR_DMAPOOL_USB_SPEED` | the device is not a high-speed device; its port was handed to the companion controller |
 * | `ERR_DMAPOOL_USB_STALL` | the device rejected the request, or halted the endpoint |
 * | `ERR_DMAPOOL_USB_TRANSACTION` | three attempts failed: no response, wrong CRC, or wrong PID |
 * | `ERR_DMAPOOL_USB_BABBLE` | the device sent more data than requested |
 * | `ERR_DMAPOOL_USB_DATA_BUFFER` | the controller could not keep up with the bus |
 * | `ERR_DMAPOOL_USB_TIMEOUT` | the transfer did not complete in time and was cancelled |
 * | `ERR_DMAPOOL_USB_GONE` | the device or its controller was unplugged |
 * | `ERR_DMAPOOL_USB_CLOSED` | the controller, device, pipe or buffer was closed |
 * | `ERR_DMAPOOL_USB_BUSY` | a buffer, port or endpoint is in use |
 * | `ERR_DMAPOOL_USB_UNSUPPORTED` | the device or endpoint does not support the operation |
 * | `ERR_DMAPOOL_USB_PROTOCOL` | the device violated its protocol: descriptors, bulk-only status |
 * | `ERR_DMAPOOL_USB_SCSI` | a SCSI command failed; see {@link ScsiError} |
 * | `ERR_DMAPOOL_USB_CONTROLLER` | the controller did not respond as specified, or reported an error; it was stopped |
 */
export type UsbErrorCode =
  | 'ERR_DMAPOOL_USB_NO_DEVICE'
  | 'ERR_DMAPOOL_USB_SPEED'
  | 'ERR_DMAPOOL_USB_STALL'
  | 'ERR_DMAPOOL_USB_TRANSACTION'
  | 'ERR_DMAPOOL_USB_BABBLE'
  | 'ERR_DMAPOOL_USB_DATA_BUFFER'
  | 'ERR_DMAPOOL_USB_TIMEOUT'
  | 'ERR_DMAPOOL_USB_GONE'
  | 'ERR_DMAPOOL_USB_CLOSED'
  | 'ERR_DMAPOOL_USB_BUSY'
  | 'ERR_DMAPOOL_USB_UNSUPPORTED'
  | 'ERR_DMAPOOL_USB_PROTOCOL'
  | 'ERR_DMAPOOL_USB_SCSI'
  | 'ERR_DMAPOOL_USB_CONTROLLER';

/** An error of the bus, a device or the controller. `code` identifies it. */
export class UsbError extends DriverError<UsbErrorCode> {}

/** Names of sense keys (SPC-4). */
const SENSE_KEYS: readonly string[] = [
  'no sense',
  'recovered error',
  'not ready',
  'medium error',
  'hardware error',
  'illegal request',
  'unit attention',
  'data protect',
  'blank check',
  'vendor specific',
  'copy aborted',
  'aborted command',
  'reserved',
  'volume overflow',
  'miscompare',
  'completed',
];

/** A SCSI command ended with CHECK CONDITION. The fields hold the device's sense data (SPC-4). */
export class ScsiError extends UsbError {
  /** Operation code of the command. */
  readonly operation: number;
  /** Sense key, 0 to 15, such as 5: illegal request. */
  readonly key: number;
  /** Additional sense code. */
  readonly asc: number;
  /** Additional sense code qualifier. */
  readonly ascq: number;

  constructor(device: string, operation: number, key: number, asc: number, ascq: number) {
    const code = (value: number): string => `${value.toString(16).padStart(2, '0')}h`;
    super(
      'ERR_DMAPOOL_USB_SCSI',
      device,
      `SCSI command ${code(operation)} failed: ${SENSE_KEYS[key]!}, sense code ${code(asc)}/${code(ascq)}`,
    );
    this.operation = operation;
    this.key = key;
    this.asc = asc;
    this.ascq = ascq;
  }
}
