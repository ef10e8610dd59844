/** Errors of devices: attributes and managed resources. */
import { DmaError } from '../errors.ts';

/** The device has an attribute of that name already. */
export class DmaExistsError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_EXISTS';
  constructor(message: string) {
    super('ERR_DMAPOOL_EXISTS', message);
  }
}

/** One or more releases failed. All were called. */
export class DmaReleaseError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_RELEASE';
  /** The exceptions, in the order of the releases; the first is also the `cause`. */
  readonly errors: readonly unknown[];

  constructor(message: string, errors: readonly unknown[]) {
    super('ERR_DMAPOOL_RELEASE', message, { cause: errors[0] });
    this.errors = errors;
  }
}
