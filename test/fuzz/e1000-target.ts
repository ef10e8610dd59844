/**
 * Fuzz target `e1000`: random histories of the network driver on a model of the card. The model may violate the
 * specification, hang, and access old addresses. Each call ends in bounded time with a value or a `DmaError`, no memory is
 * freed while the card may access it, and none is leaked.
 */
import assert from 'node:assert/strict';
import { E1000, type Packet } from 'dmapool/drivers/e1000';
import type { InterruptKind } from 'dmapool/pci';
import { FakeE1000 } from '../drivers/e1000/fake-e1000.ts';
import { type E1000Behaviour, E1000Model, WELL_BEHAVED } from '../drivers/e1000/model-e1000.ts';
import { inVirtualTime } from '../guard/virtual-clock.ts';
import type { Random } from '../support/random.ts';
import { GuardedCase } from './guarded-case.ts';
import { countHostile } from './operations.ts';
import type { FuzzTarget } from './target.ts';

/** Limits of a case in virtual time, far above all time-outs. */
const LIMITS = { time: 3_600_000, steps: 400_000 };
/** Descriptors of a ring. */
const SIZES: readonly number[] = [8, 8, 16, 24, 64, 128];
const KINDS: readonly (InterruptKind | null)[] = ['msi', 'intx', null];

const delay = (time: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, time));

function behaviourOf(random: Random): E1000Behaviour {
  return {
    hostility: random.pick([0, 0.02, 0.1, 0.3, 0.6]),
    restlessness: random.pick([0, 100, 400, 1000]),
    resetTime: random.pick([0, 0, 3, 900, 4900, -1]),
    eeprom: random.chance(0.9) ? 'right' : random.pick(['slow', 'wrong sum', 'multicast address', 'silent'] as const),
    interrupts: random.pick(['right', 'right', 'flood', 'never'] as const),
  };
}

/** Returns a packet of random length that starts with its number. */
function packetOf(random: Random, number: number): Uint8Array {
  const bytes = random.bytes(14 + random.below(random.chance(0.5) ? 50 : 1505));
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, number);
  return bytes;
}

/** A packet that the user owns, and its expected content. */
interface Held {
  readonly packet: Packet;
  readonly bytes: Uint8Array;
}

class E1000History {
  readonly #case: GuardedCase;
  readonly #random: Random;
  readonly #model: E1000Model;
  readonly #fake: FakeE1000;
  readonly #delivered: Uint8Array[] = [];
  readonly #expected: Uint8Array[] = [];
  readonly #held: Held[] = [];
  #nic: E1000 | null = null;
  #isEnding = false;
  /** All packets were delivered to the card. */
  #isQuiet = false;

  constructor(seed: number) {
    const peaceful = seed % 4 === 0;
    const common = new GuardedCase(seed, { peaceful });
    this.#case = common;
    this.#random = common.random;
    this.#model = new E1000Model(common.host, peaceful ? WELL_BEHAVED : behaviourOf(common.random));
    this.#fake = new FakeE1000(this.#model, common.random.pick(KINDS));
    this.#fake.sticks = !peaceful && common.random.chance(0.15);
  }

  run(): Promise<void> {
    return this.#case.run(() => this.#run());
  }

  async #run(): Promise<void> {
    const [common, random, model, fake] = [this.#case, this.#random, this.#model, this.#fake];
    const resets = random.chance(0.5);
    const reset = (): void => {
      fake.resetFunction();
    };
    const isBusMaster = (): boolean => fake.isBusMaster();
    const pci = await common.open({ backend: fake, isBusMaster, ...(resets ? { reset } : {}) });
    if (pci === null) return;
    const close = (): void => {
      if (this.#nic !== null) common.start('close the driver', () => this.#close());
    };
    common.disturb('function', close);
    model.onTransmit = (bytes) => {
      if (!common.peaceful) return;
      const expected = this.#expected.shift();
      assert.ok(expected !== undefined, 'the card sent a packet that was not transmitted');
      assert.deepEqual(bytes, expected, 'bytes of a sent packet');
    };
    const receiveDescriptors = random.pick(SIZES);
    this.#nic = await common.call('open the driver', () =>
      E1000.open(pci, {
        receiveDescriptors,
        transmitDescriptors: random.pick(SIZES),
        buffers: receiveDescriptors + 1 + random.below(40),
        promiscuous: random.chance(0.5),
      }),
    );
    if (this.#nic !== null) {
      const nic = this.#nic;
      common.disturb('driver', close);
      for (const part of [this.#wire, this.#receive, this.#send, this.#others]) {
        common.start('a part of the history', () => part.call(this, nic));
      }
      await common.ended();
      if (common.peaceful) this.#checkAll(nic);
      else await delay(random.below(30));
    }
    this.#isEnding = true;
    this.#freeAll();
    await common.end(this.#nic === null ? null : () => this.#close(), () => {
      fake.sticks = false;
      model.behaviour = WELL_BEHAVED;
    });
    countHostile(model.hostileDescriptors);
  }

  #close(): Promise<void> {
    return this.#nic!.close();
  }

  /** Delivers packets to the card. */
  async #wire(): Promise<void> {
    const random = this.#random;
    for (let n = random.below(60); n > 0; n--) {
      const bytes = packetOf(random, this.#delivered.length);
      this.#delivered.push(bytes);
      this.#model.deliver(bytes);
      if (random.chance(0.3)) await delay(random.below(20));
    }
    this.#isQuiet = true;
  }

  async #receive(nic: E1000): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    const batch: Packet[] = [];
    let expected = 0;
    const isOver = (): boolean => !common.peaceful || (this.#isQuiet && expected === this.#delivered.length);
    for (let n = 4 + random.below(common.peaceful ? 60 : 200); n > 0 || !isOver(); n--) {
      const signal = random.chance(0.2) ? { signal: common.signal() } : {};
      await common.call('wait for packets', () => nic.waitForPackets({ timeout: random.below(40), ...signal }));
      const count = await common.call('receive', () => nic.receive(batch, 1 + random.below(20)));
      for (let i = 0; i < (count ?? 0); i++) {
        const packet = batch[i]!;
        assert.ok(packet.length >= 14 && packet.length <= 1518, `a packet of ${String(packet.length)} bytes`);
        const bytes = packet.bytes.slice(0, packet.length);
        if (common.peaceful) assert.deepEqual(bytes, this.#delivered[expected++], 'bytes of a received packet');
        this.#held.push({ packet, bytes });
      }
      while (this.#held.length > 0 && random.chance(0.7)) await this.#giveBack(nic);
      if (random.chance(0.1)) await delay(random.below(20));
    }
  }

  /** Frees or forwards a packet of the user. */
  async #giveBack(nic: E1000): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    const { packet, bytes } = this.#held.splice(random.below(this.#held.length), 1)[0]!;
    this.#look(packet, bytes);
    if (random.chance(0.2)) {
      if (common.peaceful) this.#expected.push(padded(bytes));
      if ((await common.call('forward', () => nic.transmit([packet]))) === 1) return;
      this.#expected.pop();
    }
    await common.call('free', () => {
      nic.packets.free(packet);
    });
  }

  /** Checks that a packet of the user was not written to. */
  #look(packet: Packet, bytes: Uint8Array): void {
    if (this.#case.pci.closed) return;
    assert.deepEqual(packet.bytes.slice(0, bytes.length), bytes, 'bytes of a packet that the user owns');
  }

  async #send(nic: E1000): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    for (let n = random.below(common.peaceful ? 30 : 80); n > 0; n--) {
      const packets: Packet[] = [];
      await common.call('allocate', () => {
        for (let k = random.below(12); k > 0; k--) {
          const packet = nic.packets.tryAlloc();
          if (packet === null) break;
          const bytes = packetOf(random, 0);
          packet.bytes.set(bytes);
          packet.length = bytes.length;
          packets.push(packet);
        }
      });
      const wanted = packets.map((packet) => padded(packet.bytes.slice(0, packet.length)));
      const sent = (await common.call('transmit', () => nic.transmit(packets))) ?? 0;
      if (common.peaceful) this.#expected.push(...wanted.slice(0, sent));
      await common.call('free', () => {
        nic.packets.freeBatch(packets, sent);
      });
      if (random.chance(0.3)) await delay(random.below(10));
      if (random.chance(0.1)) await this.#drain(nic);
    }
  }

  async #drain(nic: E1000): Promise<void> {
    const signal = this.#random.chance(0.5) && !this.#case.peaceful ? { signal: this.#case.signal() } : {};
    const timeout = this.#case.peaceful ? 5000 : this.#random.below(100);
    await this.#case.call('drain', () => nic.drain({ timeout, ...signal }));
  }

  async #others(nic: E1000): Promise<void> {
    const [common, random] = [this.#case, this.#random];
    for (let n = random.below(10); n > 0; n--) {
      await delay(random.below(20));
      switch (random.below(6)) {
        case 0:
          await common.call('link', () => nic.link());
          break;
        case 1:
          await common.call('statistics', () => nic.statistics());
          break;
        case 2:
          await common.call('wait for the link', () => nic.waitForLink({ timeout: random.below(50) }));
          break;
        case 3:
          await common.call('promiscuous', () => {
            nic.setPromiscuous(random.chance(0.5));
          });
          break;
        case 4:
          if (!common.peaceful) await this.#openAnother();
          break;
        default:
          await common.call('transmitting', () => nic.transmitting);
      }
    }
  }

  /** Opens a second driver, which can have the function only after the first is closed. */
  async #openAnother(): Promise<void> {
    const common = this.#case;
    const other = await common.call('open a second driver', () => E1000.open(common.pci, { receiveDescriptors: 8 }));
    if (other !== null && !this.#isEnding) await common.call('close the second driver', () => other.close());
  }

  #checkAll(nic: E1000): void {
    assert.deepEqual(this.#model.wire, []);
    assert.ok(nic.transmitting >= 0);
  }

  #freeAll(): void {
    for (const { packet, bytes } of this.#held.splice(0)) {
      this.#look(packet, bytes);
      this.#case.start('free', () => {
        packet.packets.free(packet);
      });
    }
  }
}

/** Returns the bytes that are sent for a packet: at least 60. */
function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Math.max(60, bytes.length));
  whole.set(bytes);
  return whole;
}

export const e1000Target: FuzzTarget = {
  name: 'e1000',
  runCase: (seed) => inVirtualTime(() => new E1000History(seed).run(), LIMITS),
};
