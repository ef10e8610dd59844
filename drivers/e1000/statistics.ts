/** The card's counters (manual, 13.7). Reading clears them, so what was read is added up here. */
import type { Bar } from 'dmapool/pci';

/** Offsets by name; of a counter of 64 bits that of its lower half, which is read first. */
const COUNTERS = {
  crcErrors: 0x4000,
  alignmentErrors: 0x4004,
  symbolErrors: 0x4008,
  receiveErrors: 0x400c,
  missedPackets: 0x4010,
  collisions: 0x4028,
  sequenceErrors: 0x4038,
  lengthErrors: 0x4040,
  goodPacketsReceived: 0x4074,
  broadcastPacketsReceived: 0x4078,
  multicastPacketsReceived: 0x407c,
  goodPacketsTransmitted: 0x4080,
  noBuffers: 0x40a0,
  undersize: 0x40a4,
  fragments: 0x40a8,
  oversize: 0x40ac,
  jabber: 0x40b0,
  packetsReceived: 0x40d0,
  packetsTransmitted: 0x40d4,
} as const;

/** Good octets received and transmitted: 64 bits. */
const WIDE_COUNTERS = { goodBytesReceived: 0x4088, goodBytesTransmitted: 0x4090 } as const;

type CounterName = keyof typeof COUNTERS | keyof typeof WIDE_COUNTERS;

/** What the card counted since the driver was opened. Bytes include the Ethernet checksum, 4 bytes a packet. */
export interface E1000Counters extends Readonly<Record<CounterName, number>> {
  /** MPC: packets lost since the card's own memory was full. */
  readonly missedPackets: number;
  /** RNBC: packets that found no free descriptor; those that could wait in the card's memory are not lost. */
  readonly noBuffers: number;
}

/** What the card and the driver counted since the driver was opened. */
export interface E1000Statistics extends E1000Counters {
  /** Packets that `receive` gave to the user. */
  readonly received: number;
  /** Their bytes. */
  readonly receivedBytes: number;
  /** Packets that were received damaged, too long, or in several buffers, and dropped. */
  readonly dropped: number;
  /** How often `receive` left a packet in the ring for want of a fresh buffer. */
  readonly starved: number;
  /** Packets that the card says to be out. */
  readonly sent: number;
  /** Their bytes. */
  readonly sentBytes: number;
  /** Packets that the card gave up. */
  readonly failed: number;
}

/** One counter of 32 bits. */
interface Narrow {
  readonly name: keyof typeof COUNTERS;
  readonly offset: number;
  /**
   * Whether reading clears it, as the manual says of all. It does not with some of QEMU's (MPC, RNBC). The first value
   * other than 0 tells: it is read twice.
   */
  clears: boolean | undefined;
  /** What was read last, if reading does not clear. */
  last: number;
}

/** Adds the counters up. */
export class Counters {
  readonly #bar: Bar;
  readonly #totals: Record<CounterName, number>;
  readonly #narrow: readonly Narrow[];
  #reading: Promise<E1000Counters> | null = null;

  constructor(bar: Bar) {
    this.#bar = bar;
    const names = [...Object.keys(COUNTERS), ...Object.keys(WIDE_COUNTERS)] as CounterName[];
    this.#totals = Object.fromEntries(names.map((name) => [name, 0])) as Record<CounterName, number>;
    const entries = Object.entries(COUNTERS) as [keyof typeof COUNTERS, number][];
    this.#narrow = entries.map(([name, offset]) => ({ name, offset, clears: undefined, last: 0 }));
  }

  /** Reads all counters. What they had counted before the first call is none of ours. */
  async clear(): Promise<void> {
    await this.read();
    for (const name of Object.keys(this.#totals) as CounterName[]) this.#totals[name] = 0;
  }

  /** Reads all counters, the reads behind one another on their way. Who comes while they are read shares the answer. */
  read(): Promise<E1000Counters> {
    return (this.#reading ??= this.#read().finally(() => {
      this.#reading = null;
    }));
  }

  async #read(): Promise<E1000Counters> {
    const { goodBytesReceived, goodBytesTransmitted } = WIDE_COUNTERS;
    await Promise.all([
      ...this.#narrow.map((counter) => this.#addNarrow(counter)),
      this.#addWide('goodBytesReceived', goodBytesReceived),
      this.#addWide('goodBytesTransmitted', goodBytesTransmitted),
    ]);
    return { ...this.#totals };
  }

  async #addNarrow(counter: Narrow): Promise<void> {
    const { name, offset } = counter;
    let value = await this.#bar.read32(offset);
    if (counter.clears === undefined) {
      if (value === 0) return;
      const again = await this.#bar.read32(offset);
      counter.clears = again < value;
      value = counter.clears ? value + again : again;
    }
    this.#totals[name] += value - counter.last;
    if (!counter.clears) counter.last = value;
  }

  async #addWide(name: keyof typeof WIDE_COUNTERS, offset: number): Promise<void> {
    // Reading the upper half clears both, so it comes second (13.7).
    const [lower, upper] = await Promise.all([this.#bar.read32(offset), this.#bar.read32(offset + 4)]);
    this.#totals[name] += lower + upper * 0x1_0000_0000;
  }
}
