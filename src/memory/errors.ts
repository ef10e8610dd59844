/** Errors of coherent memory: mask, mappings, IOMMU faults, faulty sources. */
import { DmaError, hex } from '../errors.ts';

/** Memory was to be had, but only where the device can't reach it. Nothing was handed out. */
export class DmaMaskError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_MASK';
  /** The address that can't be reached, in bytes. */
  readonly dma: number;
  /** The device's mask: the highest address it reaches. */
  readonly mask: number;

  constructor(device: string, dma: number, size: number, mask: number) {
    super(
      'ERR_DMAPOOL_MASK',
      `${device}: memory at ${hex(dma)}-${hex(dma + size - 1)} is above the DMA mask ${hex(mask)}; ` +
        'use lower memory, or raise the mask',
    );
    this.dma = dma;
    this.mask = mask;
  }
}

/** Memory was mapped twice, or given back, unmapped or shared though it is not mapped; the call changed nothing. */
export class DmaMappingError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_NOT_MAPPED' | 'ERR_DMAPOOL_ALREADY_MAPPED';
  constructor(code: 'ERR_DMAPOOL_NOT_MAPPED' | 'ERR_DMAPOOL_ALREADY_MAPPED', message: string) {
    super(code, message);
  }
}

/** A device touched an address that is not mapped for it: what a real IOMMU would stop and report. */
export class IommuFaultError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_IOMMU_FAULT';
  /** The first faulting address, in bytes. */
  readonly dma: number;
  /** Name of the device that made the access. */
  readonly device: string;

  constructor(device: string, dma: number, access: string) {
    super('ERR_DMAPOOL_IOMMU_FAULT', `${device}: IOMMU fault: ${access} at ${hex(dma)}, which is not mapped`);
    this.dma = dma;
    this.device = device;
  }
}

/** A memory source broke its promises (alignment, exact addresses); what it gave was given back unused. */
export class DmaSourceError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_SOURCE';
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_SOURCE', message, options);
  }
}
