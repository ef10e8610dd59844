/** Errors of the e1000 driver. */
import { DriverError } from '../common/error.ts';

/** Codes of {@link E1000Error}. */
export type E1000ErrorCode =
  /** The function is not an 82540EM. */
  | 'ERR_DMAPOOL_E1000_UNSUPPORTED'
  /** The card did not complete an operation in time. */
  | 'ERR_DMAPOOL_E1000_TIMEOUT'
  /** The EEPROM's checksum is wrong, or it holds no unicast address. */
  | 'ERR_DMAPOOL_E1000_EEPROM'
  /** The driver was closed. */
  | 'ERR_DMAPOOL_E1000_CLOSED';

/**
 * An error of this driver. Errors of lower layers are passed on unchanged: `DmaOutOfMemoryError` (no buffers),
 * `DmaBlockError` (a packet that the caller does not own), `DmaArgumentError`, `PciGoneError` (the card was unplugged).
 */
export class E1000Error extends DriverError<E1000ErrorCode> {}
