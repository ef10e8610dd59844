import { DmaError } from '../errors.ts';

/** Why something can't be done with a shared pool, or with a pool that is to be shared. */
export type SharingErrorCode =
  'ERR_DMAPOOL_NOT_SHAREABLE' | 'ERR_DMAPOOL_NOT_TRIMMABLE' | 'ERR_DMAPOOL_THREAD_ALIVE' | 'ERR_DMAPOOL_DECLARED_ENDED';

/**
 * The pool can't be shared (`ERR_DMAPOOL_NOT_SHAREABLE`), or is shared and so can't be trimmed
 * (`ERR_DMAPOOL_NOT_TRIMMABLE`); `reportWorkerExit()` was called for a thread that lives (`ERR_DMAPOOL_THREAD_ALIVE`), or for
 * the caller's own thread, before this call and by another worker (`ERR_DMAPOOL_DECLARED_ENDED`).
 */
export class DmaSharingError extends DmaError {
  declare readonly code: SharingErrorCode;

  constructor(code: SharingErrorCode, message: string) {
    super(code, message);
  }
}
