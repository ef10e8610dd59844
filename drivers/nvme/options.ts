/** How a controller is driven. */
import type { InterruptOptions } from 'dmapool/pci';
import { checkInteger, type OptionNames, readOptions } from 'dmapool/arguments';
import { MAX_DEPTH } from './queue-pair.ts';
import { PAGE_SIZE } from './registers.ts';

/** How to open an `NvmeController`. */
export interface NvmeOptions {
  /** I/O queue pairs, 1 to 64; the controller may have fewer. Default 1. */
  readonly queues?: number;
  /** Commands in flight on each, 1 to 1024; the controller may take fewer. Those beyond wait. Default 64. */
  readonly queueDepth?: number;
  /**
   * Milliseconds that a command may take before it is aborted, and then before the controller is reset, unless the command has
   * a time of its own ({@link NvmeCommandOptions}). An admin command is not aborted. Default 30000.
   */
  readonly timeout?: number;
  /**
   * Bytes of memory for data that is copied, 4 MiB to 1 GiB: commands beyond wait. Taken as it is needed. Default 16 MiB.
   */
  readonly bounceMemory?: number;
  /**
   * Which interrupts to use, and how often to look without. Default: the best there are. `{ kinds: ['poll'], pollInterval: 0 }`
   * asks each turn of the event loop; `{ busyPoll: 0.1 }` does so for a tenth of a millisecond, and then waits for the
   * interrupt.
   */
  readonly interrupts?: Omit<InterruptOptions, 'vectors'>;
}

/** How to submit one command. */
export interface NvmeCommandOptions {
  /**
   * Milliseconds that it may take. Default: the controller's `timeout`; for admin commands that take long, more: Format NVM
   * 10 minutes; Firmware Commit, Namespace Management, Security Send and Receive, and Sanitize 2 minutes; Firmware Image
   * Download and Namespace Attachment a minute.
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

/** Options with every default in place. */
export type CheckedNvmeOptions = Required<NvmeOptions>;

/** Most bytes of one command, whatever the controller takes: 1024 pages, which is the most that QEMU takes. */
export const MAX_TRANSFER: number = 4 * 1024 * 1024;

const MAX_TIMEOUT = 2 ** 30;
const COMMAND_OPTIONS: OptionNames<NvmeCommandOptions> = { timeout: true };

/** Checks a time-out; undefined stays so. @throws `DmaArgumentError` */
export function checkTimeout(timeout: number | undefined): number | undefined {
  if (timeout !== undefined) checkInteger('timeout', timeout, 1, MAX_TIMEOUT);
  return timeout;
}

/** @returns The time-out of a command, if it has one of its own. @throws `DmaArgumentError` */
export function commandTimeout(options: NvmeCommandOptions): number | undefined {
  return checkTimeout(readOptions('options', options, COMMAND_OPTIONS).timeout);
}

/** Checks the options. @throws `DmaArgumentError` */
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
