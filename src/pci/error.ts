import { DmaError } from '../errors.ts';

/** Codes of {@link PciError}. */
export type PciErrorCode =
  | 'ERR_DMAPOOL_PCI_GONE'
  | 'ERR_DMAPOOL_PCI_RELEASE_REQUESTED'
  | 'ERR_DMAPOOL_PCI_FAULT'
  | 'ERR_DMAPOOL_PCI_DMA_ACTIVE'
  | 'ERR_DMAPOOL_PCI_CLOSED'
  | 'ERR_DMAPOOL_PCI_BUSY'
  | 'ERR_DMAPOOL_PCI_NOT_FOUND'
  | 'ERR_DMAPOOL_PCI_UNSUPPORTED'
  | 'ERR_DMAPOOL_PCI_TIMEOUT'
  | 'ERR_DMAPOOL_PCI_PROTOCOL';

/**
 * An operation on a PCI function failed: it has no such BAR, capability or interrupt (`ERR_DMAPOOL_PCI_UNSUPPORTED`),
 * it is open already (`ERR_DMAPOOL_PCI_BUSY`), it was closed (`ERR_DMAPOOL_PCI_CLOSED`), no function has that address
 * (`ERR_DMAPOOL_PCI_NOT_FOUND`), its configuration space is invalid (`ERR_DMAPOOL_PCI_PROTOCOL`), the kernel requests
 * its release (`ERR_DMAPOOL_PCI_RELEASE_REQUESTED`), it reported an uncorrectable error (`ERR_DMAPOOL_PCI_FAULT`), its
 * DMA could not be stopped (`ERR_DMAPOOL_PCI_DMA_ACTIVE`), or a step of `close()` exceeded its time limit
 * (`ERR_DMAPOOL_PCI_TIMEOUT`).
 */
export class PciError extends DmaError {
  declare readonly code: PciErrorCode;
  /** Address of the function, such as `0000:00:04.0`. */
  readonly address: string;

  constructor(code: PciErrorCode, address: string, message: string, options?: ErrorOptions) {
    super(code, `${address}: ${message}`, options);
    this.address = address;
  }
}

/**
 * The function is gone: it was unplugged, or no longer responds (its vendor ID reads all ones). Outstanding commands
 * will not complete. Its memory is released after `PciFunction.stopDma`, as always.
 */
export class PciGoneError extends PciError {
  declare readonly code: 'ERR_DMAPOOL_PCI_GONE';

  constructor(address: string, what: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_PCI_GONE', address, `the device is gone (${what})`, options);
  }
}
