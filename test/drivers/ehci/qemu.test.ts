/** The EHCI driver and USB mass storage on QEMU's models: data, enumeration, stalls, wrong use. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { DmaArgumentError } from 'dmapool';
import { EhciController, MassStorage, ScsiError, type UsbBuffer, UsbError } from 'dmapool/drivers/ehci';
import { startMachine, withoutQemu } from '../../qemu/qemu.ts';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { activeBlocks, MIB, startWithDisk, withController } from './fixture.ts';
import { Random } from '../../support/random.ts';

const skip = withoutQemu;

test(
  'a disk of 16 MiB read in full equals its image, and random writes and reads equal a model',
  { skip },
  async (t) => {
    const random = new Random(1);
    const model = random.bytes(16 * MIB);
    const { machine, file } = await startWithDisk(t, model);
    await withController(machine, async ({ pci, controller }) => {
      const disk = await MassStorage.open(await controller.connect());
      assert.deepEqual([disk.blocks, disk.blockSize, disk.maxLun], [32768, 512, 0]);
      assert.deepEqual([disk.vendor, disk.product], ['QEMU', 'QEMU HARDDISK']);
      const idle = activeBlocks(pci);
      const whole = new Uint8Array(model.length);
      await disk.read(0, whole);
      assert.ok(Buffer.from(whole.buffer).equals(model));

      for (let i = 0; i < 300; i++) {
        // Near the boundaries of pages, qTDs and commands, and at random places.
        const blocks = 1 + (i % 3 === 0 ? random.below(600) : [1, 7, 8, 9, 39, 40, 41, 255, 256, 257][i % 10]!);
        const lba = random.below(disk.blocks - blocks);
        const at = lba * 512;
        if (i % 2 === 0) {
          const bytes = random.bytes(blocks * 512);
          model.set(bytes, at);
          await disk.write(lba, bytes);
        } else {
          const bytes = new Uint8Array(blocks * 512);
          await disk.read(lba, bytes);
          assert.ok(Buffer.from(bytes.buffer).equals(model.subarray(at, at + bytes.length)), `read ${String(i)}`);
        }
      }
      await disk.flush();
      assert.ok(readFileSync(file).equals(model), 'the image equals the model');
      assert.deepEqual(activeBlocks(pci), idle, 'no transfer keeps a block');
    });
  },
);

test('concurrent reads and writes run in order, and zero-copy buffers keep their bytes', { skip }, async (t) => {
  const random = new Random(2);
  const { machine, file } = await startWithDisk(t, new Uint8Array(2 * MIB));
  await withController(machine, async ({ controller }) => {
    const disk = await MassStorage.open(await controller.connect());
    const pieces = Array.from({ length: 12 }, () => random.bytes(40 * 512));
    await Promise.all(pieces.map((piece, i) => disk.write(i * 40, piece)));
    const back = pieces.map((piece) => new Uint8Array(piece.length));
    await Promise.all(back.map((piece, i) => disk.read(i * 40, piece)));
    assert.deepEqual(back, pieces);

    const buffer = controller.buffer(128 * 1024);
    await disk.readInto(0, buffer, 128 * 1024);
    buffer.pages[31]!.bytes.fill(0xee);
    const writing = disk.writeFrom(1000, buffer, 128 * 1024);
    // From the call on the driver owns the buffer.
    throwsBusy(buffer);
    await new Promise((resolve) => setImmediate(resolve));
    throwsBusy(buffer);
    await writing;
    buffer.free();
    buffer.free();
    const image = readFileSync(file);
    assert.ok(image.subarray(512_000, 512_000 + 31 * 4096).equals(image.subarray(0, 31 * 4096)));
    assert.ok(image.subarray(512_000 + 31 * 4096, 512_000 + 32 * 4096).every((byte) => byte === 0xee));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', disk.readInto(0, buffer, 512));
  });
});

function throwsBusy(buffer: { free(): void }): void {
  assert.throws(
    () => {
      buffer.free();
    },
    { name: 'UsbError', code: 'ERR_DMAPOOL_USB_BUSY' },
  );
}

test('enumeration: descriptors, strings, used and empty ports, other devices', { skip }, async (t) => {
  const tablet = { driver: 'usb-tablet', id: 'tablet', bus: 'ehci.0', usb_version: 2 };
  const { machine } = await startWithDisk(t, new Uint8Array(MIB), {}, [tablet]);
  await withController(machine, async ({ controller, pci }) => {
    assert.deepEqual([controller.ports, controller.version], [6, 0x100]);
    const [stick, pointer] = [await controller.connect(), await controller.connect()];
    assert.deepEqual([stick.address, stick.port, pointer.address, pointer.port], [1, 1, 2, 2]);
    assert.deepEqual(controller.devices, [stick, pointer]);
    const { descriptor, configuration } = stick;
    assert.deepEqual([descriptor.vendorId, descriptor.productId, descriptor.packetSize0], [0x46f4, 1, 64]);
    assert.equal(await stick.string(descriptor.productIndex), 'QEMU USB HARDDRIVE');
    assert.equal(await stick.string(0), '');
    assert.deepEqual(
      configuration.interfaces[0]!.endpoints.map(({ address, type, packetSize }) => [address, type, packetSize]),
      [
        [0x81, 'bulk', 512],
        [0x02, 'bulk', 512],
      ],
    );
    assert.equal(pointer.configuration.interfaces[0]!.interfaceClass, 3);
    assert.equal(pointer.configuration.interfaces[0]!.endpoints[0]!.type, 'interrupt');

    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_BUSY', controller.connect({ port: 1 }));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_NO_DEVICE', controller.connect({ port: 3, wait: 0 }));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_NO_DEVICE', controller.connect({ wait: 20 }));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_UNSUPPORTED', MassStorage.open(pointer));
    await rejectsAs(
      UsbError,
      'ERR_DMAPOOL_USB_UNSUPPORTED',
      pointer.openBulk(pointer.configuration.interfaces[0]!.endpoints[0]!),
    );
    const disk = await MassStorage.open(stick);
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_BUSY', MassStorage.open(stick));
    await disk.close();
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', disk.read(0, new Uint8Array(512)));
    // A second close has no effect on the device that was opened after it.
    const next = await MassStorage.open(stick);
    await disk.close();
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_BUSY', MassStorage.open(stick));
    await next.close();

    // A released device can be enumerated again, and gets the free address.
    await stick.close();
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', stick.string(1));
    assert.equal(stick.removed.aborted, true);
    const again = await controller.connect();
    assert.deepEqual([again.port, again.address], [1, 1]);
    await (await MassStorage.open(again)).read(0, new Uint8Array(512));
    // The head, and a queue for each of four endpoints: two of number 0, two of the disk.
    assert.deepEqual(activeBlocks(pci), { usb_data: 0, ehci_qh: 5, ehci_qtd: 4 });
  });
});

test('an unsupported request is a stall or sense data, and the device works on', { skip }, async (t) => {
  const content = new Random(3).bytes(MIB);
  const { machine } = await startWithDisk(t, content);
  await withController(machine, async ({ controller, pci }) => {
    const device = await controller.connect();
    const disk = await MassStorage.open(device);
    const idle = activeBlocks(pci);
    const readsRight = async (): Promise<void> => {
      const bytes = new Uint8Array(100 * 512);
      await disk.read(7, bytes);
      assert.ok(Buffer.from(bytes.buffer).equals(content.subarray(7 * 512, 107 * 512)));
    };
    for (let round = 0; round < 3; round++) {
      // Endpoint 0: a descriptor that does not exist (USB 2.0, 8.5.3.4), with data and without.
      const unknown = { requestType: 'standard', recipient: 'device', request: 6, value: 0x7700, index: 0 } as const;
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', device.controlIn(unknown, 64));
      await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', device.controlOut({ ...unknown, requestType: 'vendor' }));
      await rejectsAs(
        UsbError,
        'ERR_DMAPOOL_USB_STALL',
        device.controlOut({ ...unknown, requestType: 'vendor' }, new Uint8Array(100)),
      );
      assert.equal((await device.string(1)).length > 0, true);
      // An unsupported command of the disk, with data and without.
      for (const length of [0, 36, 65536]) {
        const error = await rejectsAs(
          UsbError,
          'ERR_DMAPOOL_USB_SCSI',
          disk.command(Uint8Array.of(0xc1, 0, 0, 0, 0, 0), length),
        );
        assert.ok(error instanceof ScsiError);
        assert.deepEqual([error.operation, error.key, error.asc, error.ascq], [0xc1, 5, 0x20, 0]);
      }
      await readsRight();
      // Less data than the buffer has room for.
      for (const room of [36, 512, 20480, 40960, 131072]) {
        assert.equal((await disk.command(Uint8Array.of(0x12, 0, 0, 0, 36, 0), room)).length, 36);
      }
      assert.equal((await device.controlIn({ ...unknown, value: 0x0100 }, 4096)).length, 18);
      await readsRight();
    }
    assert.deepEqual(activeBlocks(pci), idle);
  });
});

test('a disk that was left in the middle of a command is reset, and works', { skip }, async (t) => {
  const content = new Random(5).bytes(MIB);
  const { machine } = await startWithDisk(t, content);
  await withController(machine, async ({ controller, pci }) => {
    const device = await controller.connect();
    const output = device.configuration.interfaces[0]!.endpoints[1]!;
    for (let round = 0; round < 3; round++) {
      // TEST UNIT READY without reading its status: the disk stalls the next command.
      const pipe = await device.openBulk(output);
      await pipe.send(Uint8Array.of(0x55, 0x53, 0x42, 0x43, ...new Uint8Array(10), 6, ...new Uint8Array(16)));
      await pipe.close();
      const stall = await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', MassStorage.open(device));
      assert.match(stall.message, /endpoint 2 out: the device responded with STALL/);
      assert.deepEqual(activeBlocks(pci), { usb_data: 0, ehci_qh: 2, ehci_qtd: 1 });
      const disk = await MassStorage.open(device);
      const bytes = new Uint8Array(content.length);
      await disk.read(0, bytes);
      assert.ok(Buffer.from(bytes.buffer).equals(content));
      await disk.close();
    }
  });
});

test('a halted endpoint stays halted until its halt is cleared', { skip }, async (t) => {
  const { machine } = await startWithDisk(t, new Uint8Array(MIB));
  await withController(machine, async ({ controller }) => {
    const device = await controller.connect();
    const [input, output] = device.configuration.interfaces[0]!.endpoints;
    const [inPipe, outPipe] = [await device.openBulk(input!), await device.openBulk(output!)];
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', outPipe.send(new Uint8Array(31)));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_STALL', inPipe.receive(13));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_UNSUPPORTED', inPipe.send(new Uint8Array(31)));
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_UNSUPPORTED', outPipe.receive(31));
    await inPipe.clearHalt();
    await outPipe.clearHalt();
    // TEST UNIT READY, built by the test. Its short answer ends the transfer, whatever the buffer size: the queue
    // continues at the alternate link of the first of up to five qTDs.
    for (const [i, room] of [512, 20_480, 20_481, 100_000, 512, 100_000].entries()) {
      const tag = i + 1;
      const cbw = new Uint8Array(31);
      cbw.set([0x55, 0x53, 0x42, 0x43, tag, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
      assert.equal(await outPipe.send(cbw), 31);
      const csw = await inPipe.receive(room);
      assert.equal(csw.length, 13);
      assert.deepEqual([...csw.subarray(0, 8)], [0x55, 0x53, 0x42, 0x53, tag, 0, 0, 0]);
      if (tag % 2 === 0) await inPipe.clearHalt();
    }
    await inPipe.close();
    await inPipe.close();
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CLOSED', inPipe.receive(13));
  });
});

test('slower devices are passed to the companion controller', { skip }, async (t) => {
  const machine = await startMachine(t, {
    devices: [
      { driver: 'ich9-usb-ehci1', id: 'ehci', addr: '1d.7', multifunction: true },
      { driver: 'ich9-usb-uhci1', id: 'uhci', addr: '1d.0', multifunction: true, masterbus: 'ehci.0', firstport: 0 },
      { driver: 'usb-tablet', bus: 'ehci.0', usb_version: 1 },
    ],
  });
  await withController(machine, async ({ controller }) => {
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_SPEED', controller.connect());
    // The port belongs to the companion controller.
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_NO_DEVICE', controller.connect({ wait: 50 }));
  });
});

test('the devices of one controller refuse a buffer of another', { skip }, async (t) => {
  const other = { driver: 'usb-ehci', id: 'other' };
  const { machine } = await startWithDisk(t, new Uint8Array(MIB), {}, [other]);
  await withController(machine, async ({ controller, pci }) => {
    const device = await controller.connect();
    const disk = await MassStorage.open(device);
    const idle = activeBlocks(pci);
    const otherPci = await machine.open('other');
    const stranger = await EhciController.open(otherPci);
    const foreign = stranger.buffer(4096);
    const invalid = 'ERR_DMAPOOL_INVALID_ARGUMENT';
    await rejectsCode(invalid, disk.readInto(0, foreign, 4096));
    await rejectsCode(invalid, disk.writeFrom(0, foreign, 4096));
    await disk.close();
    const pipe = await device.openBulk(device.configuration.interfaces[0]!.endpoints[0]!);
    await rejectsCode(invalid, pipe.transfer(foreign, 512));
    await pipe.close();
    const again = await MassStorage.open(device);
    await again.read(0, new Uint8Array(512));
    assert.deepEqual(activeBlocks(pci), idle);
    foreign.free();
    await stranger.close();
    await otherPci.close();
  });
});

test('a controller with a driver is refused to a second driver', { skip }, async (t) => {
  const content = new Random(6).bytes(MIB);
  const { machine } = await startWithDisk(t, content);
  await withController(machine, async ({ controller, pci }) => {
    const disk = await MassStorage.open(await controller.connect());
    const bytes = new Uint8Array(content.length);
    const reading = disk.read(0, bytes);
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', EhciController.open(pci));
    await reading;
    assert.ok(Buffer.from(bytes.buffer).equals(content));
    assert.equal(await pci.isBusMaster(), true);
    await controller.close();
    // Once it is free, another driver may open it.
    await (await EhciController.open(pci)).close();
  });
});

test('polling works like interrupts', { skip }, async (t) => {
  const content = new Random(4).bytes(MIB);
  const { machine } = await startWithDisk(t, content);
  await withController(
    machine,
    async ({ controller }) => {
      const disk = await MassStorage.open(await controller.connect());
      const bytes = new Uint8Array(content.length);
      await disk.read(0, bytes);
      assert.ok(Buffer.from(bytes.buffer).equals(content));
    },
    { interrupts: { kinds: ['poll'] } },
  );
});

test('wrong arguments are refused before any transfer', { skip }, async (t) => {
  const { machine } = await startWithDisk(t, new Uint8Array(MIB), {}, [{ driver: 'e1000', id: 'nic' }]);
  const nic = await machine.open('nic');
  await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', EhciController.open(nic));
  await nic.close();
  await withController(machine, async ({ controller, pci }) => {
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', EhciController.open(pci, { timeout: 0 }));
    const device = await controller.connect();
    const disk = await MassStorage.open(device);
    const setup = { requestType: 'standard', recipient: 'device', request: 0, value: 0, index: 0 } as const;
    const buffer = controller.buffer(512);
    const refused: (() => Promise<unknown>)[] = [
      () => disk.read(0, new Uint8Array(511)),
      () => disk.read(2048, new Uint8Array(512)),
      () => disk.read(2049, new Uint8Array(0)),
      () => disk.read(-1, new Uint8Array(512)),
      () => disk.read(0.5, new Uint8Array(512)),
      () => disk.write(2047, new Uint8Array(1024)),
      () => disk.read(0, undefined as unknown as Uint8Array),
      () => disk.readInto(0, buffer, 1024),
      () => disk.command(new Uint8Array(17)),
      () => disk.command(new Uint8Array(6), 0, 16),
      () => disk.read(0, new Uint8Array(512), { timeout: -1 }),
      () => controller.connect({ port: 7 }),
      () => controller.connect({ port: 0 }),
      () => device.controlIn({ ...setup, request: 256 }, 0),
      () => device.controlIn({ ...setup, recipient: 'moon' as 'device' }, 0),
      () => device.controlIn(setup, 65536),
      () => device.controlOut(setup, 'x' as unknown as Uint8Array),
      () => device.string(256),
    ];
    const never = null as never;
    refused.push(
      () => disk.read(0, new Array(512) as unknown as Uint8Array),
      () => disk.write(0, 'x'.repeat(512) as unknown as Uint8Array),
      () => disk.read(0, never),
      () => disk.readInto(0, never, 512),
      () => disk.readInto(0, Object.create(buffer) as UsbBuffer, 512),
      () => disk.read(0, new Uint8Array(512), never),
      () => disk.flush(never),
      () => controller.connect(never),
      () => EhciController.open(pci, never),
      () => MassStorage.open(never),
      () => device.openBulk(never),
      () => device.string(1.5),
      () => device.controlIn(setup, 0, never),
    );
    for (const call of refused) await assert.rejects(call, DmaArgumentError, String(call));
    for (const length of [-1, 1.5, 5 * MIB, NaN]) assert.throws(() => controller.buffer(length), DmaArgumentError);
    assert.throws(() => {
      buffer.set(new Uint8Array(513));
    }, DmaArgumentError);
    assert.throws(() => {
      buffer.set(never);
    }, DmaArgumentError);
    assert.throws(() => {
      buffer.copyTo(never);
    }, DmaArgumentError);
    buffer.free();
    await disk.read(2048, new Uint8Array(0));
  });
});
