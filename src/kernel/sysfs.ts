/** Device attributes (Linux: `include/linux/device.h`, `include/linux/sysfs.h`). */
import { type Device, isDevice } from '../device/device.ts';
import { checkFunction, checkObject, reading } from '../arguments.ts';
import { DmaExistsError } from '../device/errors.ts';
import { DmaArgumentError, DmaError } from '../errors.ts';
import { cutToBytes, TEXT_BYTES } from '../pool/pools-attribute.ts';
import { EEXIST, EINVAL } from './errno.ts';

/** A read-only attribute (Linux: `struct device_attribute`), from {@link DEVICE_ATTR_RO}. */
export interface device_attribute {
  /** Name of its file. */
  readonly name: string;
  /** Returns its text; called at each read. {@link sysfs_emit} limits its length as Linux does. */
  readonly show: (dev: Device, attr: device_attribute) => string;
}

/**
 * Makes a read-only attribute. C's macro refers to `NAME_show`; here the function is a parameter.
 *
 * @param name A file name: not empty, no slash.
 * @param show Returns the text, in place of writing it to C's third argument.
 *
 * @example
 * ```ts
 * const dev_attr_speed = DEVICE_ATTR_RO('speed', () => sysfs_emit('480\n'));
 * const device = new Device({ name: '0000:00:1d.7' });
 * device_create_file(device, dev_attr_speed);
 * console.log(device.readAttribute('speed')); // 480
 * ```
 */
export function DEVICE_ATTR_RO(name: string, show: device_attribute['show']): device_attribute {
  return { name, show };
}

/**
 * Adds an attribute to a device.
 *
 * @param dev The device.
 * @param attr From {@link DEVICE_ATTR_RO}.
 * @returns 0; `-EEXIST` if the device has an attribute of that name; `-EINVAL` if `attr` is no attribute.
 * @throws `DmaArgumentError` if `dev` is no device.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const attr = DEVICE_ATTR_RO('companion', () => sysfs_emit('none\n'));
 * console.log(device_create_file(device, attr)); // 0
 * console.log(device_create_file(device, attr) === -EEXIST); // true
 * ```
 */
export function device_create_file(dev: Device, attr: device_attribute): number {
  checkDevice(dev);
  try {
    const { name, show } = read(attr);
    dev.addAttribute(name, () => show.call(attr, dev, attr));
    return 0;
  } catch (error) {
    if (!(error instanceof DmaError)) throw error;
    return error instanceof DmaExistsError ? -EEXIST : -EINVAL;
  }
}

/**
 * Removes the attribute of this name, if there is one.
 *
 * @param dev The device.
 * @param attr From {@link DEVICE_ATTR_RO}.
 * @throws `DmaArgumentError` if `dev` is no device.
 *
 * @example
 * ```ts
 * const device = new Device({ name: '0000:00:1d.7' });
 * const attr = DEVICE_ATTR_RO('speed', () => sysfs_emit('480\n'));
 * device_create_file(device, attr);
 * device_remove_file(device, attr);
 * console.log(device.attributeNames()); // []
 * ```
 */
export function device_remove_file(dev: Device, attr: device_attribute): void {
  checkDevice(dev);
  dev.removeAttribute(read(attr).name);
}

/**
 * Cuts the text of an attribute to 4095 bytes of UTF-8: a file of sysfs is one page, whose last byte is zero. A template
 * replaces C's format, and concatenation replaces `sysfs_emit_at`.
 *
 * @param text The whole text; a file of sysfs ends its lines with `\n`.
 * @returns The text, or its longest prefix of whole characters that fits.
 * @throws `DmaArgumentError` if `text` is no string.
 *
 * @example
 * ```ts
 * const queues = [3, 5];
 * const show = () => sysfs_emit(queues.map((depth, i) => `queue ${i}: ${depth}\n`).join(''));
 * console.log(show()); // queue 0: 3, and on the next line queue 1: 5
 * ```
 */
export function sysfs_emit(text: string): string {
  if (typeof text !== 'string') throw new DmaArgumentError('text', text, 'a text');
  return cutToBytes(text, TEXT_BYTES);
}

/** Reads each part of an attribute once. */
function read(attr: device_attribute): device_attribute {
  const accepted = 'an attribute from DEVICE_ATTR_RO()';
  checkObject('attr', attr, accepted);
  const parts = reading('attr', attr, accepted, () => ({ name: attr.name, show: attr.show }));
  checkFunction('attr.show', parts.show);
  return parts;
}

function checkDevice(dev: unknown): void {
  if (!isDevice(dev)) throw new DmaArgumentError('dev', dev, 'a Device');
}
