/**
 * A card that fails to stop, which QEMU's does not; and register values that the manual forbids and QEMU does not
 * check.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { E1000, type Packet } from 'dmapool/drivers/e1000';
import { type BarInfo, PciError, PciFunction, type RawConfigSpace } from 'dmapool/pci';
import { inVirtualTime } from '../../guard/virtual-clock.ts';
import { FakeBackend, FakeInterrupts } from '../../pci/fake-backend.ts';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { RecordingLog } from '../../support/log.ts';

const COMMAND = 4;
const BUS_MASTER = 4;
const CTRL = 0;
const EERD = 0x14;
const RCTL = 0x100;
const TCTL = 0x400;
const ENABLE = 2;
const TIPG = 0x410;
/** Base, upper half of the base, and length of both rings. */
const RINGS: readonly number[] = [0x2800, 0x2804, 0x2808, 0x3800, 0x3804, 0x3808];
const TIDV = 0x3820;
const CTRL_RESET = 0x0400_0000;
const EERD_DONE = 0x10;

/** The card's registers: a reset, an EEPROM with an address, and no packets. */
class FakeCard extends FakeBackend {
  override readonly bars: readonly BarInfo[] = [
    { index: 0, kind: 'memory', size: 0x2_0000, prefetchable: false, is64: false },
  ];
  /** Whether a reset ends. */
  resetEnds = true;
  /** True: bus mastering cannot be switched off. */
  sticks = false;
  onBusMasterOff: () => void = () => undefined;
  readonly rawConfig: RawConfigSpace = {
    read: (offset, width) => super.readConfig(offset, width),
    write: async (offset, width, value) => {
      const off = offset === COMMAND && (value & BUS_MASTER) === 0;
      if (off && !this.sticks) this.onBusMasterOff();
      await super.writeConfig(offset, width, off && this.sticks ? value | BUS_MASTER : value);
    },
  };

  constructor() {
    super();
    this.config.setUint32(0, 0x100e_8086, true);
    this.regions.set(0, new DataView(new ArrayBuffer(0x2_0000)));
  }

  get registers(): DataView {
    return this.regions.get(0)!;
  }

  get isBusMaster(): boolean {
    return (this.config.getUint16(COMMAND, true) & BUS_MASTER) !== 0;
  }

  override readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.removed.aborted) return Promise.reject(this.removed.reason as Error);
    return super.readConfig(offset, width);
  }

  override read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    if (this.removed.aborted) return Promise.reject(this.removed.reason as Error);
    return super.read(bar, offset, width);
  }

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (offset === CTRL && this.resetEnds) value = (value & ~CTRL_RESET) >>> 0;
    if (offset === EERD) value = ((WORDS[value >>> 8] ?? 0) * 0x1_0000 + EERD_DONE) >>> 0;
    super.write(bar, offset, width, value);
  }
}

/**
 * A card whose transfers continue until they are settled. The next write to one of its registers fails, and the next awaited
 * call reports that.
 */
class LossyCard extends FakeCard {
  /** Offset of the register whose next write fails; -1 for none. */
  loses = -1;
  settled = 0;
  /** A direction was enabled. */
  isEnabled = false;
  #failure: Error | null = null;

  override write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    if (offset === this.loses) {
      this.loses = -1;
      this.#failure = new Error('the write failed');
      return;
    }
    if ((offset === RCTL || offset === TCTL) && (value & ENABLE) !== 0) this.isEnabled = true;
    super.write(bar, offset, width, value);
  }

  override async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#reportFailure();
    return super.read(bar, offset, width);
  }

  override async flush(): Promise<void> {
    this.#reportFailure();
    await super.flush();
  }

  settle(): Promise<void> {
    this.settled++;
    return Promise.resolve();
  }

  #reportFailure(): void {
    const failure = this.#failure;
    this.#failure = null;
    if (failure !== null) throw failure;
  }
}

/** An EEPROM with the address 52:54:00:12:34:56 and a valid checksum. */
const WORDS: readonly number[] = [0x5452, 0x1200, 0x5634, (0xbaba - 0x5452 - 0x1200 - 0x5634) & 0xffff];

interface Bench {
  readonly fake: FakeCard;
  readonly pci: PciFunction;
  readonly nic: E1000;
  readonly log: RecordingLog;
}

async function open(fake = new FakeCard()): Promise<Bench> {
  const log = new RecordingLog();
  const pci = await PciFunction.open(fake, { log });
  const nic = await E1000.open(pci, { receiveDescriptors: 8, transmitDescriptors: 8, buffers: 20 });
  return { fake, pci, nic, log };
}

/** Sends two packets, which the card does not finish. */
function transmitTwo({ nic }: Bench): void {
  const packets: Packet[] = [];
  nic.packets.allocBatch(packets, 2);
  for (const packet of packets) packet.length = 60;
  assert.equal(nic.transmit(packets), 2);
}

void describe('e1000: register values', () => {
  void it('have the inter-packet gaps of the manual, and no transmit delay of 0', async () => {
    const { fake, pci, nic } = await open();
    assert.equal(fake.registers.getUint32(TIPG, true), 10 + (8 << 10) + (6 << 20));
    assert.notEqual(fake.registers.getUint32(TIDV, true), 0);
    await nic.close();
    await pci.close();
  });
});

void describe('the card', () => {
  for (const register of RINGS) {
    void it(`is not enabled when the write to register 0x${register.toString(16)} fails`, async () => {
      const fake = new LossyCard();
      const pci = await PciFunction.open(fake, { log: new RecordingLog() });
      fake.loses = register;
      await assert.rejects(E1000.open(pci, { receiveDescriptors: 8, transmitDescriptors: 8 }), /the write failed/);
      assert.deepEqual([fake.loses, fake.isEnabled, pci.device.bytesAllocated], [-1, false, 0]);
      await (await E1000.open(pci)).close();
      assert.equal(fake.isEnabled, true);
      await pci.close();
    });
  }
});

void describe('memory of the e1000 driver', () => {
  void it('is released after a reset that does not end, once bus mastering is off', async () => {
    const bench = await open();
    const { fake, pci, nic } = bench;
    transmitTwo(bench);
    fake.resetEnds = false;
    let atStop = -1;
    fake.onBusMasterOff = () => {
      atStop = nic.packets.active;
    };
    await nic.close();
    assert.deepEqual([atStop, nic.packets.active, fake.isBusMaster], [10, 0, false]);
    await pci.close();
  });

  void it('is released after its transfers are settled if the reset write fails, even if another call reports that', async () => {
    const fake = new LossyCard();
    const { pci, nic } = await open(fake);
    fake.loses = CTRL;
    const closing = nic.close();
    while (fake.loses === CTRL) await Promise.resolve();
    await pci
      .bar(0)
      .read32(CTRL)
      .catch(() => undefined);
    await closing;
    assert.equal(fake.settled, 1);
    await pci.close();
  });

  void it('is released when the kernel requests release, and not before bus mastering is off', async () => {
    const bench = await open();
    const { fake, pci, nic } = bench;
    transmitTwo(bench);
    let atStop = -1;
    fake.onBusMasterOff = () => {
      atStop = nic.packets.active;
    };
    fake.controller.abort(
      new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', fake.address, 'the kernel requests release'),
    );
    await nic.close();
    assert.deepEqual([atStop, nic.packets.active, fake.isBusMaster], [10, 0, false]);
    await pci.close();
  });

  void it('is kept, counted and reported while the card cannot be stopped; a later close releases it', async () => {
    const bench = await open();
    const { fake, pci, nic, log } = bench;
    transmitTwo(bench);
    Object.assign(fake, { resetEnds: false, sticks: true });
    const bytes = pci.device.bytesAllocated;
    await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', nic.close());
    assert.deepEqual([nic.packets.active, pci.device.bytesAllocated], [10, bytes]);
    assert.match(log.text, /error 0000:00:05\.0: .*both rings and 10 buffers is kept/);
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', E1000.open(pci));
    Object.assign(fake, { resetEnds: true, sticks: false });
    await nic.close();
    assert.deepEqual([nic.packets.active, pci.device.bytesAllocated], [0, 0]);
    await nic.close();
    await (await E1000.open(pci)).close();
    await pci.close();
  });

  void it('is released, and the close ends, when the interrupts do not close', () =>
    inVirtualTime(async () => {
      const fake = new FakeCard();
      fake.interrupts = new FakeInterrupts('msi');
      fake.interrupts.close = () => new Promise(() => undefined);
      const { pci, nic } = await open(fake);
      await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_TIMEOUT', nic.close());
      assert.equal(pci.device.bytesAllocated, 0);
      pci.claim('another driver')();
      await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
    }));

  void it('that is kept is released when the function is closed successfully', async () => {
    const bench = await open();
    const { fake, pci, nic } = bench;
    transmitTwo(bench);
    Object.assign(fake, { resetEnds: false, sticks: true });
    await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', nic.close());
    await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
    assert.equal(nic.packets.active, 10);
    fake.sticks = false;
    await pci.close();
    assert.deepEqual([nic.packets.active, pci.device.bytesAllocated], [0, 0]);
    await nic.close();
  });

  void it('is not lost in a batch when a close of the function has begun', async () => {
    const { fake, pci, nic } = await open();
    const bytes = fake.memory.translate(pci.device, fake.registers.getUint32(0x2800, true), 128);
    const ring = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    // Four complete packets of 60 bytes.
    for (let i = 0; i < 4; i++) {
      ring.setUint32(16 * i + 8, 60, true);
      ring.setUint32(16 * i + 12, 3, true);
    }
    const packets: Packet[] = [];
    nic.packets.allocBatch(packets, 2);
    for (const packet of packets) packet.length = 60;
    const closing = pci.close();
    for (const call of [() => nic.receive([], 4), () => nic.transmit(packets)]) {
      assert.throws(call, { code: 'ERR_DMAPOOL_E1000_CLOSED' });
    }
    assert.equal(nic.packets.active, 10);
    nic.packets.freeBatch(packets);
    await closing;
    assert.equal(fake.memory.bytesInUse, 0);
    await nic.close();
  });

  void it('is not allocated after the device was detached during the open', async () => {
    const fake = new FakeCard();
    const pci = await PciFunction.open(fake, { log: new RecordingLog() });
    await pci.stopDma();
    fake.sticks = true;
    const read = fake.read.bind(fake);
    fake.read = (bar, offset, width) => {
      if (offset === EERD) pci.device.detach();
      return read(bar, offset, width);
    };
    await rejectsCode('ERR_DMAPOOL_E1000_CLOSED', E1000.open(pci));
    assert.deepEqual([pci.device.bytesAllocated, fake.isBusMaster], [0, false]);
    await pci.close();
  });

  void it('that is kept when its device is detached is released when the function is closed', async () => {
    const bench = await open();
    const { pci, nic } = bench;
    transmitTwo(bench);
    pci.device.detach();
    assert.equal(nic.packets.active, 10);
    assert.equal(pci.device.reclaim(), 0, 'nothing is reclaimed while the card runs');
    await pci.close();
    assert.deepEqual([nic.packets.active, pci.device.bytesAllocated], [0, 0]);
    await nic.close();
  });

  void it('stays allocated to the card when its device is detached while it runs', async () => {
    const bench = await open();
    const { fake, pci, nic, log } = bench;
    transmitTwo(bench);
    pci.device.detach();
    assert.deepEqual([nic.packets.active, fake.isBusMaster], [10, true]);
    assert.match(log.text, /is kept/);
    await nic.close();
    assert.deepEqual([nic.packets.active, pci.device.bytesAllocated, fake.isBusMaster], [0, 0, false]);
    await pci.close();
  });
});
