/** What the calls here say on the device's log, in Linux's words. */
import type { Device } from '../device/device.ts';
import { type DmaError } from '../errors.ts';
import { DmaMaskError, DmaSourceError } from '../memory/errors.ts';
import { ceilPowerOfTwo } from '../arguments.ts';
import { __GFP_NOWARN, __GFP_ZERO, formatGfp, type gfp_t } from './gfp.ts';

/**
 * Linux's page allocator: one line when it has nothing to give, unless the caller asked it not to. There the name of the
 * task stands before it, here the device's.
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
 * For what an allocation threw: in Linux it would have been NULL where a memory source gives what the device can't reach
 * or breaks its promises. That goes to the log, since nobody else hears of it; anything else goes on.
 */
export function reportBadMemory(device: Device, call: string, error: unknown): null {
  if (!(error instanceof DmaMaskError || error instanceof DmaSourceError)) throw error;
  device.report('error', `${call} ${error.code}`, `${call} failed\n  ${error.message}`);
  return null;
}

/** One line of Linux's, and below it what our own error says. */
export function reportRefused(device: Device, kind: string, line: string, error: DmaError | null): void {
  device.report('error', kind, error === null ? line : `${line}\n  ${error.message}`);
}
