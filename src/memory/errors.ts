/** Errors of coherent memory: DMA mask, mappings, IOMMU faults, allocators that break their contract. */
import { DmaError, hex } from '../errors.ts';

/** The only memory available is above the device's DMA mask. Nothing was allocated. */
export class DmaMaskError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_MASK';
  /** The address above the mask, in bytes. */
  readonly dma: number;
  /** The device's mask: the highest address that it can access. */
  readonly mask: number;

  constructor(device: string, dma: number, size: number, mask: number) {
    super(
      'ERR_DMAPOOL_MASK',
      `${device}: memory at ${hex(dma)}-${hex(dma + size - 1)} is above the DMA mask ${hex(mask)}; use lower memory`,
    );
    this.dma = dma;
    this.mask = mask;
  }
}

/** Memory to map is mapped already, or memory to free, unmap or share is not mapped. The call changed nothing. */
export class DmaMappingError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_NOT_MAPPED' | 'ERR_DMAPOOL_ALREADY_MAPPED';
  constructor(code: 'ERR_DMAPOOL_NOT_MAPPED' | 'ERR_DMAPOOL_ALREADY_MAPPED', message: string) {
    super(code, message);
  }
}

/** A device accessed an address that is not mapped for it. A hardware IOMMU would block and report the access. */
export class IommuFaultError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_IOMMU_FAULT';
  /** First faulting address, in bytes. */
  readonly dma: number;
  /** Name of the device that made the access. */
  readonly device: string;

  constructor(device: string, dma: number, access: string) {
    super('ERR_DMAPOOL_IOMMU_FAULT', `${device}: IOMMU fault: ${access} at ${hex(dma)}, which is not mapped`);
    this.dma = dma;
    this.device = device;
  }
}

/** A coherent allocator broke its contract (alignment, exact addresses). Its memory was freed unused. */
export class DmaSourceError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_SOURCE';
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_SOURCE', message, options);
  }
}
