import { checkInteger, INT_MAX } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';
import type { CoherentRequest, DmaTarget } from './coherent.ts';

/** A request whose parts were each read once: what was checked is what is used. */
export interface CheckedRequest {
  readonly device: DmaTarget;
  readonly mask: number;
  readonly size: number;
}

/** Checks what a source of memory was asked for; throws `DmaArgumentError`. */
export function checkRequest(request: CoherentRequest): CheckedRequest {
  if (typeof request !== 'object' || request === null) {
    throw new DmaArgumentError('request', request, 'an object with device, size and node');
  }
  const { device, size } = request;
  if (typeof device !== 'object' || device === null) throw new DmaArgumentError('device', device, 'a Device');
  const mask = device.dmaMask;
  checkInteger('device.dmaMask', mask, 0, Number.MAX_SAFE_INTEGER);
  checkInteger('size', size, 1, INT_MAX);
  return { device, mask, size };
}
