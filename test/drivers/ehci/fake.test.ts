/** What QEMU's EHCI controller does not do: a BIOS that holds on, slow ports, errors of its own, 64-bit addresses. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EhciController, UsbError } from 'dmapool/drivers/ehci';
import { PciFunction } from 'dmapool/pci';
import { FakeBackend } from '../../pci/fake-backend.ts';
import { RecordingLog } from '../../support/log.ts';
import { until } from '../../support/until.ts';
import { rejectsAs } from '../../support/errors.ts';

/** Where the operational registers are, and those that the tests look at (EHCI 1.0, 2.3). */
const OPERATIONAL = 0x20;
const COMMAND = OPERATIONAL;
const STATUS = OPERATIONAL + 0x04;
const SEGMENT = OPERATIONAL + 0x10;
const PORT_1 = OPERATIONAL + 0x44;
const HALTED = 0x1000;
const LEGACY = 0x68;
const BIOS_OWNED = 0x0001_0001;

/** The registers of a controller without a schedule: enough to start, to stop, and to be asked about its ports. */
class FakeEhci extends FakeBackend {
  biosLetsGo = true;
  /** The reset never ends. */
  stuck = false;

  constructor() {
    super();
    this.config.setUint32(8, 0x0c03_2010, true);
    this.config.setUint32(LEGACY, BIOS_OWNED, true);
    this.config.setUint32(LEGACY + 4, 0xe000_0011, true);
    this.registers.setUint8(0, OPERATIONAL);
    this.registers.setUint16(2, 0x0100, true);
    // Two ports with power switches; 64-bit addresses; the legacy capability.
    this.registers.setUint32(4, 0x12, true);
    this.registers.setUint32(8, (LEGACY << 8) | 1, true);
    this.registers.setUint32(STATUS, HALTED, true);
    this.registers.setUint32(SEGMENT, 0xdead, true);
  }

  get registers(): DataView {
    return this.regions.get(0)!;
  }

  get legacy(): number[] {
    return [this.config.getUint32(LEGACY, true), this.config.getUint32(LEGACY + 4, true)];
  }

  override async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    await super.writeConfig(offset, width, value);
    if (offset === LEGACY && this.biosLetsGo) this.config.setUint32(LEGACY, 0x0100_0001, true);
  }

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (offset === STATUS) {
      super.write(bar, offset, width, this.registers.getUint32(STATUS, true) & ~value);
    } else if (offset === COMMAND) {
      super.write(bar, offset, width, this.stuck ? value : value & ~2);
      this.registers.setUint32(STATUS, (value & 1) === 0 ? HALTED : 0, true);
    } else {
      super.write(bar, offset, width, value);
    }
  }
}

async function open(fake: FakeEhci): Promise<{ pci: PciFunction; log: RecordingLog }> {
  const log = new RecordingLog();
  return { pci: await PciFunction.open(fake, { log }), log };
}

test('a controller is taken over from the BIOS, which keeps it only if it does not let go', async () => {
  const kind = new FakeEhci();
  const { pci, log } = await open(kind);
  const controller = await EhciController.open(pci);
  assert.deepEqual(kind.legacy, [0x0100_0001, 0], 'ours, and no more system management interrupts');
  assert.equal(log.text, '');
  // Memory below 4 GiB, and a register that says so; ports with power.
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
  assert.match(second.log.text, /warn 0000:00:05\.0: the BIOS does not let go/);
  assert.deepEqual(stubborn.legacy, [0x0100_0000, 0]);
  await second.pci.close();
});

test('a controller that makes no sense, or does not reset, is not started', async () => {
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

test('a low-speed device goes to the companion without a reset', async () => {
  const fake = new FakeEhci();
  const { pci } = await open(fake);
  const controller = await EhciController.open(pci);
  // Connected, with power, not enabled, K state on the lines.
  fake.registers.setUint32(PORT_1, 0x1401, true);
  const error = await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_SPEED', controller.connect());
  assert.match(error.message, /port 1: a low-speed device/);
  assert.equal(fake.registers.getUint32(PORT_1, true), 0x3401, 'the companion owns it');
  await controller.close();
  await pci.close();
});

test('a host system error stops the controller', async () => {
  const fake = new FakeEhci();
  const { pci, log } = await open(fake);
  const controller = await EhciController.open(pci);
  fake.registers.setUint32(STATUS, 0x10, true);
  await until('the error is noticed', () => controller.ended.aborted);
  assert.match(String(controller.ended.reason), /host system error/);
  await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', controller.connect());
  assert.equal(await pci.isBusMaster(), false);
  await controller.close();
  assert.equal(log.text, '');
  await pci.close();
});
