/** Messages of these calls on the device's log, worded as in Linux. */
import type { Device } from '../device/device.ts';
import { type DmaError } from '../errors.ts';
import { DmaMaskError, DmaSourceError } from '../memory/errors.ts';
import { ceilPowerOfTwo } from '../arguments.ts';
import { __GFP_NOWARN, __GFP_ZERO, formatGfp, type gfp_t } from './gfp.ts';

/**
 * Logs the line of Linux's page allocator for a failed allocation, unless `__GFP_NOWARN` is set. Linux begins it with the
 * name of the task, this package with that of the device.
 */
export function reportNoPages(device: Device, size: number, flags: gfp_t): void {
  if ((flags & __GFP_NOWARN) !== 0) return;
  const { pageSize } = device.memory;
  const order = Math.log2(ceilPowerOfTwo(Math.ceil(size / pageSize)));
  const kind = 'page allocation failure';
  const mode = formatGfp(flags & ~__GFP_ZERO);
  device.report('warn', kind, `${kind}: order:${String(order)}, mode:${mode}, nodemask=(null)`);
}

/**
 * Logs that the coherent allocator returned memory that the device can't reach, or broke its contract. The call then
 * returns null, as in Linux. Other errors are rethrown.
 */
export function reportBadMemory(device: Device, call: string, error: unknown): null {
  if (!(error instanceof DmaMaskError || error instanceof DmaSourceError)) throw error;
  device.report('error', `${call} ${error.code}`, `${call} failed\n  ${error.message}`);
  return null;
}

/** Logs a line worded as in Linux, and below it the message of our own error. */
export function reportRefused(device: Device, kind: string, line: string, error: DmaError | null): void {
  device.report('error', kind, error === null ? line : `${line}\n  ${error.message}`);
}
