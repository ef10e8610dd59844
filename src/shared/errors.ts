import { DmaError } from '../errors.ts';

/** The reasons of a {@link DmaSharingError}. */
export type SharingErrorCode =
  | 'ERR_DMAPOOL_NOT_SHAREABLE'
  | 'ERR_DMAPOOL_NOT_TRIMMABLE'
  | 'ERR_DMAPOOL_BAD_TICKET'
  | 'ERR_DMAPOOL_THREAD_ALIVE'
  | 'ERR_DMAPOOL_DECLARED_ENDED';

/**
 * A call that concerns sharing failed: the pool can't be shared (`ERR_DMAPOOL_NOT_SHAREABLE`); a shared pool can't be trimmed
 * (`ERR_DMAPOOL_NOT_TRIMMABLE`); the ticket's block is not in transit (`ERR_DMAPOOL_BAD_TICKET`); `reportWorkerExit()` was
 * called for a live thread (`ERR_DMAPOOL_THREAD_ALIVE`); or another worker reported the exit of the calling thread before
 * (`ERR_DMAPOOL_DECLARED_ENDED`).
 */
export class DmaSharingError extends DmaError {
  declare readonly code: SharingErrorCode;

  constructor(code: SharingErrorCode, message: string) {
    super(code, message);
  }
}
