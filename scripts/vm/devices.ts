/** The devices that a machine can be given, as QEMU's options. */

import { VmError } from './error.ts';
import { unlinkedFile } from './unlinked-file.ts';

/** A device of the machine. It gets the next free PCI address from 0000:00:10.0 on, in the order given. */
export type VmDevice =
  | {
      /** An NVMe disk with one namespace, or a virtio disk behind the IOMMU (virtio 1.x only). */
      readonly kind: 'nvme' | 'virtio-blk';
      /** Bytes; zeros at first, and gone with the machine. Not with `image`. */
      readonly size?: number;
      /** A raw image file to use instead; what is written stays. */
      readonly image?: string;
      /** Bytes a second that can be read of it; more are kept waiting. Default: without limit. */
      readonly readRate?: number;
      /** More of QEMU's properties, such as `max_ioqpairs=2`. */
      readonly properties?: string;
    }
  | {
      /** A network card: 82540EM (`e1000`) or 82574L (`e1000e`, which has MSI-X). All cards are on one hub. */
      readonly kind: 'e1000' | 'e1000e';
      readonly properties?: string;
    }
  | {
      /** QEMU's device for teaching: a DMA engine with a mask, and a factorial. */
      readonly kind: 'edu';
      readonly properties?: string;
    }
  | {
      /** Anything else, as after `-device`. With `addr=` or `bus=` it is where these say, and takes no address here. */
      readonly kind: 'raw';
      readonly device: string;
    };

/** The options for the devices, and the files that QEMU inherits for them. */
export interface DeviceArguments {
  readonly args: readonly string[];
  /** Descriptors to pass on, in the order of their numbers in QEMU, and to close here afterwards. */
  readonly files: readonly number[];
}

const FIRST_SLOT = 0x10;
// The last ones are the chipset's own functions.
const LAST_SLOT = 0x1e;

/** The PCI address of the n-th device (from 0) without one of its own, such as `0000:00:10.0`. */
export function vmDeviceAddress(index: number): string {
  return `0000:00:${(FIRST_SLOT + index).toString(16)}.0`;
}

/** Translates devices to QEMU's options. `firstFile` is the number that the first inherited file has in QEMU. */
export function deviceArguments(devices: readonly VmDevice[], firstFile: number): DeviceArguments {
  const args: string[] = [];
  const files: number[] = [];
  let index = 0;
  const place = (): string => {
    const slot = FIRST_SLOT + index;
    if (slot > LAST_SLOT) {
      throw new VmError('ERR_VM_OPTION', `a machine has room for ${LAST_SLOT - FIRST_SLOT + 1} devices`);
    }
    return `addr=0x${slot.toString(16)}`;
  };
  for (const device of devices) {
    if (device.kind === 'raw') {
      const isPlaced = /,(?:addr|bus)=/.test(device.device);
      args.push('-device', isPlaced ? device.device : `${device.device},${place()}`);
      if (!isPlaced) index++;
      continue;
    }
    const id = `${device.kind}-${index}`;
    const more = device.properties === undefined ? '' : `,${device.properties}`;
    switch (device.kind) {
      case 'nvme':
      case 'virtio-blk': {
        let image = device.image;
        if (image === undefined) {
          checkDiskSize(device.size);
          image = `/dev/fdset/${index}`;
          args.push('-add-fd', `fd=${firstFile + files.length},set=${index}`);
          files.push(unlinkedFile(device.size));
        }
        const disk = rawBlockDevice(`${id}-disk`, image);
        if (device.readRate === undefined) {
          args.push('-blockdev', JSON.stringify(disk));
        } else {
          const group = { 'qom-type': 'throttle-group', id: `${id}-rate`, limits: { 'bps-read': device.readRate } };
          const { 'node-name': name, ...file } = disk;
          args.push('-object', JSON.stringify(group));
          args.push(
            '-blockdev',
            JSON.stringify({ driver: 'throttle', 'node-name': name, 'throttle-group': group.id, file }),
          );
        }
        const driver = device.kind === 'nvme' ? 'nvme' : 'virtio-blk-pci,disable-legacy=on,iommu_platform=on';
        args.push('-device', `${driver},id=${id},drive=${id}-disk,serial=dmapool-${index},${place()}${more}`);
        break;
      }
      case 'e1000':
      case 'e1000e':
        args.push('-netdev', `hubport,id=${id}-net,hubid=0`);
        // Without the network boot ROM, which is in a package of its own.
        args.push('-device', `${device.kind},id=${id},netdev=${id}-net,mac=${mac(index)},romfile=,${place()}${more}`);
        break;
      case 'edu':
        args.push('-device', `edu,id=${id},${place()}${more}`);
        break;
    }
    index++;
  }
  return { args, files };
}

function rawBlockDevice(
  name: string,
  filename: string,
): { readonly driver: string; readonly 'node-name': string; readonly file: object } {
  return { driver: 'raw', 'node-name': name, file: { driver: 'file', filename, locking: 'off' } };
}

function checkDiskSize(size: number | undefined): asserts size is number {
  if (size === undefined || !Number.isSafeInteger(size) || size < 2 ** 20 || size % 512 !== 0) {
    throw new VmError(
      'ERR_VM_OPTION',
      `a disk's size is 1 MiB or more and a multiple of 512 bytes, not ${String(size)}`,
    );
  }
}

/** Locally administered, and different for each card. */
function mac(index: number): string {
  return `52:54:00:d0:00:${index.toString(16).padStart(2, '0')}`;
}
