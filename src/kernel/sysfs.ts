/** Device attributes (Linux: `include/linux/device.h`, `include/linux/sysfs.h`). */
import { type Device, isDevice } from '../device/device.ts';
import { checkFunction, checkObject, reading } from '../arguments.ts';
import { DmaExistsError } from '../device/errors.ts';
import { DmaArgumentError, DmaError } from '../errors.ts';
import { cutToBytes, TEXT_BYTES } from '../pool/pools-attribute.ts';
import { EEXIST, EINVAL } from './errno.ts';

/** An attribute that can be read (Linux: `struct device_attribute`). Made by {@link DEVICE_ATTR_RO}. */
export interface device_attribute {
  /** Name of its file. */
  readonly name: string;
  /** Makes its text, at each read; {@link sysfs_emit} cuts it where Linux would. */
  readonly show: (dev: Device, attr: device_attribute) => string;
}

/**
 * An attribute that can be read. In C a macro that finds `NAME_show` by itself; here the function is given.
 *
 * @param name A file name: not empty, no slash.
 * @param show Makes the text. C's third argument, the buffer, is gone: the text is returned.
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
 * @returns 0; `-EEXIST` when there is one of that name; `-EINVAL` when it is no attribute.
 * @throws `DmaArgumentError` for what is no device.
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
 * Takes the attribute of this name away; nothing happens if there is none.
 *
 * @param dev The device.
 * @param attr From {@link DEVICE_ATTR_RO}.
 * @throws `DmaArgumentError` for what is no device.
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
 * The text of an attribute, cut to 4095 bytes of UTF-8: a file of sysfs is one page, the last byte of it zero. In place of
 * C's format a template, in place of `sysfs_emit_at` a longer text.
 *
 * @param text The whole text; a file of sysfs ends its lines with `\n`.
 * @returns The text, or as much of it as fits.
 * @throws `DmaArgumentError` for what is no text.
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

/** The parts of an attribute, each read once. */
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
