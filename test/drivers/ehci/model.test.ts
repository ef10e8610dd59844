/** The model of the controller releases what the driver may free. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmaPool, HeapMemory } from 'dmapool';
import { PciFunction } from 'dmapool/pci';
import { UsbBuffer } from '../../../drivers/ehci/buffer.ts';
import { EndpointQueue } from '../../../drivers/ehci/queue.ts';
import { OperationalRegisters, REGISTER } from '../../../drivers/ehci/registers.ts';
import { AsyncSchedule } from '../../../drivers/ehci/schedule.ts';
import { BYTES_PER_QTD, DESCRIPTOR_POOL, PAGE, PID, QTD, TOKEN } from '../../../drivers/ehci/structures.ts';
import { FaultPlan } from '../../guard/fault-plan.ts';
import { GuardedBackend } from '../../guard/guarded-backend.ts';
import { GuardedMemory } from '../../guard/guarded-memory.ts';
import { RelentlessDma } from '../../guard/relentless-dma.ts';
import { RecordingLog } from '../../support/log.ts';
import { Random } from '../../support/random.ts';
import { until } from '../../support/until.ts';
import { ModelHost } from '../model-host.ts';
import { FakeController } from './fake-controller.ts';
import { EhciModel, OPERATIONAL, WELL_BEHAVED } from './model-ehci.ts';
import { type Answer, UsbDisk } from './usb-disk.ts';

const PACKET = 512;

/** A device with data for one qTD. */
class Source extends UsbDisk {
  #toggle: 0 | 1 = 0;
  #left = BYTES_PER_QTD;

  override send(_address: number, _endpoint: number, room: number): Answer {
    if (this.#left === 0) return { kind: 'nak' };
    this.#left -= PACKET;
    return { kind: 'data', bytes: new Uint8Array(Math.min(PACKET, room)), toggle: this.#toggle };
  }

  override acknowledged(): void {
    this.#toggle ^= 1;
  }
}

/** Chooses how the model violates the specification; all other choices are 0 or false. */
class Script extends Random {
  /** Kinds of violations, in order. */
  readonly hows: number[] = [];

  override below(limit: number): number {
    if (limit === 10) return this.hows.shift() ?? 7;
    if (limit === 12) return 11;
    return limit === 0x8000 ? 100 : 0;
  }

  override chance(share: number): boolean {
    return share === 1 || (share === 0.1 && this.hows.length === 0);
  }
}

test('a transfer whose first qTD was overwritten as short is complete even if the queue halts at a later one', async () => {
  const heap = new HeapMemory();
  const memory = new GuardedMemory(heap);
  const dma = new RelentlessDma(memory);
  const script = new Script(1);
  const host = new ModelHost(heap, dma, script);
  const model = new EhciModel(host);
  const fake = new FakeController(model, null);
  const isBusMaster = (): boolean => fake.isBusMaster();
  const guarded = { fake: { backend: fake, isBusMaster }, memory, dma, plan: new FaultPlan() };
  const pci = await PciFunction.open(new GuardedBackend(guarded), { log: new RecordingLog() });
  const { device } = pci;
  host.target = device;
  model.plug(0, new Source(script));
  const registers = new OperationalRegisters(pci.bar(0), OPERATIONAL, 'model');
  registers.write(REGISTER.firstPort, 0x1100);
  registers.write(REGISTER.firstPort, 0x1000);
  registers.command(1);
  await pci.enableBusMaster();

  const qhs = DmaPool.createManaged('ehci_qh', device, DESCRIPTOR_POOL);
  const qtds = DmaPool.createManaged('ehci_qtd', device, DESCRIPTOR_POOL);
  const data = DmaPool.createManaged('usb_data', device, { size: PAGE, align: PAGE });
  const onFailure = (error: unknown): Promise<void> => Promise.reject(error);
  const schedule = new AsyncSchedule(registers, qhs);
  const queue = new EndpointQueue(
    { schedule, qhs, qtds, onFailure, onClosed: () => undefined },
    {
      name: 'queue',
      address: 0,
      endpoint: 1,
      packetSize: PACKET,
      control: false,
      explain: (error) => Promise.resolve(error),
    },
  );
  await queue.link();
  const buffer = new UsbBuffer(data, 3 * BYTES_PER_QTD);
  const reading = queue.run({ setup: null, pid: PID.in, buffer, length: buffer.length, timeout: 60_000 });
  let moved = -1;
  void reading.then((length) => (moved = length));
  const token = (index: number): number => qtds.blockAt(qtds.dmaOf(index))!.u32[QTD.token]!;
  await until('the transfer is given to the controller', () => qtds.statistics().active === 4);
  await until('its first qTD is complete', () => (token(0) & TOKEN.active) === 0);
  script.hows.push(3);
  // Overwritten as short, and then halted.
  model.behaviour = { ...WELL_BEHAVED, hostility: 1 };
  await until('the queue is halted', () => (token(1) & TOKEN.halted) !== 0);
  queue.poll(performance.now());
  await until('the transfer is complete', () => moved >= 0);
  assert.equal(moved, BYTES_PER_QTD - 100);
  dma.check();
  await pci.close();
});
