import { DmaError } from '../errors.ts';

/** What can go wrong with a QEMU machine. */
export type QemuErrorCode =
  | 'ERR_DMAPOOL_QEMU_MISSING'
  | 'ERR_DMAPOOL_QEMU_VERSION'
  | 'ERR_DMAPOOL_QEMU_REFUSED'
  | 'ERR_DMAPOOL_QEMU_DIED'
  | 'ERR_DMAPOOL_QEMU_TIMEOUT'
  | 'ERR_DMAPOOL_QEMU_COMMAND'
  | 'ERR_DMAPOOL_QEMU_PROTOCOL'
  | 'ERR_DMAPOOL_QEMU_CLOSED';

/**
 * Something is wrong with QEMU: it is missing (`ERR_DMAPOOL_QEMU_MISSING`) or too old (`_VERSION`), refused what it was
 * started with (`_REFUSED`) or a command (`_COMMAND`), ended by itself (`_DIED`), does not answer in time (`_TIMEOUT`), says
 * what its protocols do not allow (`_PROTOCOL`), or the machine was closed (`_CLOSED`). The message has QEMU's own words.
 */
export class QemuError extends DmaError {
  declare readonly code: QemuErrorCode;
  /** What QEMU itself had to say: its standard error so far, or its answer. May be empty. */
  readonly output: string;

  constructor(code: QemuErrorCode, message: string, output = '', options?: ErrorOptions) {
    const words = output.trim();
    super(code, words === '' ? `QEMU: ${message}` : `QEMU: ${message}; it says: ${words}`, options);
    this.output = output;
  }
}
