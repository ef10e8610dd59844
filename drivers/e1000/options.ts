/** What the caller can choose, and its checks. */
import { DmaArgumentError } from 'dmapool';

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

const MAX_TIMEOUT = 2 ** 31 - 1;
const MAX_BUFFERS = 2 ** 20;

/** Checks how to wait; `usual` is the default of the time-out. @internal */
export function checkWait(
  options: E1000WaitOptions,
  usual: number,
): { timeout: number; signal: AbortSignal | undefined } {
  if (typeof options !== 'object' || options === null) throw new DmaArgumentError('options', options, 'an object');
  const { timeout = usual, signal } = options;
  if (!Number.isInteger(timeout) || timeout < 0 || timeout > MAX_TIMEOUT) {
    throw new DmaArgumentError('timeout', timeout, `milliseconds from 0 to ${String(MAX_TIMEOUT)}`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new DmaArgumentError('signal', signal, 'an AbortSignal');
  }
  return { timeout, signal };
}

/** Checks options and fills in the defaults. @internal */
export function checkOptions(options: E1000Options): Required<E1000Options> {
  if (typeof options !== 'object' || options === null) throw new DmaArgumentError('options', options, 'an object');
  const { receiveDescriptors = 512, transmitDescriptors = 512, promiscuous = false } = options;
  for (const [name, value] of Object.entries({ receiveDescriptors, transmitDescriptors })) {
    if (!Number.isInteger(value) || value < 8 || value > 4096 || value % 8 !== 0) {
      throw new DmaArgumentError(name, value, 'a multiple of 8 from 8 to 4096');
    }
  }
  const { buffers = receiveDescriptors + transmitDescriptors + 512 } = options;
  if (!Number.isInteger(buffers) || buffers <= receiveDescriptors || buffers > MAX_BUFFERS) {
    throw new DmaArgumentError('buffers', buffers, `from ${String(receiveDescriptors + 1)} to ${String(MAX_BUFFERS)}`);
  }
  if (typeof promiscuous !== 'boolean') throw new DmaArgumentError('promiscuous', promiscuous, 'true or false');
  return { receiveDescriptors, transmitDescriptors, buffers, promiscuous };
}
