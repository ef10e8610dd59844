import { checkInteger, checkObject, checkText, INT_MAX, reading } from '../arguments.ts';
import { DmaMappingError } from './errors.ts';
import type { CoherentRequest, DmaTarget } from './coherent.ts';

/** A request whose fields were each read once, so that the checked values are the values used. */
export interface CheckedRequest {
  readonly device: DmaTarget;
  readonly mask: number;
  readonly size: number;
}

const ACCEPTED = 'an object with device and size';

/** Checks a request to a coherent allocator. @throws `DmaArgumentError` */
export function checkRequest(request: CoherentRequest): CheckedRequest {
  checkObject('request', request, ACCEPTED);
  const { device, size } = reading('request', request, ACCEPTED, () => ({
    device: request.device,
    size: request.size,
  }));
  const mask = checkTarget(device);
  checkInteger('size', size, 1, INT_MAX);
  return { device, mask, size };
}

/** Checks a device and returns its mask. @throws `DmaArgumentError` */
export function checkTarget(device: DmaTarget): number {
  const accepted = 'an object with name and dmaMask';
  checkObject('device', device, accepted);
  const { name, dmaMask } = reading('device', device, accepted, () => ({ name: device.name, dmaMask: device.dmaMask }));
  checkText('device.name', name);
  checkInteger('device.dmaMask', dmaMask);
  return dmaMask;
}

/** The error for a free of memory that is not live. */
export function notLive(device?: DmaTarget): DmaMappingError {
  return new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', `${device?.name ?? 'freeCoherent'}: this memory is not mapped`);
}
