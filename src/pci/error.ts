import { DmaError } from '../errors.ts';

/** Why a PCI function could not do what was asked. */
export type PciErrorCode =
  | 'ERR_DMAPOOL_PCI_GONE'
  | 'ERR_DMAPOOL_PCI_RELEASE_REQUESTED'
  | 'ERR_DMAPOOL_PCI_FAULT'
  | 'ERR_DMAPOOL_PCI_DMA_ACTIVE'
  | 'ERR_DMAPOOL_PCI_CLOSED'
  | 'ERR_DMAPOOL_PCI_BUSY'
  | 'ERR_DMAPOOL_PCI_NOT_FOUND'
  | 'ERR_DMAPOOL_PCI_UNSUPPORTED'
  | 'ERR_DMAPOOL_PCI_PROTOCOL';

/**
 * A PCI function could not do what was asked: it has no such BAR or capability (`ERR_DMAPOOL_PCI_UNSUPPORTED`), somebody
 * has it open (`ERR_DMAPOOL_PCI_BUSY`), it was closed (`ERR_DMAPOOL_PCI_CLOSED`), there is none of that address
 * (`ERR_DMAPOOL_PCI_NOT_FOUND`), what it says of itself makes no sense (`ERR_DMAPOOL_PCI_PROTOCOL`), the kernel requests
 * its release (`ERR_DMAPOOL_PCI_RELEASE_REQUESTED`), it reported an uncorrectable error (`ERR_DMAPOOL_PCI_FAULT`), or its DMA
 * could not be stopped (`ERR_DMAPOOL_PCI_DMA_ACTIVE`).
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
 * The function is gone: it was unplugged, or does not answer any more (its vendor ID reads all ones). Nothing it was
 * told to do will be done. Its memory is released after `PciFunction.stopDma`, as always.
 */
export class PciGoneError extends PciError {
  declare readonly code: 'ERR_DMAPOOL_PCI_GONE';

  constructor(address: string, what: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_PCI_GONE', address, `the device is gone (${what})`, options);
  }
}
