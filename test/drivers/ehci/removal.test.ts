/** Removal in the middle of a transfer: of the device, the controller, the machine; and time-outs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type EhciController, MassStorage, type UsbDevice, UsbError, type UsbErrorCode } from 'dmapool/drivers/ehci';
import type { QemuMachine } from 'dmapool/qemu';
import { startMachine, withoutQemu } from '../../qemu/qemu.ts';
import { activeBlocks, type Bench, MIB, startWithDisk, withController } from './fixture.ts';
import { until } from '../../support/until.ts';
import { diskImage } from '../../support/disk-image.ts';
import { Random } from '../../support/random.ts';
import { rejectsAs } from '../../support/errors.ts';

const skip = withoutQemu;

/** So slow that a large read is in flight for some time. */
const SLOW = { 'throttling.bps-total': 200_000 };

/** Blocks of the controller itself: the ring's head, and a queue of endpoint 0 for each device. */
function idleWith(devices: number): Record<string, number> {
  return { usb_data: 0, ehci_qh: 1 + devices, ehci_qtd: devices };
}

async function startSlowRead({ controller, pci }: Bench): Promise<{ device: UsbDevice; reading: Promise<void> }> {
  const device = await controller.connect();
  const disk = await MassStorage.open(device);
  const reading = disk.read(0, new Uint8Array(MIB));
  reading.catch(() => undefined);
  // 128 KiB of data, and a page each for the command and its status.
  await until('the data transfer is in flight', () => activeBlocks(pci)['ehci_qtd'] === 3 + 7, 20_000);
  assert.equal(activeBlocks(pci)['usb_data'], 34);
  return { device, reading };
}

test(
  'a disk that is removed in mid-transfer: a typed error, every block is freed, and another disk can be attached',
  { skip },
  async (t) => {
    const { machine } = await startWithDisk(t, new Uint8Array(MIB), SLOW);
    const other = new Random(1).bytes(MIB);
    const file = diskImage(t, other);
    await withController(machine, async (bench) => {
      const { controller, pci } = bench;
      const { device, reading } = await startSlowRead(bench);
      await machine.qmp('device_del', { id: 'stick' });
      const error = await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_GONE', reading);
      assert.match(error.message, /0000:00:\w\w\.\d port 1: the device is gone/);
      assert.equal(device.removed.reason, error);
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_GONE', device.string(1));
      await until('every block is free', () => activeBlocks(pci)['ehci_qh'] === 1);
      assert.deepEqual(activeBlocks(pci), idleWith(0));
      assert.deepEqual(controller.devices, []);

      await machine.qmp('blockdev-add', { driver: 'file', 'node-name': 'other', filename: file });
      await machine.qmp('device_add', { driver: 'usb-storage', id: 'other', bus: 'ehci.0', drive: 'other' });
      const disk = await MassStorage.open(await controller.connect());
      const bytes = new Uint8Array(MIB);
      await disk.read(0, bytes);
      assert.ok(Buffer.from(bytes.buffer).equals(other));
    });
  },
);

test('a disk can be removed at any moment, repeatedly', { skip }, async (t) => {
  const content = new Random(2).bytes(MIB);
  const file = diskImage(t, content);
  const machine = await startMachine(t, { devices: [{ driver: 'usb-ehci', id: 'ehci' }] });
  await machine.qmp('blockdev-add', { driver: 'file', 'node-name': 'disk0', filename: file });
  const random = new Random(3);
  await withController(machine, async ({ controller, pci }) => {
    for (let round = 0; round < 12; round++) {
      const id = `stick${String(round)}`;
      await machine.qmp('device_add', { driver: 'usb-storage', id, bus: 'ehci.0', drive: 'disk0', 'share-rw': true });
      // During enumeration, while the disk is opened, or while it is used.
      const working = useDisk(controller, content).then(
        () => assert.fail('the attempt ends'),
        (error: unknown) => error,
      );
      await new Promise((resolve) => setTimeout(resolve, random.below(350)));
      await machine.qmp('device_del', { id });
      const error = await working;
      assert.ok(error instanceof UsbError, String(error));
      assert.ok(
        ['ERR_DMAPOOL_USB_GONE', 'ERR_DMAPOOL_USB_NO_DEVICE', 'ERR_DMAPOOL_USB_SPEED'].includes(error.code),
        error.message,
      );
      await until('every block is free', () => activeBlocks(pci)['ehci_qh'] === 1);
      assert.deepEqual(activeBlocks(pci), idleWith(0));
    }
  });
});

/** Uses a disk until a call fails. */
async function useDisk(controller: EhciController, content: Uint8Array): Promise<void> {
  const disk = await MassStorage.open(await controller.connect());
  const bytes = new Uint8Array(content.length);
  for (;;) {
    await disk.read(0, bytes);
    assert.ok(Buffer.from(bytes.buffer).equals(content));
    await disk.write(0, bytes);
  }
}

const ends: readonly (readonly [
  name: string,
  code: UsbErrorCode,
  end: (bench: Bench, machine: QemuMachine) => unknown,
])[] = [
  ['the controller is unplugged', 'ERR_DMAPOOL_USB_GONE', (_, machine) => machine.unplug('ehci')],
  ['QEMU is killed', 'ERR_DMAPOOL_USB_GONE', (_, machine) => process.kill(machine.pid, 'SIGKILL')],
  ['the machine is closed', 'ERR_DMAPOOL_USB_GONE', (_, machine) => machine.close()],
  ['the controller is closed', 'ERR_DMAPOOL_USB_CLOSED', ({ controller }) => controller.close()],
  ['the PCI function is closed under the driver', 'ERR_DMAPOOL_USB_CLOSED', ({ pci }) => pci.close()],
];
for (const [name, code, end] of ends) {
  test(`${name} in mid-transfer: a typed error, and every block is freed`, { skip }, async (t) => {
    const { machine } = await startWithDisk(t, new Uint8Array(MIB), SLOW);
    await withController(machine, async (bench) => {
      const { reading, device } = await startSlowRead(bench);
      await end(bench, machine);
      await rejectsAs(UsbError, code, reading);
      await rejectsAs(UsbError, code, device.string(1));
      await rejectsAs(UsbError, code, bench.controller.connect());
      assert.throws(() => bench.controller.buffer(1), { name: 'UsbError', code });
      await bench.controller.close();
      await bench.controller.close();
    });
  });
}

test('a halt is cleared after the transfers queued before it, and cancels none', { skip }, async (t) => {
  const content = new Random(5).bytes(MIB);
  const { machine } = await startWithDisk(t, content, SLOW);
  await withController(machine, async ({ controller }) => {
    const device = await controller.connect();
    // The first command reports a power-on; later ones need not.
    await (await MassStorage.open(device)).close();
    const [input, output] = device.configuration.interfaces[0]!.endpoints;
    const [inPipe, outPipe] = [await device.openBulk(input!), await device.openBulk(output!)];
    const patient = { timeout: 30_000 };
    for (let tag = 1; tag <= 3; tag++) {
      // READ (10) of 64 blocks, built by the test, which takes some time.
      const cbw = new Uint8Array(31);
      cbw.set([0x55, 0x53, 0x42, 0x43, tag, 0, 0, 0, 0, 0x80, 0, 0, 0x80, 0, 10, 0x28, 0, 0, 0, 0, 0, 0, 0, 64]);
      assert.equal(await outPipe.send(cbw), 31);
      let data: Uint8Array | undefined;
      const reading = inPipe.receive(64 * 512, patient).then((bytes) => {
        data = bytes;
      });
      await inPipe.clearHalt();
      assert.ok(data !== undefined, 'the data came first');
      assert.ok(Buffer.from(data.buffer).equals(content.subarray(0, 64 * 512)));
      await reading;
      assert.equal((await inPipe.receive(13, patient)).length, 13);
    }
    const closing = inPipe.receive(13, patient);
    const clearing = inPipe.clearHalt();
    const both = Promise.all([
      rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', closing),
      rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', clearing),
    ]);
    await inPipe.close();
    await both;
  });
});

test('a transfer that times out is cancelled, and the disk works again', { skip }, async (t) => {
  const content = new Random(4).bytes(MIB);
  const { machine } = await startWithDisk(t, content, SLOW);
  await withController(machine, async (bench) => {
    const disk = await MassStorage.open(await bench.controller.connect());
    const idle = activeBlocks(bench.pci);
    const bytes = new Uint8Array(128 * 1024);
    // The first read may succeed: the throttled disk has credit from its idle time.
    await disk.read(0, bytes, { timeout: 30_000 });
    for (let round = 0; round < 3; round++) {
      const error = await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_TIMEOUT', disk.read(0, bytes, { timeout: 50 }));
      assert.match(error.message, /endpoint 1 in: transfer not complete within 50 ms/);
      assert.deepEqual(activeBlocks(bench.pci), idle);
    }
    await disk.read(3, bytes.subarray(0, 512), { timeout: 30_000 });
    assert.deepEqual(bytes.subarray(0, 512), content.subarray(3 * 512, 4 * 512));
  });
});

test('a controller that stops by itself is detected, stopped for good, and keeps no block', { skip }, async (t) => {
  const { machine } = await startWithDisk(t, new Uint8Array(MIB), SLOW);
  await withController(
    machine,
    async (bench) => {
      const { reading, device } = await startSlowRead(bench);
      // Clears Run/Stop without the driver's knowledge: the doorbell is not answered any more (EHCI 1.0, 2.3.1).
      const { pci } = bench;
      const operational = await pci.bar(0).read8(0);
      pci.bar(0).write32(operational, (await pci.bar(0).read32(operational)) & ~1);
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', reading);
      assert.deepEqual(activeBlocks(pci), { usb_data: 0, ehci_qh: 0, ehci_qtd: 0 });
      assert.equal(await pci.isBusMaster(), false);
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', device.string(1));
    },
    { timeout: 200 },
  );
});
