/** An endpoint's queue with a controller that acts at moments of the test's choice. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaPool } from 'dmapool';
import { UsbError } from 'dmapool/drivers/ehci';
import { type DataPool, UsbBuffer } from '../../../drivers/ehci/buffer.ts';
import { EndpointQueue } from '../../../drivers/ehci/queue.ts';
import {
  DESCRIPTOR_POOL,
  PAGE,
  PID,
  QH,
  type QhBlock,
  QTD,
  type QtdBlock,
  TOKEN,
  type Unlinked,
} from '../../../drivers/ehci/structures.ts';
import { setImmediate as turn } from 'node:timers/promises';
import { rejectsAs } from '../../support/errors.ts';

class FakeController {
  readonly qhs: DmaPool<'ehci_qh'>;
  readonly qtds: DmaPool<'ehci_qtd'>;
  readonly data: DataPool;
  readonly queue: EndpointQueue;
  readonly failures: unknown[] = [];
  /** Runs after a queue head was unlinked from the ring, and before the controller acknowledges it. */
  inWindow: () => void = () => undefined;
  linked: QhBlock | null = null;

  constructor() {
    const device = new Device({ name: 'fake', dmaMask: 0xffff_ffff });
    this.qhs = DmaPool.create('ehci_qh', device, DESCRIPTOR_POOL);
    this.qtds = DmaPool.create('ehci_qtd', device, DESCRIPTOR_POOL);
    this.data = DmaPool.create('usb_data', device, { size: PAGE, align: PAGE });
    const schedule = {
      link: (qh: QhBlock): Promise<void> => {
        this.linked = qh;
        return Promise.resolve();
      },
      unlink: async (): Promise<Unlinked> => {
        await Promise.resolve();
        this.inWindow();
        this.inWindow = () => undefined;
        this.linked = null;
        return {} as Unlinked;
      },
    };
    const host = {
      qhs: this.qhs,
      qtds: this.qtds,
      schedule,
      onFailure: (error: unknown): Promise<void> => {
        this.failures.push(error);
        return Promise.resolve();
      },
      onClosed: () => undefined,
    };
    const explain = (error: UsbError): Promise<UsbError> => Promise.resolve(error);
    const endpoint = { name: 'fake', address: 1, endpoint: 1, packetSize: 512, control: false, explain };
    this.queue = new EndpointQueue(host, endpoint);
  }

  /** A transfer to the host that times out at the next check. */
  read(buffer: UsbBuffer): Promise<number> {
    return this.queue.run({ setup: null, pid: PID.in, buffer, length: buffer.length, timeout: 1 });
  }

  look(): void {
    this.queue.poll(performance.now());
  }

  lookLate(): void {
    this.queue.poll(performance.now() + 10);
  }

  get toggle(): number {
    return this.linked!.u32[QH.token]! & TOKEN.toggle;
  }

  /** Executes the next qTD with one packet (4.10): `left` bytes are not transferred, and the data toggle flips. */
  execute(left: number): void {
    const { u32 } = this.linked!;
    const qtd: QtdBlock = this.qtds.blockAt(u32[QH.next]!)!;
    const token = qtd.u32[QTD.token]!;
    assert.ok((token & TOKEN.active) !== 0);
    const toggle = (u32[QH.token]! ^ TOKEN.toggle) & TOKEN.toggle;
    qtd.u32[QTD.token] = (left << TOKEN.lengthShift) | toggle | (token & 0x8300);
    u32[QH.current] = qtd.dma;
    u32[QH.next] = qtd.u32[QTD.next]!;
    u32[QH.token] = qtd.u32[QTD.token]!;
  }

  async close(): Promise<void> {
    await this.queue.close(new UsbError('ERR_DMAPOOL_USB_CLOSED', 'test', 'the test is over'));
    assert.deepEqual(this.failures, []);
    for (const pool of [this.qhs, this.qtds, this.data]) {
      assert.equal(pool.statistics().active, 0, 'every block is free');
      pool.destroy();
    }
  }
}

test('a transfer that completes while it is cancelled is done, and the next one continues with its toggle', async () => {
  const fake = new FakeController();
  await fake.queue.link();
  const buffer = new UsbBuffer(fake.data, 512);
  const reading = fake.read(buffer);
  await turn();
  fake.lookLate();
  fake.inWindow = () => {
    fake.execute(112);
  };
  assert.equal(await reading, 400);
  await turn();
  assert.notEqual(fake.toggle, 0);

  const next = fake.read(buffer);
  await turn();
  fake.execute(0);
  fake.lookLate();
  assert.equal(await next, 512);
  assert.equal(fake.toggle, 0);
  buffer.free();
  await fake.close();
});

test('the toggle of a packet that arrived while its transfer was cancelled is kept', async () => {
  const fake = new FakeController();
  await fake.queue.link();
  const buffer = new UsbBuffer(fake.data, 10 * PAGE);
  const reading = fake.read(buffer);
  await turn();
  fake.lookLate();
  fake.inWindow = () => {
    fake.execute(0);
  };
  await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_TIMEOUT', reading);
  await turn();
  assert.notEqual(fake.toggle, 0);
  buffer.free();
  await fake.close();
});

test('more remaining bytes than the transfer has are rejected as a length', async () => {
  const fake = new FakeController();
  await fake.queue.link();
  const buffer = new UsbBuffer(fake.data, 512);
  const reading = fake.read(buffer);
  await turn();
  fake.execute(513);
  fake.look();
  await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', reading);
  buffer.free();
  await fake.close();
});

test('a short transfer to the device is not over: the controller continues with the next qTD', async () => {
  const fake = new FakeController();
  await fake.queue.link();
  const buffer = new UsbBuffer(fake.data, 6 * PAGE);
  const writing = fake.queue.run({ setup: null, pid: PID.out, buffer, length: buffer.length, timeout: 1000 });
  await turn();
  const { active } = fake.qtds.statistics();
  let inWindow = 0;
  fake.inWindow = () => {
    inWindow = fake.qtds.statistics().active;
  };
  fake.execute(100);
  fake.look();
  assert.equal(fake.qtds.statistics().active, active, 'nothing is freed while the queue head is linked');
  await rejectsAs(UsbError, 'ERR_DMAPOOL_USB_CONTROLLER', writing);
  assert.equal(inWindow, active);
  buffer.free();
  await fake.close();
});
