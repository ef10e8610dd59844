import { DmaError } from 'dmapool';

/** Base class of the drivers' errors. Each driver has its own codes. */
export class DriverError<Code extends DmaError['code'] = DmaError['code']> extends DmaError {
  declare readonly code: Code;
  /** Address of the function, such as `0000:00:04.0`. For a USB device, its port and number follow. */
  readonly device: string;

  constructor(code: Code, device: string, message: string, options?: ErrorOptions) {
    super(code, `${device}: ${message}`, options);
    this.device = device;
  }
}
