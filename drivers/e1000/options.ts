/** What the caller can choose, and its checks. */
import { DmaArgumentError } from 'dmapool';
import { checkBoolean, checkInteger, checkSignal, type OptionNames, readOptions } from 'dmapool/arguments';

/** How to open a card. */
export interface E1000Options {
  /** Descriptors of the receive ring: a multiple of 8 from 8 to 4096. Default 512. Each has a buffer at all times. */
  readonly receiveDescriptors?: number;
  /** Descriptors of the transmit ring: a multiple of 8 from 8 to 4096. Default 512. */
  readonly transmitDescriptors?: number;
  /**
   * Most packet buffers in all: those of the receive ring, of packets being transmitted, and in the user's hands. At
   * least one more than the receive ring has, at most 2^20. Default: both rings' and 512 more. Each takes 2048 bytes
   * once it was needed.
   */
  readonly buffers?: number;
  /** Receive also what is for others, multicasts included. Default false. */
  readonly promiscuous?: boolean;
}

/** How to wait. */
export interface E1000WaitOptions {
  /** Milliseconds, 0 to 2^31-1. */
  readonly timeout?: number;
  /** Ends the wait; it is then rejected with the signal's reason. */
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

/** Checks how to wait; `usual` is the default of the time-out. @internal */
export function checkWait(
  options: E1000WaitOptions,
  usual: number,
): { timeout: number; signal: AbortSignal | undefined } {
  const { timeout = usual, signal } = readOptions('options', options, WAIT_OPTIONS);
  checkInteger('timeout', timeout, 0, MAX_TIMEOUT);
  checkSignal('signal', signal);
  return { timeout, signal };
}

/** Checks options and fills in the defaults. @internal */
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
