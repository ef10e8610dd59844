/**
 * Behaviour that QEMU's EHCI controller lacks: a BIOS that keeps ownership, slow ports, host system errors, 64-bit
 * addresses.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EhciController, UsbError } from 'dmapool/drivers/ehci';
import { PciFunction } from 'dmapool/pci';
import { RecordingLog } from '../../support/log.ts';
import { until } from '../../support/until.ts';
import { rejectsAs } from '../../support/errors.ts';
import { COMMAND, FakeEhci, PORT_1, SEGMENT, STATUS } from './fake-ehci.ts';

async function open(fake: FakeEhci): Promise<{ pci: PciFunction; log: RecordingLog }> {
  const log = new RecordingLog();
  return { pci: await PciFunction.open(fake, { log }), log };
}

test('a controller is taken over from the BIOS, even if the BIOS does not release it', async () => {
  const kind = new FakeEhci();
  const { pci, log } = await open(kind);
  const controller = await EhciController.open(pci);
  assert.deepEqual(kind.legacy, [0x0100_0001, 0], 'owned by the OS, without system management interrupts');
  assert.equal(log.text, '');
  // The segment register is 0: memory is below 4 GiB. The ports have power.
  assert.equal(kind.registers.getUint32(SEGMENT, true), 0);
  assert.equal(pci.device.dmaMask, 0xffff_ffff);
  assert.equal(kind.registers.getUint32(PORT_1, true), 0x1000);
  await controller.close();
  assert.equal(kind.registers.getUint32(COMMAND, true) & 1, 0);
  await pci.close();

  const stubborn = new FakeEhci();
  stubborn.biosLetsGo = false;
  const second = await open(stubborn);
  await (await EhciController.open(second.pci)).close();
  assert.match(second.log.text, /warn 0000:00:05\.0: the BIOS did not release the controller/);
  assert.deepEqual(stubborn.legacy, [0x0100_0000, 0]);
  await second.pci.close();
});

test('a controller with invalid registers, or one that does not reset, is not started', async () => {
  for (const spoil of [
    (fake: FakeEhci) => {
      fake.registers.setUint8(0, 0xfd);
    },
    (fake: FakeEhci) => {
      fake.registers.setUint32(4, 0, true);
    },
    (fake: FakeEhci) => {
      fake.stuck = true;
    },
  ]) {
    const fake = new FakeEhci();
    spoil(fake);
    const { pci, log } = await open(fake);
    await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', EhciController.open(pci));
    assert.deepEqual([pci.device.attributeNames(), log.text], [[], '']);
    assert.equal(await pci.isBusMaster(), false);
    await pci.close();
  }
});

test('a low-speed device is passed to the companion controller without a reset', async () => {
  const fake = new FakeEhci();
  const { pci } = await open(fake);
  const controller = await EhciController.open(pci);
  // Connected, with power, not enabled, K state on the lines.
  fake.registers.setUint32(PORT_1, 0x1401, true);
  const error = await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_SPEED', controller.connect());
  assert.match(error.message, /port 1: a low-speed device/);
  assert.equal(fake.registers.getUint32(PORT_1, true), 0x3401, 'the companion controller owns the port');
  await controller.close();
  await pci.close();
});

test('a host system error stops the controller', async () => {
  const fake = new FakeEhci();
  const { pci, log } = await open(fake);
  const controller = await EhciController.open(pci);
  fake.registers.setUint32(STATUS, 0x10, true);
  await until('the error is detected', () => controller.ended.aborted);
  assert.match(String(controller.ended.reason), /host system error/);
  await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', controller.connect());
  assert.equal(await pci.isBusMaster(), false);
  await controller.close();
  assert.equal(log.text, '');
  await pci.close();
});

test('a port change during its reset neither ends the reset nor starts another one', async () => {
  const fake = new FakeEhci();
  const { pci } = await open(fake);
  const controller = await EhciController.open(pci, { timeout: 50 });
  fake.registers.setUint32(PORT_1, 0x1001, true);
  fake.restless = true;
  const attempts = 6;
  for (let i = 0; i < attempts; i++) await assert.rejects(controller.connect());
  assert.equal(fake.portResets.length, attempts, String(fake.portResets));
  assert.ok(Math.min(...fake.portResets) >= 49, String(fake.portResets));
  await controller.close();
  await pci.close();
});
