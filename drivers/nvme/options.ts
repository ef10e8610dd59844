/** Options of the driver and their checks. */
import type { InterruptOptions } from 'dmapool/pci';
import { checkInteger, type OptionNames, readOptions } from 'dmapool/arguments';
import { MAX_DEPTH } from './queue-pair.ts';
import { PAGE_SIZE } from './registers.ts';

/** Options of `NvmeController.open`. */
export interface NvmeOptions {
  /** Number of I/O queue pairs, 1 to 64. The controller may grant fewer. Default 1. */
  readonly queues?: number;
  /** Commands in flight per queue, 1 to 1024. The controller may support fewer. Further commands wait. Default 64. */
  readonly queueDepth?: number;
  /**
   * Time limit of a command in milliseconds, after which it is aborted. If the limit expires again, the controller is
   * reset. {@link NvmeCommandOptions} overrides it for one command. Admin commands are not aborted. Default 30000.
   */
  readonly timeout?: number;
  /**
   * Maximum bytes of bounce buffers, 4 MiB to 1 GiB. They are allocated as needed; beyond the limit commands wait.
   * Default 16 MiB.
   */
  readonly bounceMemory?: number;
  /**
   * Kinds of interrupts, and polling. Default: the best kind available, and polling for a short time while the
   * controller is fast. `{ kinds: ['poll'], pollInterval: 0 }` polls each turn of the event loop. `{ busyPoll: 0.1 }`
   * does so for 0.1 ms and then waits for the interrupt; `{ busyPoll: 0 }` does not poll.
   */
  readonly interrupts?: Omit<InterruptOptions, 'vectors'>;
}

/** Options of one command. */
export interface NvmeCommandOptions {
  /**
   * Time limit in milliseconds. Default: the controller's `timeout`; at least 10 minutes for Format NVM; 2 minutes for
   * Firmware Commit, Namespace Management, Security Send, Security Receive and Sanitize; 1 minute for Firmware Image
   * Download and Namespace Attachment.
   */
  readonly timeout?: number;
}

const OPTIONS: OptionNames<NvmeOptions> = {
  queues: true,
  queueDepth: true,
  timeout: true,
  bounceMemory: true,
  interrupts: true,
};
const INTERRUPT_OPTIONS: OptionNames<NonNullable<NvmeOptions['interrupts']>> = {
  kinds: true,
  pollInterval: true,
  busyPoll: true,
};

/** Options with defaults applied. */
export type CheckedNvmeOptions = Required<NvmeOptions>;

/** Maximum bytes per command, whatever the controller supports: 1024 pages, the limit of QEMU. */
export const MAX_TRANSFER: number = 4 * 1024 * 1024;

const MAX_TIMEOUT = 2 ** 30;
const COMMAND_OPTIONS: OptionNames<NvmeCommandOptions> = { timeout: true };

/** Checks a time limit, which may be undefined. @throws `DmaArgumentError` */
export function checkTimeout(timeout: number | undefined): number | undefined {
  if (timeout !== undefined) checkInteger('timeout', timeout, 1, MAX_TIMEOUT);
  return timeout;
}

/** @returns The time limit in `options`; undefined if there is none. @throws `DmaArgumentError` */
export function commandTimeout(options: NvmeCommandOptions): number | undefined {
  return checkTimeout(readOptions('options', options, COMMAND_OPTIONS).timeout);
}

/** Checks the options and applies defaults. @throws `DmaArgumentError` */
export function checkNvmeOptions(options: NvmeOptions): CheckedNvmeOptions {
  const given = readOptions('options', options, OPTIONS);
  const { queues = 1, queueDepth = 64, timeout = 30_000, bounceMemory = 4 * MAX_TRANSFER } = given;
  const interrupts = readOptions('interrupts', given.interrupts ?? {}, INTERRUPT_OPTIONS);
  checkInteger('queues', queues, 1, 64);
  checkInteger('queueDepth', queueDepth, 1, MAX_DEPTH);
  checkInteger('timeout', timeout, 1, MAX_TIMEOUT);
  checkInteger('bounceMemory', bounceMemory, MAX_TRANSFER, 2 ** 30);
  return { queues, queueDepth, timeout, bounceMemory: bounceMemory - (bounceMemory % PAGE_SIZE), interrupts };
}
