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
  /** MPC: packets lost since the card's own memory was full. (QEMU counts here only what does not fit into the ring.) */
  readonly missedPackets: number;
  /** RNBC: packets that found no free descriptor; those that could wait in the card's memory are not lost. */
  readonly noBuffers: number;
}

/** What the card and the driver counted since the driver was opened. */
export interface E1000Statistics extends E1000Counters {
  /** Packets that `receive` gave to the user, and their bytes. */
  readonly received: number;
  readonly receivedBytes: number;
  /** Packets that were received damaged, or in several buffers, and dropped. */
  readonly dropped: number;
  /** How often `receive` left a packet in the ring for want of a fresh buffer. */
  readonly starved: number;
  /** Packets that the card says to be out, and their bytes. */
  readonly sent: number;
  readonly sentBytes: number;
  /** Packets that the card gave up. */
  readonly failed: number;
}

/** Adds the counters up. */
export class Counters {
  readonly #bar: Bar;
  readonly #totals: Record<CounterName, number>;

  constructor(bar: Bar) {
    this.#bar = bar;
    const names = [...Object.keys(COUNTERS), ...Object.keys(WIDE_COUNTERS)] as CounterName[];
    this.#totals = Object.fromEntries(names.map((name) => [name, 0])) as Record<CounterName, number>;
  }

  /** Reads all counters. What they had counted before the first call is none of ours. */
  async clear(): Promise<void> {
    await this.read();
    for (const name of Object.keys(this.#totals) as CounterName[]) this.#totals[name] = 0;
  }

  /** Reads all counters, the reads behind one another on their way. */
  async read(): Promise<E1000Counters> {
    const totals = this.#totals;
    const add = async (name: CounterName, low: number, high?: number): Promise<void> => {
      const [lower, upper] = await Promise.all([
        this.#bar.read32(low),
        high === undefined ? 0 : this.#bar.read32(high),
      ]);
      totals[name] += lower + upper * 0x1_0000_0000;
    };
    const entries = <T extends CounterName>(from: Readonly<Record<T, number>>): [T, number][] =>
      Object.entries(from) as [T, number][];
    await Promise.all([
      ...entries(COUNTERS).map(([name, offset]) => add(name, offset)),
      // Reading the upper half clears both (13.7).
      ...entries(WIDE_COUNTERS).map(([name, offset]) => add(name, offset, offset + 4)),
    ]);
    return { ...totals };
  }
}
