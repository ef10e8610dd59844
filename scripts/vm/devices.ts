/** The devices of a machine, and their translation to QEMU's options. */

import { VmError } from './error.ts';
import { runTool } from './tools.ts';
import { unlinkedFile } from './unlinked-file.ts';

/** A device of the machine. In the given order, the devices have the PCI addresses 0000:00:10.0, 0000:00:11.0, ... */
export type VmDevice =
  | {
      /** An NVMe disk with one namespace, or a virtio disk behind the IOMMU (virtio 1.x only). */
      readonly kind: 'nvme' | 'virtio-blk';
      /** Size in bytes of a disk that is zero at first and ends with the machine. Excludes `image`. */
      readonly size?: number;
      /** Path of a raw image file. Writes to it persist. Excludes `size`. */
      readonly image?: string;
      /** Limit of the read rate, in bytes per second; unlimited by default. Faster reads are delayed. */
      readonly readRate?: number;
      /** Additional properties of QEMU's device, such as `max_ioqpairs=2`. */
      readonly properties?: string;
    }
  | {
      /** A network card: 82540EM (`e1000`) or 82574L (`e1000e`, with MSI-X). All cards are connected to one hub. */
      readonly kind: 'e1000' | 'e1000e';
      readonly properties?: string;
    }
  | {
      /** QEMU's educational device: a DMA engine with a mask, and a factorial unit. */
      readonly kind: 'edu';
      readonly properties?: string;
    }
  | {
      /** Any device of QEMU. A PCI device without `addr` and `bus` gets the next address; others take none. */
      readonly kind: 'raw';
      /** The value of QEMU's option `-device`, as `model,property=value,...`. JSON is passed on unchanged. */
      readonly device: string;
    };

/** QEMU's options for the devices, and the files that QEMU inherits for them. */
export interface DeviceArguments {
  readonly args: readonly string[];
  /** Descriptors in the order of their numbers in QEMU. The caller closes them after QEMU's start. */
  readonly files: readonly number[];
}

const FIRST_SLOT = 0x10;
// The chipset has slot 0x1f.
const LAST_SLOT = 0x1e;

/** Returns the PCI address of a device by its number, from 0, among those that get the next address. */
export function vmDeviceAddress(index: number): string {
  return `0000:00:${(FIRST_SLOT + index).toString(16)}.0`;
}

/** Returns whether the device gets the next address if its model is a PCI device. */
function lacksAddress({ device }: VmDevice & { kind: 'raw' }): boolean {
  return !device.startsWith('{') && !/,(?:addr|bus)=/.test(device);
}

/** Returns QEMU's models of PCI devices, with their aliases; an empty set if no device depends on them. */
export async function pciModels(qemu: string, devices: readonly VmDevice[]): Promise<ReadonlySet<string>> {
  const models = new Set<string>();
  if (!devices.some((device) => device.kind === 'raw' && lacksAddress(device))) return models;
  // Lines such as: name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"
  for (const line of (await runTool(qemu, ['-device', 'help'])).split('\n')) {
    const match = /^name "([^"]+)", bus PCI\b(?:, alias "([^"]+)")?/.exec(line);
    for (const name of match?.slice(1) ?? []) models.add(name);
  }
  return models;
}

/**
 * Translates devices to QEMU's options.
 *
 * @param firstFile The number of the first inherited file in QEMU.
 * @param models See {@link pciModels}.
 */
export function deviceArguments(
  devices: readonly VmDevice[],
  firstFile: number,
  models: ReadonlySet<string> = new Set(),
): DeviceArguments {
  const args: string[] = [];
  const files: number[] = [];
  let index = 0;
  const place = (): string => {
    const slot = FIRST_SLOT + index;
    if (slot > LAST_SLOT) {
      throw new VmError('ERR_VM_OPTION', `a machine can have at most ${LAST_SLOT - FIRST_SLOT + 1} devices`);
    }
    return `addr=0x${slot.toString(16)}`;
  };
  for (const device of devices) {
    if (device.kind === 'raw') {
      const model = /^(?:driver=)?([^,]*)/.exec(device.device)![1]!;
      const isPlaced = lacksAddress(device) && models.has(model);
      args.push('-device', isPlaced ? `${device.device},${place()}` : device.device);
      if (isPlaced) index++;
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
        // Debian has the network boot ROMs in another package. The machine does not need them.
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
      `a disk's size must be at least 1 MiB and a multiple of 512 bytes, not ${String(size)}`,
    );
  }
}

/** Returns a locally administered address, different for each card. */
function mac(index: number): string {
  return `52:54:00:d0:00:${index.toString(16).padStart(2, '0')}`;
}
