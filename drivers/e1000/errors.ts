/** What goes wrong with a network card. All else has classes of its own in `dmapool` and `dmapool/pci`. */
import { DriverError } from '../common/error.ts';

/** The stable codes of {@link E1000Error}. */
export type E1000ErrorCode =
  /** The function is not an 82540EM. */
  | 'ERR_DMAPOOL_E1000_UNSUPPORTED'
  /** The card did not do something in time. */
  | 'ERR_DMAPOOL_E1000_TIMEOUT'
  /** The EEPROM's checksum is wrong, or it has no address. */
  | 'ERR_DMAPOOL_E1000_EEPROM'
  /** The driver was closed. */
  | 'ERR_DMAPOOL_E1000_CLOSED';

/**
 * An error of this driver. From the layers below come `DmaOutOfMemoryError` (no buffers), `DmaBlockError` (a packet that
 * is not the caller's), `DmaArgumentError`, and `PciGoneError` (the card was pulled out), each as it is.
 */
export class E1000Error extends DriverError<E1000ErrorCode> {}
