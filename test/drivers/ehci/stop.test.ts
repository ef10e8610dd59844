/** No memory is released under a controller that may still use it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaPool } from 'dmapool';
import { EhciController } from 'dmapool/drivers/ehci';
import { PciError, PciFunction } from 'dmapool/pci';
import { setTimeout as delay } from 'node:timers/promises';
import { OperationalRegisters } from '../../../drivers/ehci/registers.ts';
import { AsyncSchedule } from '../../../drivers/ehci/schedule.ts';
import { DESCRIPTOR_POOL, LINK, QH, type QhBlock, TOKEN, writeQueueHead } from '../../../drivers/ehci/structures.ts';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { inVirtualTime } from '../../guard/virtual-clock.ts';
import { FakeInterrupts } from '../../pci/fake-backend.ts';
import { RecordingLog } from '../../support/log.ts';
import { until } from '../../support/until.ts';
import { COMMAND, FakeEhci, OPERATIONAL, PORT_1, STATUS } from './fake-ehci.ts';
import { activeBlocks } from './fixture.ts';

const ASYNC_LIST = OPERATIONAL + 0x18;

/** A controller with a control transfer in flight, which fails when the controller stops. */
async function atWork(): Promise<{
  fake: FakeEhci;
  pci: PciFunction;
  log: RecordingLog;
  controller: EhciController;
  connecting: Promise<unknown>;
}> {
  const fake = new FakeEhci();
  const log = new RecordingLog();
  const pci = await PciFunction.open(fake, { log });
  const controller = await EhciController.open(pci, { timeout: 60_000 });
  fake.registers.setUint32(PORT_1, 0x1001, true);
  const connecting = controller.connect().then(
    (device) => device.string(1),
    (error: unknown) => error,
  );
  await until('a transfer is in flight', () => activeBlocks(pci)['ehci_qtd']! > 1);
  return { fake, pci, log, controller, connecting };
}

test('memory is kept, counted and reported while the controller cannot be stopped; a later close releases it', async () => {
  const { fake, pci, log, controller, connecting } = await atWork();
  const before = activeBlocks(pci);
  Object.assign(fake, { stuck: true, sticks: true });
  await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', controller.close());
  await connecting;
  assert.deepEqual(activeBlocks(pci), before);
  assert.match(log.text, /error 0000:00:05\.0: 2 queue heads, \d transfer descriptors and 0 pages are kept/);
  await rejectsCode('ERR_DMAPOOL_PCI_BUSY', EhciController.open(pci));
  Object.assign(fake, { stuck: false, sticks: false });
  await controller.close();
  assert.equal(pci.device.bytesAllocated, 0);
  await controller.close();
  await (await EhciController.open(pci)).close();
  await pci.close();
});

test('memory that is kept is released when the function is closed successfully', async () => {
  const { fake, pci, controller, connecting } = await atWork();
  Object.assign(fake, { stuck: true, sticks: true });
  await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', controller.close());
  await connecting;
  await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
  assert.notEqual(pci.device.bytesAllocated, 0);
  fake.sticks = false;
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
});

test('memory is kept when the device is detached while the controller runs', async () => {
  const { pci, log, controller, connecting } = await atWork();
  pci.device.detach();
  await connecting;
  assert.notEqual(pci.device.bytesAllocated, 0);
  assert.match(log.text, /are kept: its device was detached/);
  await controller.close();
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
});

test('memory is kept, and no other driver gets the function, when a start fails and the controller cannot be stopped', async () => {
  const fake = new FakeEhci();
  const log = new RecordingLog();
  const pci = await PciFunction.open(fake, { log });
  fake.onRun = () => {
    Object.assign(fake, { stuck: true, sticks: true });
    throw new Error('the bus broke');
  };
  await assert.rejects(EhciController.open(pci), /the bus broke/);
  assert.match(log.text, /1 queue heads, 0 transfer descriptors and 0 pages are kept/);
  assert.notEqual(pci.device.bytesAllocated, 0);
  Object.assign(fake, { stuck: false, sticks: false, onRun: () => undefined });
  await rejectsCode('ERR_DMAPOOL_PCI_BUSY', EhciController.open(pci));
  await pci.close();
  assert.equal(pci.device.bytesAllocated, 0);
});

test('a failed start keeps nothing when the controller can be stopped', async () => {
  const fake = new FakeEhci();
  const pci = await PciFunction.open(fake, { log: new RecordingLog() });
  fake.onRun = () => {
    fake.onRun = (): void => undefined;
    throw new Error('the bus broke');
  };
  await assert.rejects(EhciController.open(pci), /the bus broke/);
  assert.equal(pci.device.bytesAllocated, 0);
  await (await EhciController.open(pci)).close();
  await pci.close();
});

test('memory is released, and the close ends, when the interrupts do not close', () =>
  inVirtualTime(async () => {
    const fake = new FakeEhci();
    fake.interrupts = new FakeInterrupts('msi');
    fake.interrupts.close = () => new Promise(() => undefined);
    const pci = await PciFunction.open(fake, { log: new RecordingLog() });
    const controller = await EhciController.open(pci);
    await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_TIMEOUT', controller.close());
    assert.equal(pci.device.bytesAllocated, 0);
    pci.claim('another driver')();
    await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
  }));

test('a failed start reports its error when the interrupts do not close', () =>
  inVirtualTime(async () => {
    const fake = new FakeEhci();
    fake.interrupts = new FakeInterrupts('msi');
    fake.interrupts.close = () => new Promise(() => undefined);
    const pci = await PciFunction.open(fake, { log: new RecordingLog() });
    fake.onRun = () => {
      throw new Error('the bus broke');
    };
    await assert.rejects(EhciController.open(pci), /the bus broke/);
    assert.equal(pci.device.bytesAllocated, 0);
    pci.claim('another driver')();
    await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
  }));

/** The next write to one of its registers fails, and the next awaited call reports that. */
class LossyEhci extends FakeEhci {
  /** Offset of the register; -1 for none. */
  loses = -1;
  onLoss: () => void = () => undefined;
  #failure: Error | null = null;

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (offset !== this.loses) {
      super.write(bar, offset, width, value);
      return;
    }
    this.loses = -1;
    this.#failure = new Error('the write failed');
    this.onLoss();
  }

  override async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#report();
    return super.read(bar, offset, width);
  }

  override async flush(): Promise<void> {
    this.#report();
    await super.flush();
  }

  #report(): void {
    const failure = this.#failure;
    this.#failure = null;
    if (failure !== null) throw failure;
  }
}

test('the schedule is not enabled when the write of its address fails', async () => {
  const { fake, pci, ring, qhs } = await schedule(new LossyEhci());
  for (const qh of qhs) await ring.unlink(qh);
  const isEnabled = (): boolean => (fake.registers.getUint32(COMMAND, true) & 0x20) !== 0;
  assert.equal(isEnabled(), false);
  fake.loses = ASYNC_LIST;
  await assert.rejects(ring.link(qhs[0]!), /the write failed/);
  assert.deepEqual([fake.loses, isEnabled()], [-1, false]);
  await pci.close();
});

test('an old answer to the doorbell is not taken for a new one', async () => {
  const { fake, pci, ring, qhs } = await schedule(new LossyEhci());
  fake.loses = STATUS;
  // Another call reports the failure first.
  fake.onLoss = () => {
    queueMicrotask(
      () =>
        void pci
          .bar(0)
          .read32(STATUS)
          .catch(() => undefined),
    );
  };
  await assert.rejects(ring.unlink(qhs[0]!), /the write failed/);
  await pci.close();
});

test('a status of all ones is not an answer to the doorbell', async () => {
  const { fake, pci, ring, qhs } = await schedule();
  const read = fake.read.bind(fake);
  let reads = 0;
  fake.read = (bar, offset, width) =>
    offset === STATUS && ++reads === 2 ? Promise.resolve(0xffff_ffff) : read(bar, offset, width);
  await rejectsCode('ERR_DMAPOOL_USB_CONTROLLER', ring.unlink(qhs[0]!));
  assert.equal(reads, 2);
  await pci.close();
});

/** A schedule with two queue heads. */
async function schedule<F extends FakeEhci = FakeEhci>(
  fake = new FakeEhci() as F,
): Promise<{
  fake: F;
  pci: PciFunction;
  pool: DmaPool<'ehci_qh'>;
  ring: AsyncSchedule;
  qhs: QhBlock[];
}> {
  const pci = await PciFunction.open(fake, { log: new RecordingLog() });
  const registers = new OperationalRegisters(pci.bar(0), OPERATIONAL, 'fake');
  registers.command(1);
  const pool = DmaPool.createManaged('ehci_qh', pci.device, DESCRIPTOR_POOL);
  const ring = new AsyncSchedule(registers, pool);
  const qhs = [pool.alloc(), pool.alloc()];
  for (const qh of qhs) {
    writeQueueHead(qh, 0, 0, LINK.terminate);
    await ring.link(qh);
  }
  return { fake, pci, pool, ring, qhs };
}

test('an unlinked queue head is free after two answers to the doorbell', async () => {
  const { fake, pci, ring, qhs } = await schedule();
  await ring.unlink(qhs[0]!);
  assert.equal(fake.doorbells, 2);
  await pci.close();
});

test('an unlinked queue head that was active is free when its overlay was stable for 2 ms', async () => {
  for (const others of [1, 0]) {
    const { pci, ring, qhs } = await schedule();
    if (others === 0) await ring.unlink(qhs[1]!);
    const [qh] = qhs as [QhBlock];
    qh.u32[QH.token] = TOKEN.active;
    let free = false;
    const unlinking = ring.unlink(qh).then(() => {
      free = true;
    });
    // The controller continues the transaction after its answer.
    const end = performance.now() + 40;
    for (let left = 0x7000; performance.now() < end; left--) {
      assert.equal(free, false, 'not while the overlay changes');
      qh.u32[QH.token] = TOKEN.active | (left << 16);
      await delay(0);
    }
    await unlinking;
    await pci.close();
  }
});

test('links that a controller overwrote do not spread', async () => {
  const { fake, pci, pool, ring, qhs } = await schedule();
  const [last, first] = qhs as [QhBlock, QhBlock];
  const head = pool.blockAt(fake.registers.getUint32(ASYNC_LIST, true))!;
  const linkOf = (qh: QhBlock): number => qh.u32[QH.link]!;
  assert.deepEqual([linkOf(head), linkOf(first), linkOf(last)], [first.dma + 2, last.dma + 2, head.dma + 2]);
  first.u32[QH.link] = 0xdead_0000;
  await ring.unlink(first);
  assert.equal(linkOf(head), last.dma + 2);
  head.u32[QH.link] = 0xdead_0000;
  await ring.link(first);
  assert.deepEqual([linkOf(head), linkOf(first)], [first.dma + 2, last.dma + 2]);
  await pci.close();
});
