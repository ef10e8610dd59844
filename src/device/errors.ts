/** Errors of devices: attributes and managed resources. */
import { DmaError } from '../errors.ts';

/** A device attribute of that name exists already. */
export class DmaExistsError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_EXISTS';
  constructor(message: string) {
    super('ERR_DMAPOOL_EXISTS', message);
  }
}

/** One or more managed resources failed to release; all were tried, `errors` has each failure in order. */
export class DmaReleaseError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_RELEASE';
  /** What each failing release threw, in the order of the releases. */
  readonly errors: readonly unknown[];

  constructor(message: string, errors: readonly unknown[]) {
    super('ERR_DMAPOOL_RELEASE', message, { cause: errors[0] });
    this.errors = errors;
  }
}
