import { DmaError } from 'dmapool';

/** The base of the drivers' errors. Each driver has codes of its own, listed at its class. */
export class DriverError<Code extends DmaError['code'] = DmaError['code']> extends DmaError {
  declare readonly code: Code;
  /** Where it happened: address of the function, such as `0000:00:04.0`; of a USB device, followed by its port and number. */
  readonly device: string;

  constructor(code: Code, device: string, message: string, options?: ErrorOptions) {
    super(code, `${device}: ${message}`, options);
    this.device = device;
  }
}
