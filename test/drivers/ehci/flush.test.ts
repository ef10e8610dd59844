/** A disk without SYNCHRONIZE CACHE, which QEMU's disk supports. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool } from 'dmapool';
import {
  type BulkPipe,
  type ConfigurationDescriptor,
  type EndpointDescriptor,
  MassStorage,
  ScsiError,
} from 'dmapool/drivers/ehci';
import { UsbBuffer } from '../../../drivers/ehci/buffer.ts';
import { type DeviceHost, UsbDevice } from '../../../drivers/ehci/device.ts';
import { rejectsAs } from '../../support/errors.ts';

const SYNCHRONIZE = 0x35;

/** A disk of 8 blocks that answers SYNCHRONIZE CACHE with an error of this sense key and code. */
class FakeDisk extends UsbDevice {
  readonly operations: number[] = [];
  readonly #pool = DmaPool.create('usb_data', new Device({ name: 'fake' }), { size: 4096, align: 4096 });
  readonly #key: number;
  readonly #asc: number;
  #failed = false;
  #tag = 0;
  #data: Uint8Array | null = null;

  constructor(key: number, asc: number) {
    super({ name: 'fake', port: 1, timeout: 1000 } as DeviceHost, 1);
    this.#key = key;
    this.#asc = asc;
  }

  override get configuration(): ConfigurationDescriptor {
    const endpoint = (direction: 'in' | 'out'): EndpointDescriptor => ({
      type: 'bulk',
      direction,
      number: 1,
      address: 1,
      packetSize: 512,
      interval: 0,
    });
    const endpoints = [endpoint('in'), endpoint('out')];
    const disk = { number: 0, interfaceClass: 8, interfaceSubclass: 6, interfaceProtocol: 0x50, endpoints };
    return { value: 1, interfaces: [disk] } as unknown as ConfigurationDescriptor;
  }

  override buffer(length: number): UsbBuffer {
    return new UsbBuffer(this.#pool, length);
  }

  override controlIn(): Promise<Uint8Array> {
    return Promise.resolve(Uint8Array.of(0));
  }

  override openBulk({ direction }: EndpointDescriptor): Promise<BulkPipe> {
    const transfer = (buffer: UsbBuffer, length: number): Promise<number> =>
      Promise.resolve(direction === 'out' ? this.#command(buffer, length) : this.#answer(buffer));
    const close = (): Promise<void> => Promise.resolve();
    return Promise.resolve({ transfer, close } as unknown as BulkPipe);
  }

  #command(buffer: UsbBuffer, length: number): number {
    const { view } = buffer.pages[0]!;
    const operation = view.getUint8(15);
    this.operations.push(operation);
    this.#tag = view.getUint32(4, true);
    this.#data = view.getUint32(8, true) === 0 ? null : this.#dataOf(operation);
    this.#failed = operation === SYNCHRONIZE;
    return length;
  }

  #dataOf(operation: number): Uint8Array {
    // Sense data of the fixed format; the capacity, 8 blocks of 512 bytes; an inquiry of zeros.
    if (operation === 0x03)
      return Uint8Array.of(0x70, 0, this.#key, 0, 0, 0, 0, 10, 0, 0, 0, 0, this.#asc, 0, 0, 0, 0, 0);
    return operation === 0x25 ? Uint8Array.of(0, 0, 0, 7, 0, 0, 2, 0) : new Uint8Array(36);
  }

  #answer(buffer: UsbBuffer): number {
    const data = this.#data;
    this.#data = null;
    if (data !== null) {
      buffer.set(data);
      return data.length;
    }
    const { view } = buffer.pages[0]!;
    view.setUint32(0, 0x53425355, true);
    view.setUint32(4, this.#tag, true);
    view.setUint32(8, 0, true);
    view.setUint8(12, this.#failed ? 1 : 0);
    return 13;
  }
}

test('flush() of a disk without SYNCHRONIZE CACHE succeeds, and does not send the command again', async () => {
  const device = new FakeDisk(5, 0x20);
  const disk = await MassStorage.open(device);
  await disk.flush();
  await disk.flush();
  assert.equal(device.operations.filter((operation) => operation === SYNCHRONIZE).length, 1);
});

test('flush() reports every other failure', async () => {
  // A medium error in a write; an illegal request because of a field of the command.
  for (const [key, asc] of [
    [3, 0x0c],
    [5, 0x24],
  ] as const) {
    const disk = await MassStorage.open(new FakeDisk(key, asc));
    await rejectsAs(ScsiError, 'ERR_DMAPOOL_USB_SCSI', disk.flush());
    await rejectsAs(ScsiError, 'ERR_DMAPOOL_USB_SCSI', disk.flush());
  }
});
