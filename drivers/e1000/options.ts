/** Options of the driver and their checks. */
import { DmaArgumentError } from 'dmapool';
import { checkBoolean, checkInteger, checkSignal, type OptionNames, readOptions } from 'dmapool/arguments';

/** Options of `E1000.open`. */
export interface E1000Options {
  /** Descriptors of the receive ring: a multiple of 8, 8 to 4096. Default 512. Each one always has a buffer. */
  readonly receiveDescriptors?: number;
  /** Descriptors of the transmit ring: a multiple of 8, 8 to 4096. Default 512. */
  readonly transmitDescriptors?: number;
  /**
   * Maximum number of packet buffers: in the receive ring, in the transmit ring and owned by the caller. More than
   * `receiveDescriptors`, at most 2^20. Default: `receiveDescriptors` + `transmitDescriptors` + 512. Each takes 2048
   * bytes from its first use on.
   */
  readonly buffers?: number;
  /** Receive packets for all addresses, multicasts included. Default false. */
  readonly promiscuous?: boolean;
}

/** Options of a wait. */
export interface E1000WaitOptions {
  /** Maximum milliseconds, 0 to 2^31-1. */
  readonly timeout?: number;
  /** Aborts the wait, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

const OPTIONS: OptionNames<E1000Options> = {
  receiveDescriptors: true,
  transmitDescriptors: true,
  buffers: true,
  promiscuous: true,
};
const WAIT_OPTIONS: OptionNames<E1000WaitOptions> = { timeout: true, signal: true };
const MAX_TIMEOUT = 2 ** 31 - 1;
const MAX_BUFFERS = 2 ** 20;

/** Checks the options of a wait and applies the default timeout. @internal */
export function checkWait(
  options: E1000WaitOptions,
  defaultTimeout: number,
): { timeout: number; signal: AbortSignal | undefined } {
  const { timeout = defaultTimeout, signal } = readOptions('options', options, WAIT_OPTIONS);
  checkInteger('timeout', timeout, 0, MAX_TIMEOUT);
  checkSignal('signal', signal);
  return { timeout, signal };
}

/** Checks the options and applies defaults. @internal */
export function checkOptions(options: E1000Options): Required<E1000Options> {
  const given = readOptions('options', options, OPTIONS);
  const { receiveDescriptors = 512, transmitDescriptors = 512, promiscuous = false } = given;
  for (const [name, value] of Object.entries({ receiveDescriptors, transmitDescriptors })) {
    if (!Number.isInteger(value) || value < 8 || value > 4096 || value % 8 !== 0) {
      throw new DmaArgumentError(name, value, 'a multiple of 8 from 8 to 4096');
    }
  }
  const { buffers = receiveDescriptors + transmitDescriptors + 512 } = given;
  if (!Number.isInteger(buffers) || buffers <= receiveDescriptors || buffers > MAX_BUFFERS) {
    throw new DmaArgumentError('buffers', buffers, `from ${String(receiveDescriptors + 1)} to ${String(MAX_BUFFERS)}`);
  }
  checkBoolean('promiscuous', promiscuous);
  return { receiveDescriptors, transmitDescriptors, buffers, promiscuous };
}
