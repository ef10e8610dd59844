/**
 * A model of the 82540EM with behaviour that QEMU's lacks: descriptors written back wrongly, repeatedly, or out of
 * order; resets that hang or end late; floods of interrupts, or none; an EEPROM with wrong content. Registers and
 * sections as in the driver's registers.ts.
 *
 * Its DMA is relentless: it may access each ring from the moment that its half is enabled, and each buffer from the
 * fetch of its descriptor to the write-back, until a reset or a proof that it has stopped.
 */
import type { Grant, RelentlessDma } from '../../guard/relentless-dma.ts';
import type { Random } from '../../support/random.ts';
import type { ModelHost } from '../model-host.ts';

const REG = {
  ctrl: 0x0000,
  status: 0x0008,
  eerd: 0x0014,
  icr: 0x00c0,
  ims: 0x00d0,
  imc: 0x00d8,
  rctl: 0x0100,
  tctl: 0x0400,
  receiveRing: 0x2800,
  transmitRing: 0x3800,
} as const;
/** Offsets within the registers of a ring. */
const RING = { low: 0x00, high: 0x04, length: 0x08, head: 0x10, tail: 0x18 } as const;
const CTRL_RESET = 0x0400_0000;
const RCTL_ENABLE = 2;
const TCTL_ENABLE = 2;
const CAUSE = { transmitted: 0x01, linkChange: 0x04, receiveLow: 0x10, overrun: 0x40, received: 0x80 } as const;
/** In both kinds of descriptor. */
const DONE = 1;
const RX_END = 2;
const TX_REPORT = 0x0800_0000;
const EERD_DONE = 0x10;
const COUNTERS = { first: 0x4000, end: 0x4100 } as const;
const DESCRIPTOR_BYTES = 16;
const BUFFER_BYTES = 2048;
const STATUS_UP = 0x83;
/** Words of the EEPROM, and their sum. */
const EEPROM_WORDS = 0x40;
const EEPROM_SUM = 0xbaba;

/** The behaviour of the card. */
export interface E1000Behaviour {
  /**
   * Share of the descriptors that are written back wrongly, and of the ring checks at which other descriptors are too,
   * 0 to 1.
   */
  readonly hostility: number;
  /** Number of ring checks that it makes unprompted. */
  readonly restlessness: number;
  /** Milliseconds that a reset takes; negative: it never ends. */
  readonly resetTime: number;
  /** The content of the EEPROM. */
  readonly eeprom: 'right' | 'slow' | 'wrong sum' | 'multicast address' | 'silent';
  readonly interrupts: 'right' | 'flood' | 'never';
}

export const WELL_BEHAVED: E1000Behaviour = {
  hostility: 0,
  restlessness: 0,
  resetTime: 0,
  eeprom: 'right',
  interrupts: 'right',
};

interface Fetched {
  readonly address: number;
  readonly command: number;
  readonly grant: Grant;
}

/** One ring as the card sees it. */
class Ring {
  readonly name: 'receive' | 'transmit';
  readonly base: number;
  readonly size: number;
  /** Descriptors that were fetched and not written back, by index. */
  readonly held = new Map<number, Fetched>();
  /** The next index to execute, and the next index to fetch. */
  head = 0;
  fetched = 0;

  constructor(name: 'receive' | 'transmit', base: number, size: number) {
    this.name = name;
    this.base = base;
    this.size = size;
  }

  at(index: number): number {
    return this.base + index * DESCRIPTOR_BYTES;
  }
}

export class E1000Model {
  behaviour: E1000Behaviour;
  /** Called with each sent packet. */
  onTransmit: (bytes: Uint8Array) => void = () => undefined;
  /** Called when a cause of interrupts is set. */
  onInterrupt: () => void = () => undefined;
  /** Number of descriptors written back contrary to the manual. */
  hostileDescriptors = 0;
  /** Packets that it received and has not stored yet. */
  readonly wire: Uint8Array[] = [];
  /** 52:54:00:12:34:56 by default. */
  readonly mac: Uint8Array = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
  readonly #host: ModelHost;
  readonly #dma: RelentlessDma;
  readonly #random: Random;
  readonly #registers = new Map<number, number>();
  #receive: Ring | null = null;
  #transmit: Ring | null = null;
  #causes = 0;
  #mask = 0;
  #resetting = false;
  #looks = 0;
  #ticks = 0;
  #isTicking = false;

  constructor(host: ModelHost, behaviour: E1000Behaviour = WELL_BEHAVED) {
    this.#host = host;
    this.#dma = host.dma;
    this.#random = host.random;
    this.behaviour = behaviour;
  }

  /** True: the interrupt is asserted. */
  get interrupting(): boolean {
    return (this.#causes & this.#mask) !== 0;
  }

  read(offset: number): number {
    if (offset === REG.icr) {
      const causes = this.#causes;
      this.#causes = 0;
      return causes;
    }
    if (offset === REG.status) return STATUS_UP;
    if (offset === REG.ctrl) return (this.#get(offset) | (this.#resetting ? CTRL_RESET : 0)) >>> 0;
    if (offset === REG.eerd) return this.#eeprom();
    if (offset >= COUNTERS.first && offset < COUNTERS.end) {
      return this.behaviour.hostility > 0 && this.#random.chance(0.3) ? this.#random.next() : 0;
    }
    if (offset === REG.transmitRing + RING.head) return this.#headOf(this.#transmit);
    if (offset === REG.receiveRing + RING.head) return this.#headOf(this.#receive);
    return this.#get(offset);
  }

  write(offset: number, value: number): void {
    if (offset === REG.imc) this.#mask &= ~value;
    else if (offset === REG.ims) {
      this.#mask |= value;
      if (this.interrupting) this.#raise(0);
    } else {
      this.#registers.set(offset, value);
      if (offset === REG.ctrl && (value & CTRL_RESET) !== 0) this.#beginReset();
      else if (offset === REG.rctl) this.#enable('receive', (value & RCTL_ENABLE) !== 0);
      else if (offset === REG.tctl) this.#enable('transmit', (value & TCTL_ENABLE) !== 0);
    }
    this.wake();
  }

  /** The function was reset, by any kind of reset. */
  reset(): void {
    this.#dma.reset();
    this.#registers.clear();
    this.#receive = this.#transmit = null;
    this.#causes = this.#mask = 0;
    this.#resetting = false;
  }

  /** Receives a packet. */
  deliver(bytes: Uint8Array): void {
    this.wire.push(bytes);
    this.wake();
  }

  /** Schedules a check of its rings. */
  wake(): void {
    if (this.#isTicking) return;
    this.#isTicking = true;
    setTimeout(() => {
      this.#isTicking = false;
      if (this.#tick()) this.wake();
    }, this.#random.below(3));
  }

  // ---- registers

  #get(offset: number): number {
    return this.#registers.get(offset) ?? 0;
  }

  #headOf(ring: Ring | null): number {
    return this.behaviour.hostility > 0 && this.#random.chance(0.5) ? this.#random.next() : (ring?.head ?? 0);
  }

  #beginReset(): void {
    const { resetTime } = this.behaviour;
    if (resetTime === 0) {
      this.reset();
      return;
    }
    this.#resetting = true;
    if (resetTime < 0) return;
    setTimeout(() => {
      if (this.#resetting) this.reset();
    }, resetTime);
  }

  #eeprom(): number {
    const { eeprom } = this.behaviour;
    if (eeprom === 'silent') return 0;
    if (eeprom === 'slow' && ++this.#looks % 4 !== 0) return 0;
    const address = this.#get(REG.eerd) >>> 8;
    const words = [0x5452, 0x1200, 0x5634];
    if (eeprom === 'multicast address') words[0]! |= 1;
    const rest = words.reduce((sum, word) => sum - word, EEPROM_SUM);
    const last = (eeprom === 'wrong sum' ? rest + 1 : rest) & 0xffff;
    const word = address === EEPROM_WORDS - 1 ? last : (words[address] ?? 0);
    return (word * 0x1_0000 + EERD_DONE) >>> 0;
  }

  /** The card may use the ring from here on, even after it is disabled again. */
  #enable(name: 'receive' | 'transmit', on: boolean): void {
    if (!on) return;
    const first = name === 'receive' ? REG.receiveRing : REG.transmitRing;
    const base = this.#get(first + RING.high) * 2 ** 32 + this.#get(first + RING.low);
    const size = this.#get(first + RING.length) / DESCRIPTOR_BYTES;
    const known = name === 'receive' ? this.#receive : this.#transmit;
    if (size === 0 || (known?.base === base && known.size === size)) return;
    const ring = new Ring(name, base, size);
    this.#dma.learn(`${name} ring`, base, size * DESCRIPTOR_BYTES, 'both');
    if (name === 'receive') this.#receive = ring;
    else this.#transmit = ring;
  }

  #raise(causes: number): void {
    this.#causes |= causes;
    if (this.behaviour.interrupts !== 'never' && this.interrupting) this.onInterrupt();
  }

  // ---- DMA

  #words(dma: number): Uint32Array | null {
    return this.#host.words(dma, DESCRIPTOR_BYTES / 4);
  }

  /** Performs some of the pending work. False when there is none. */
  #tick(): boolean {
    if (!this.#dma.isLive) return false;
    const random = this.#random;
    let busy = this.#ticks++ < this.behaviour.restlessness;
    for (const ring of [this.#receive, this.#transmit]) {
      if (ring === null) continue;
      const enabled =
        ring.name === 'receive' ? (this.#get(REG.rctl) & RCTL_ENABLE) !== 0 : (this.#get(REG.tctl) & TCTL_ENABLE) !== 0;
      if (!enabled) continue;
      this.#fetch(ring);
      for (let n = 1 + random.below(8); n > 0 && this.#execute(ring); n--) busy = true;
      if (random.chance(this.behaviour.hostility)) {
        this.#vandalize(ring);
      }
    }
    if (this.behaviour.interrupts === 'flood') this.#raise(CAUSE.received | CAUSE.transmitted | CAUSE.receiveLow);
    if (random.chance(0.2)) this.#dma.strike();
    return busy;
  }

  #fetch(ring: Ring): void {
    const tail = this.#get((ring.name === 'receive' ? REG.receiveRing : REG.transmitRing) + RING.tail);
    if (tail >= ring.size) return;
    while (ring.fetched !== tail) {
      const index = ring.fetched;
      const words = this.#words(ring.at(index));
      if (words === null) return;
      ring.fetched = (index + 1) % ring.size;
      // Written back out of order, and not assigned anew.
      if (ring.held.has(index) || (words[3]! & DONE) !== 0) continue;
      const address = words[1]! * 2 ** 32 + words[0]!;
      const receives = ring.name === 'receive';
      const length = receives ? BUFFER_BYTES : words[2]! & 0xffff;
      const access = receives ? 'write' : 'read';
      const grant = this.#dma.learn(`${ring.name} descriptor ${String(index)}`, address, length, access, receives);
      ring.held.set(index, { address, command: words[2]!, grant });
    }
  }

  /** Executes one descriptor. False when there is none, or it needs no work. */
  #execute(ring: Ring): boolean {
    const held = ring.held.get(ring.head);
    if (held === undefined) {
      // It was written back out of order.
      if (ring.head === ring.fetched) return false;
      ring.head = (ring.head + 1) % ring.size;
      return true;
    }
    if (ring.name === 'receive') {
      const packet = this.wire.shift();
      if (packet === undefined) return false;
      const bytes = this.#host.view(held.address, BUFFER_BYTES);
      bytes?.set(packet.subarray(0, BUFFER_BYTES));
      this.#writeBack(ring, ring.head, packet.length, DONE | RX_END);
      this.#raise(CAUSE.received);
    } else {
      const length = held.command & 0xffff;
      const bytes = this.#host.view(held.address, length);
      if (bytes !== null) this.onTransmit(bytes.slice());
      if ((held.command & TX_REPORT) !== 0) this.#writeBack(ring, ring.head, null, DONE);
      this.#raise(CAUSE.transmitted);
    }
    ring.head = (ring.head + 1) % ring.size;
    return true;
  }

  /** Writes a descriptor back; the card does not access its buffer afterwards. */
  #writeBack(ring: Ring, index: number, length: number | null, status: number): void {
    const random = this.#random;
    const words = this.#words(ring.at(index));
    if (words === null) return;
    let [low, high] = [length, status];
    if (random.chance(this.behaviour.hostility)) {
      this.hostileDescriptors++;
      const how = random.below(5);
      if (how === 0) low = random.next();
      else if (how === 1) high = random.next() | DONE;
      else if (how === 2) high = DONE;
      else if (how === 3) high |= random.next() & 0xff00;
      else [low, high] = [random.next(), random.next() | DONE];
      if (random.chance(0.2)) words.fill(random.next(), 0, 2);
    }
    // A descriptor that was written back without a fetch stays done: the driver may own its buffer again.
    if (!ring.held.has(index)) high |= DONE;
    if (low !== null) words[2] = low;
    if ((high & DONE) !== 0) this.#complete(ring, index);
    Atomics.store(words, 3, high >>> 0);
  }

  #complete(ring: Ring, index: number): void {
    const held = ring.held.get(index);
    if (held === undefined) return;
    ring.held.delete(index);
    this.#dma.release(held.grant);
  }

  /** Writes back any descriptor of the ring, fetched or not, done or not. */
  #vandalize(ring: Ring): void {
    const random = this.#random;
    for (let n = 1 + random.below(ring.size); n > 0; n--) {
      const index = random.chance(0.7) ? (ring.head + n) % ring.size : random.below(ring.size);
      this.#writeBack(ring, index, random.next(), random.chance(0.8) ? random.next() | 1 : 0);
    }
    this.#raise(CAUSE.received | CAUSE.overrun);
    if (random.chance(0.1)) ring.head = random.below(ring.size);
  }
}
