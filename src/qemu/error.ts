import { DmaError } from '../errors.ts';

/** Codes of {@link QemuError}. */
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
 * QEMU is missing (`ERR_DMAPOOL_QEMU_MISSING`) or too old (`_VERSION`), refused its arguments (`_REFUSED`) or a command
 * (`_COMMAND`), ended unexpectedly (`_DIED`), did not reply in time (`_TIMEOUT`), or violated its protocol
 * (`_PROTOCOL`); or the machine was closed (`_CLOSED`). The message quotes QEMU's output.
 */
export class QemuError extends DmaError {
  declare readonly code: QemuErrorCode;
  /** QEMU's standard error so far, or its error reply. May be empty. */
  readonly output: string;

  constructor(code: QemuErrorCode, message: string, output = '', options?: ErrorOptions) {
    const text = output.trim();
    super(code, text === '' ? `QEMU: ${message}` : `QEMU: ${message}; output: ${text}`, options);
    this.output = output;
  }
}
